"""How gunicorn runs the gateway; scripts/serve.py adds address and log, and the folder PROMETHEUS_MULTIPROC_DIR."""

import gc
import os
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

COUNTS = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])

wsgi_app = "gateway:create_app()"
worker_class = "gevent"  # a slow client costs a greenlet, not a thread
workers = 2
worker_connections = 2000
worker_tmp_dir = str(COUNTS)
keepalive = 20  # seconds; longer than most clients keep a connection, so that none is closed as they send
graceful_timeout = 30  # seconds for requests in flight after SIGTERM
control_socket_disable = True  # two gateways of one user would share it


def on_starting(server: Any) -> None:
    """Begin to count anew: the processes of a gateway that was killed took no leave."""
    COUNTS.mkdir(parents=True, exist_ok=True)
    for file in COUNTS.glob("*.db"):
        file.unlink()


def child_exit(server: Any, worker: Any) -> None:
    """Keep what a process has counted, and forget what waited in it."""
    COUNTS.mkdir(parents=True, exist_ok=True)  # for the next process: it may have been tidied away
    mark_process_dead(worker.pid)


def post_worker_init(worker: Any) -> None:
    """Spare the collector what lives as long as the process, and let it come a tenth as often."""
    gc.freeze()
    gc.set_threshold(10_000)

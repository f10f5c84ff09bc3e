"""How gunicorn runs the gateway; scripts/serve.py adds the address, and the folder PROMETHEUS_MULTIPROC_DIR."""

import gc
import os
import resource
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

OTHER_DESCRIPTORS = 56  # of a process: logs, metrics, pipes, and its calls to the model


def connections(wanted: int) -> int:
    """Return how many connections the limit on open files allows; raises that limit as far as it may.

    A connection takes two descriptors, because it may ask TorchServe what it serves.
    """
    needed = OTHER_DESCRIPTORS + 2 * wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(1, (soft - OTHER_DESCRIPTORS) // 2))


wsgi_app = "gateway:create_app()"
worker_class = "gevent"  # a slow client costs a greenlet, not a thread
workers = 2
worker_connections = connections(2000)
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a sign of life, which needs no disk
keepalive = 20  # seconds; longer than most clients keep a connection, so that none is closed as they send
graceful_timeout = 30  # seconds for requests in flight after SIGTERM
control_socket_disable = True  # two gateways of one user would share it


def on_starting(server: Any) -> None:
    """Begin to count anew: the processes of a gateway that was killed took no leave."""
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db"):
        file.unlink()


def child_exit(server: Any, worker: Any) -> None:
    """Keep what a process has counted, and forget what waited in it."""
    mark_process_dead(worker.pid)


def post_worker_init(worker: Any) -> None:
    """Spare the collector what lives as long as the process, and let it come a tenth as often."""
    gc.freeze()
    gc.set_threshold(10_000)

"""How gunicorn runs the gateway; scripts/serve.py adds the address, and the folder PROMETHEUS_MULTIPROC_DIR."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gevent import Greenlet, Timeout, get_hub, getcurrent
from gunicorn.workers.ggevent import GeventWorker
from prometheus_client.multiprocess import mark_process_dead

wsgi_app = "gateway:create_app()"
workers = 2
worker_connections = 2000
keepalive = 75  # seconds; longer than balancers keep a connection (60), so that none is closed as they send
graceful_timeout = 30  # seconds for requests in flight after SIGTERM
control_socket_disable = True  # two gateways of one user would share it
IDLE = 1.0  # seconds without a request, after which a connection is closed when the process stops


class Worker(GeventWorker):
    """A process in which a slow client costs a greenlet, not a thread, and that waits for no idle client to stop."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting: dict[Greenlet, tuple[Timeout, float]] = {}

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Bound the time in which a connection waits for its next request."""
        with super().timeout_ctx() as timeout:
            self._waiting[getcurrent()] = timeout, time.monotonic()
            try:
                yield
            finally:
                del self._waiting[getcurrent()]

    def notify(self) -> None:
        """Give the sign of life, which comes every second. End what waits, if the process stops."""
        super().notify()
        if not self.alive:
            get_hub().loop.run_callback(self._close_idle)

    def _close_idle(self) -> None:
        for greenlet, (timeout, since) in list(self._waiting.items()):
            if since < time.monotonic() - IDLE:
                greenlet.throw(timeout)


worker_class = Worker


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

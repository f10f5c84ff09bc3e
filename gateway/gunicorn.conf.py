"""How gunicorn runs the gateway.

scripts/serving/product.py adds address and log, and the folder PROMETHEUS_MULTIPROC_DIR.
"""

import gc
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gevent import Greenlet, Timeout, get_hub, getcurrent
from gunicorn.http.errors import ParseException
from gunicorn.workers.ggevent import GeventWorker
from prometheus_client.multiprocess import mark_process_dead

from gateway.limits import MAX_BODY_BYTES

COUNTS = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
PIECE_BYTES = 256 * 1024
UNREAD_SECONDS = 20  # for a client to send it
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


wsgi_app = "gateway.app:create_app()"
workers = 2
worker_connections = connections(2000)
worker_tmp_dir = str(COUNTS)
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
    """Remove the counts that a killed gateway has left, and begin to count from zero."""
    COUNTS.mkdir(parents=True, exist_ok=True)
    for file in COUNTS.glob("*.db"):
        file.unlink()


def child_exit(server: Any, worker: Any) -> None:
    """Keep what a process has counted, and forget what waited in it."""
    COUNTS.mkdir(parents=True, exist_ok=True)  # for the next process: it may have been tidied away
    mark_process_dead(worker.pid)


def post_request(worker: Any, req: Any, environ: dict[str, Any], resp: Any) -> None:
    """Read what is left of a refused body, so that its client, who may still be sending, hears the answer.

    gunicorn would read it too, but in pieces of 1 kB, for which it takes a second of CPU for 10 MB.
    """
    left = 0 if req.body.failed else MAX_BODY_BYTES
    with Timeout(UNREAD_SECONDS, False), suppress(OSError, ParseException):
        while left > 0 and (data := req.body.read(PIECE_BYTES)):
            left -= len(data)
        if left > 0:
            return
    req.force_close()


def post_worker_init(worker: Any) -> None:
    """Spare the collector what lives as long as the process, and let it come a tenth as often."""
    gc.freeze()
    gc.set_threshold(10_000)

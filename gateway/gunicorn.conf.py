"""How gunicorn runs the gateway.

scripts/serving/product.py adds address and log, and the folder PROMETHEUS_MULTIPROC_DIR.
"""

import ctypes
import gc
import os
import resource
import shutil
import signal
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from gevent import GreenletExit, get_hub
from gunicorn.workers.ggevent import GeventWorker
from prometheus_client.multiprocess import mark_process_dead

from gateway.sharing import Counts, SharingServer

COUNTS = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
SHARED = Counts()
OTHER_DESCRIPTORS = 56  # of a process: logs, metrics, pipes, and its calls to the model
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_memory(largest: int, least_returned: int) -> None:
    """Have glibc keep pieces of up to `largest` bytes that are freed, and at most `least_returned` at the heap's end.

    So what a request frees serves the next one, but what a very large one took is given back. Otherwise the kernel
    clears each page again: 4,000 of them for a photo of 12 megapixels, a sixth of its CPU time. Another C library does
    as it likes.
    """
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(M_MMAP_THRESHOLD, largest)
        set_option(M_TRIM_THRESHOLD, least_returned)


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


keep_memory(2**20, 2**17)  # little while a model is loaded, which leaves much that no request needs
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

    keep_seconds = keepalive

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.waiting: dict[Any, float] = {}
        self.place = SHARED.take()

    def server_class(self, listener: Any, spawn: Any, **_: Any) -> SharingServer:
        """Return what accepts the connections; gunicorn calls this in the process."""
        return SharingServer(SHARED, self.place, listener, handle=partial(self.handle, listener), spawn=spawn)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection."""
        from gateway.connections import BASE, Connection  # after gevent has patched what they import

        server, port, *_ = listener.getsockname()
        place = {"SERVER_NAME": server, "SERVER_PORT": str(port), "REMOTE_ADDR": addr[0], "REMOTE_PORT": str(addr[1])}
        with closing(client), suppress(OSError, GreenletExit):
            Connection(client, self.wsgi, BASE | place, self).serve()

    def notify(self) -> None:
        """Give the sign of life, which comes every second. End what waits, if the process stops."""
        super().notify()
        if not self.alive:
            get_hub().loop.run_callback(self._close_idle)

    def _close_idle(self) -> None:
        for connection, since in list(self.waiting.items()):
            if since < time.monotonic() - IDLE:
                connection.close_idle()


worker_class = Worker


def on_starting(server: Any) -> None:
    """Remove the counts and images that a killed gateway has left, and begin to count from zero."""
    COUNTS.mkdir(parents=True, exist_ok=True)
    for file in [*COUNTS.glob("*.db"), *COUNTS.glob("*.rate")]:
        file.unlink()
    shutil.rmtree(COUNTS / "recent", ignore_errors=True)


def post_fork(server: Any, worker: Any) -> None:
    """Let SIGTERM end a process that does not serve yet: the handler that it has from its parent would end nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def child_exit(server: Any, worker: Any) -> None:
    """Keep what a process has counted, and forget what waited in it."""
    COUNTS.mkdir(parents=True, exist_ok=True)  # for the next process: it may have been tidied away
    mark_process_dead(worker.pid)
    SHARED.leave(worker.place)
    shutil.rmtree(COUNTS / "recent" / str(worker.pid), ignore_errors=True)


def post_worker_init(worker: Any) -> None:
    """Give back what only loading needed, and keep memory from now on.

    Spare the collector what lives as long as the process, and let it come a tenth as often.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # a network's file and its first form, 40 MB of the default's
    keep_memory(4 * 2**20, 8 * 2**20)  # most photos from a camera are smaller
    gc.freeze()
    gc.set_threshold(10_000)

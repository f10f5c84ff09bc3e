"""How gunicorn runs the gateway; scripts/serve.py adds the address."""

import gc
from typing import Any

wsgi_app = "gateway:create_app()"
worker_class = "gevent"  # a slow client costs a greenlet, not a thread
workers = 2
worker_connections = 2000
keepalive = 20  # seconds; longer than most clients keep a connection, so that none is closed as they send
graceful_timeout = 30  # seconds for requests in flight after SIGTERM
control_socket_disable = True  # two gateways of one user would share it


def post_worker_init(worker: Any) -> None:
    """Spare the collector what lives as long as the process, and let it come a tenth as often."""
    gc.freeze()
    gc.set_threshold(10_000)

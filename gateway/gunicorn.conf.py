"""How gunicorn runs the gateway; scripts/serve.py adds the address."""

wsgi_app = "gateway:create_app()"
worker_class = "gevent"  # a slow client costs a greenlet, not a thread
workers = 2
worker_connections = 1000
graceful_timeout = 30  # seconds for requests in flight after SIGTERM
control_socket_disable = True  # two gateways of one user would share it

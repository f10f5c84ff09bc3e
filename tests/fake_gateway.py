"""A server that answers as a test has it, for what the real gateway and proxies cannot be made to answer."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

RED = {"predicted_class": "red", "confidence": 1.0, "class_probabilities": {"red": 1.0}, "success": True}
CLASSES = {"classes": ["red"], "total_classes": 1}
Reply = tuple[int, object]  # a status, and bytes or what becomes JSON
HTML = b"<html><body>What nginx says</body></html>"


@contextmanager
def answering(reply: Callable[[BaseHTTPRequestHandler, bytes], Reply], tls: Path | None = None) -> Iterator[str]:
    """Serve what `reply` makes of a request and its body until the block ends; yields the address without a scheme."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = reply(self, body)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Length": len(content), "Retry-After": 0, "Location": "/login?secret"}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that do not like it
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def gateway_that(*posts: Reply, ready: Reply = (200, {})) -> Callable[[BaseHTTPRequestHandler, bytes], Reply]:
    """Return replies of a gateway: one after the other to what is posted, the last for ever."""
    left = list(posts)

    def reply(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        if request.command == "GET":
            return ready if request.path == "/ready" else (200, CLASSES)
        return left.pop(0) if len(left) > 1 else left[0]

    return reply

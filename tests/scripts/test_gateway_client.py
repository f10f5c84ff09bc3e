"""The gateway's client: what fails alone, and what is asked again."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from scripts.gateway_client import Gateway
from tests.drawing import draw, encode
from tests.stack import Stack


def test_a_file_that_cannot_be_read_fails_alone(stack: Stack, tmp_path: Path) -> None:
    paths = [tmp_path / "one.png", tmp_path / "gone.png", tmp_path / "two.png"]
    for path, colour in zip(paths, ("red", "red", "blue"), strict=True):
        path.write_bytes(encode(draw(colour, 1)))
    gateway = Gateway(stack.url, 1)
    paths[1].unlink()
    one, gone, two = gateway.predict(paths)
    assert (one["predicted_class"], two["predicted_class"]) == ("red", "blue")
    assert "No such file" in gone["error"]


def test_asks_again_where_the_gateway_is_busy(tmp_path: Path) -> None:
    asked: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            body = b'{"predicted_class": "red"}' if len(asked) > 2 else b'{"error": "busy"}'
            self.send_response(200 if len(asked) > 2 else 503)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "image").write_bytes(b"bytes")
    answer = Gateway(f"http://127.0.0.1:{server.server_port}", 1).predict([tmp_path / "image"])
    server.shutdown()
    server.server_close()
    assert answer == [{"predicted_class": "red"}]
    assert asked == ["/predict"] * 3

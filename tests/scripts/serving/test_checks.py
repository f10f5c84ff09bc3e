"""The doctor's look at whatever answers on the gateway's port."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import patch

import pytest

from gateway.keys import add_client
from scripts.serving import checks, served
from scripts.serving.defaults import EMBEDDED, TORCHSERVE
from tests.fake_backend import serving
from tests.stack import ROOT, free_ports


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """Another program on a port of this machine; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", free_ports(1)[0]), Handler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"


def gateway(url: str, run: Path = ROOT / ".run") -> tuple[bool, str]:
    found = checks._finding("gateway", lambda: checks._gateway(url, ROOT / "config.properties", run, "my.mar"))
    return found.right, found.said


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"status": "healthy"}', 200),
        (b'["ok"]', 200),
        (b"<html>Grafana</html>", 200),
        (b"\xff\xfe", 200),
        (b"[" * 90_000, 200),
        (b"", 302),
        (b'{"error": "unauthorized"}', 401),
    ],
)
@pytest.mark.usefixtures("_no_garbage")
def test_another_program_on_the_port(body: bytes, status: int) -> None:
    with answering(body, status) as url:
        right, said = gateway(url)
    assert not right
    assert said.startswith(f"The gateway does not answer at {url} (")
    assert "take another port with 'classifier serve --port 5002'" in said


def test_a_server_without_a_model_is_told_how_to_get_one() -> None:
    with answering(b'{"status": "unavailable", "reason": "No model is registered."}', 503) as url:
        assert gateway(url) == (
            False,
            "It runs, but no model is registered; run 'classifier models register my.mar'.",
        )


def test_a_gateway_that_asks_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = add_client(tmp_path / "keys", "ann")
    with serving(API_KEYS_FILE=str(tmp_path / "keys")) as url:
        assert gateway(url) == (False, f"The gateway at {url} asks for an API key: set CLASSIFIER_KEY to yours.")
        monkeypatch.setenv("CLASSIFIER_KEY", key)
        assert gateway(url) == (True, "serves fake, version 1.0, with 1 workers")
        monkeypatch.setenv("CLASSIFIER_KEY", "wrong")
        assert gateway(url)[1].endswith("does not take the API key that was sent: ask for a new one.")


def test_without_torchserve_its_ports_may_be_taken(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = tmp_path / "config.properties"
        config.write_text(f"inference_address=http://127.0.0.1:{taken.getsockname()[1]}\n")
        url = f"http://127.0.0.1:{port}"
        for backend, right in ((EMBEDDED, True), (TORCHSERVE, False)):
            (tmp_path / served.FILE).write_text(json.dumps({"backend": backend}))
            assert checks._finding("gateway", lambda: checks._gateway(url, config, tmp_path, "my.mar")).right == right


def test_a_program_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as silent, patch.object(checks, "TIMEOUT_SECONDS", 0.2):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert gateway(url)[1].startswith(f"The gateway does not answer at {url} (timed out): stop the program")


def test_a_program_that_speaks_something_else() -> None:
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as server:
        Thread(target=lambda: server.accept()[0].sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert "(SSH-2.0-OpenSSH_9.2" in gateway(url)[1]


@pytest.mark.parametrize("url", ["", "localhost:5001", "http://"])
def test_what_is_no_url(url: str) -> None:
    assert "is no URL; name one with --url" in gateway(url)[1]

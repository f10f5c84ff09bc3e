"""What a client is told when TorchServe fails: faults that the real one cannot be made to show, and its absence."""

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import ANY

import pytest
from flask.testing import FlaskClient

from gateway.app import create_app
from tests.drawing import draw, encode
from tests.stack import write_config

KEYS = json.dumps({kind: {"key": "k"} for kind in ("inference", "management", "API")})
PICTURE = encode(draw("red", 1))
Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(status: int, body: bytes) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def torchserve_error(status: int, message: str) -> Answer:
    body = {"code": status, "type": "org.pytorch.serve.SomeException", "message": message}
    return reply(status, json.dumps(body).encode())


def slow(request: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)


def reset(request: BaseHTTPRequestHandler) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)
    request.close_connection = True


def half(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"predicted_class"')
    request.close_connection = True


FAULTS = {
    "queue full": (torchserve_error(503, "Model has no worker to serve inference request."), 503),
    "worker died": (torchserve_error(500, "Worker died."), 503),
    "worker killed": (torchserve_error(507, "Worker died."), 503),
    "no such model": (torchserve_error(404, "Model not found: classifier"), 503),
    "garbage": (reply(200, b"\x00garbage"), 503),
    "reset": (reset, 503),
    "half a reply": (half, 503),
    "slow": (slow, 504),
}


@pytest.fixture
def faulty(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FlaskClient]:
    """The gateway before a TorchServe that answers everything as the test's parameter says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request.param(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    config = write_config(tmp_path / "config.properties", inference_address=address, management_address=address)
    key_file = tmp_path / "key_file.json"
    key_file.write_text(KEYS)
    yield create_app({"TORCHSERVE_CONFIG": config, "KEY_FILE": key_file, "TIMEOUT": 1}).test_client()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("faulty", "status"), FAULTS.values(), ids=FAULTS, indirect=["faulty"])
def test_faults_of_torchserve(faulty: FlaskClient, status: int) -> None:
    started = time.monotonic()
    response = faulty.post("/predict", data={"file": (io.BytesIO(PICTURE), "picture.png")})
    assert time.monotonic() < started + 10  # a bound on hanging; a busy machine takes its time
    assert response.status_code == status
    assert response.get_json()["success"] is False
    assert response.headers.get("Retry-After") == ("1" if status == 503 else None)
    for inside in ("Worker", "classifier", "pytorch", "garbage", "127.0.0.1"):
        assert inside not in response.text
    assert faulty.get("/live").status_code == 200
    assert faulty.get("/ready").status_code == 503
    health = faulty.get("/health")
    assert health.status_code == 503
    assert health.get_json() == {"status": "unavailable", "reason": ANY, "model_loaded": False, "device": "unknown"}


@pytest.mark.parametrize("keys", [None, "", '{"inference": {', "[]", "{}", KEYS])
def test_torchserve_is_not_there(tmp_path: Path, keys: str | None) -> None:
    key_file = tmp_path / "key_file.json"
    if keys is not None:
        key_file.write_text(keys)  # it is rewritten in place, so it can be met half-written
    config = write_config(tmp_path / "config.properties")
    client = create_app({"TORCHSERVE_CONFIG": config, "KEY_FILE": key_file}).test_client()
    responses = [client.get("/health"), client.get("/classes"), client.get("/ready")]
    responses.append(client.post("/predict", data={"file": (io.BytesIO(PICTURE), "picture.png")}))
    for response in responses:
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
    assert responses[0].get_json()["model_loaded"] is False


@pytest.mark.parametrize("faulty", [FAULTS["no such model"][0]], indirect=True)
def test_every_route_says_that_there_is_no_model(faulty: FlaskClient) -> None:
    encoded = {"image": base64.b64encode(PICTURE).decode()}
    replies = [faulty.get(f"/{path}") for path in ("health", "ready", "classes", "model", "models")]
    for path in ("predict", "explain", "predict?version=1.0", "explain?version=1.0"):
        replies.append(faulty.post(path, data={"file": (io.BytesIO(PICTURE), "picture.png")}))
    replies.append(faulty.post("/predict", data={"file": [(io.BytesIO(PICTURE), "picture.png") for _ in range(2)]}))
    replies.append(faulty.post("/predict_base64", json=encoded))
    for reply in replies:
        body = reply.get_json()
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert (body.get("error") or body["reason"]) == "No model is registered."


def test_an_unforeseen_failure_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app({"TORCHSERVE_CONFIG": write_config(tmp_path / "config.properties")})
    app.testing = False
    monkeypatch.setattr(app.extensions["backend"], "details", lambda: 1 / 0)
    response = app.test_client().get("/classes")
    assert response.status_code == 500
    assert set(response.get_json()) == {"error", "success"}
    assert "division" not in response.text

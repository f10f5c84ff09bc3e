"""Who may ask: with a right key everyone, with anything else nobody, and each client as often as its line allows."""

import io
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gevent
import pytest
import requests
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gateway import app, keys
from gateway.app import create_app
from gateway.backend import Prediction
from gateway.keys import BadKeys, Client, Rates, add_client, read_clients
from scripts.serving.defaults import EMBEDDED
from tests.drawing import draw, encode
from tests.fake_backend import FakeBackend, prediction
from tests.stack import Stack, serve

PICTURE = encode(draw("red", 1))
PROTECTED = (
    "/predict",
    "/predict_base64",
    "/explain",
    "/health",
    "/classes",
    "/model",
    "/models",
    "/metrics",
    "/v2/models/classifier",
)
POSTS = PROTECTED[:3]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def key(file: Path) -> str:
    return add_client(file, "ann")


def gateway(monkeypatch: pytest.MonkeyPatch, file: Path, **settings: object) -> FlaskClient:
    monkeypatch.setattr(app, "_backend", lambda config: FakeBackend())
    return create_app({"API_KEYS_FILE": str(file), **settings}).test_client()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, file: Path, key: str) -> FlaskClient:
    return gateway(monkeypatch, file)


def test_a_full_gateway_counts_and_names_whom_it_refuses_at_once(
    client: FlaskClient, key: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    counted = Mock()
    monkeypatch.setattr("gateway.metrics.count_client", counted)
    monkeypatch.setattr("gateway.limits.MAX_WAITING_IMAGES", 0)
    for sent, name in ((key, "ann"), ("another", None)):
        assert ask(client, **{"X-API-Key": sent}).status_code == 503
        gevent.sleep(0)  # a turn of the loop, which writes the log
        assert json.loads(capfd.readouterr().out.splitlines()[-1])["client"] == name
    counted.assert_called_once_with("ann", 503)


def ask(client: FlaskClient, path: str = "/predict", **headers: str) -> TestResponse:
    if path not in POSTS:
        return client.get(path, headers=headers)
    if path == "/predict_base64":
        return client.post(path, json={"image": "YQ=="}, headers=headers)
    return client.post(path, data={"file": (io.BytesIO(b"a"), "image")}, headers=headers)


@pytest.mark.parametrize("path", PROTECTED)
def test_whatever_tells_of_the_model_needs_a_key(client: FlaskClient, key: str, path: str) -> None:
    refused = ask(client, path)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].lower().startswith("bearer")
    assert refused.get_json() == {"error": keys.NEEDED, "success": False}
    assert ask(client, path, Authorization=f"Bearer {key}").status_code == 200
    assert ask(client, path, **{"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/script.js", "/live", "/ready", "/swagger/", "/swagger.json", "/v2/health/ready"]
)
def test_the_page_and_balancers_need_none(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 200


def test_prometheus_may_be_let_in_without_one(monkeypatch: pytest.MonkeyPatch, file: Path, key: str) -> None:
    client = gateway(monkeypatch, file, OPEN_METRICS=1)
    assert ask(client, "/metrics").status_code == 200
    assert ask(client, "/health").status_code == 401


def test_a_page_of_another_origin_asks_before_it_sends_its_key(client: FlaskClient) -> None:
    asked = {"Origin": "null", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    allowed = client.options("/predict", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Headers"].lower() == "x-api-key"
    refused = ask(client, Origin="null")
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "null")


def test_without_a_file_everyone_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_backend", lambda config: FakeBackend())
    assert ask(create_app().test_client(), **{"X-API-Key": "anything"}).status_code == 200


def test_keys_are_followed_as_the_file_changes(
    client: FlaskClient, file: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    new = add_client(file, "ann")
    both = [ask(client, "/health", **{"X-API-Key": each}).status_code for each in (key, new)]
    file.write_text(file.read_text().splitlines()[1])
    one = [ask(client, "/health", **{"X-API-Key": each}).status_code for each in (key, new)]
    assert (both, one) == ([200, 200], [401, 200])
    with caplog.at_level(logging.ERROR):
        file.write_text("ann 123")
        assert ask(client, "/health", **{"X-API-Key": new}).status_code == 200
        file.unlink()
        assert ask(client, "/health", **{"X-API-Key": new}).status_code == 200
    assert [record.message.partition(":")[0] for record in caplog.records] == ["The keys have not changed"] * 2


@pytest.mark.parametrize(
    "line", ["ann", "ann 12", f"ann {'0' * 63}g", f"a/b {'0' * 64}", f"ann {'0' * 64} 0", f"ann {'0' * 64} -1", "ä b"]
)
def test_a_file_that_is_no_good_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, file: Path, line: str) -> None:
    file.write_text(f"# clients\n\n{line}\n")
    with pytest.raises(BadKeys, match=r"line 3|cannot be read"):
        gateway(monkeypatch, file)


def test_a_file_that_is_not_there_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    with pytest.raises(BadKeys, match="cannot be read"):
        gateway(monkeypatch, file)


def test_a_file_that_somebody_edited_stays_one(file: Path, key: str) -> None:
    file.write_text(file.read_text().rstrip())
    add_client(file, "bo")
    assert [client.name for client in read_clients(file)] == ["ann", "bo"]


def test_a_probe_without_a_key_fills_no_queue(monkeypatch: pytest.MonkeyPatch, file: Path, key: str) -> None:
    asked = []

    def predict(backend: FakeBackend, image: bytes, version: str | None = None) -> Prediction:
        asked.append(image)
        return prediction("cat")

    monkeypatch.setattr(FakeBackend, "predict", predict)
    client = gateway(monkeypatch, file)
    assert {client.get(path).status_code for path in ["/ready", "/v2/health/ready"] * 20} == {200}
    assert len(asked) == 1


def test_a_new_key_is_its_owners_alone(file: Path, key: str) -> None:
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert [(client.name, client.rate) for client in read_clients(file)] == [("ann", None)]
    with pytest.raises(BadKeys, match="cannot name a client"):
        add_client(file, "two words")


def test_a_rate_that_cannot_be_counted_refuses_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not Rates(tmp_path / "gone").seconds_to_wait(Client("bo", b"", 2.0))
    assert "The requests of bo cannot be counted, so they have no limit" in caplog.text


def test_a_client_keeps_its_rate_with_a_new_key(file: Path) -> None:
    add_client(file, "camera", rate=5)
    add_client(file, "camera")
    add_client(file, "ann")
    add_client(file, "camera", rate=7)
    add_client(file, "camera")
    assert [client.rate for client in read_clients(file) if client.name == "camera"] == [5, 5, 7, 7]
    assert read_clients(file)[2].rate is None


def test_a_client_above_its_rate_comes_again_when_it_is_told(
    monkeypatch: pytest.MonkeyPatch, file: Path, key: str
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(file.parent))
    slow = add_client(file, "bo", rate=4)
    processes = [gateway(monkeypatch, file) for _ in range(2)]  # each has its own gate, but they share the rate
    assert {ask(processes[0], "/health", **{"X-API-Key": slow}).status_code for _ in range(20)} == {
        200
    }  # costs nothing
    replies = [ask(processes[at % 2], **{"X-API-Key": slow}) for at in range(8)]
    assert [reply.status_code for reply in replies] == [200] * 4 + [429] * 4
    assert replies[-1].headers["Retry-After"] == "1"
    assert "4 requests a second" in replies[-1].get_json()["error"]
    assert ask(processes[0], **{"X-API-Key": key}).status_code == 200
    time.sleep(0.3)
    again = [ask(process, **{"X-API-Key": slow}).status_code for process in processes]
    assert sorted(again) == [200, 429]


def test_the_log_and_the_metrics_name_the_client(
    client: FlaskClient, key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(client, "/health", **{"X-API-Key": key, "X-Request-ID": "mine"})
    ask(client, "/health", **{"X-Request-ID": "nobody"})
    gevent.sleep(0)
    lines = map(json.loads, capfd.readouterr().out.splitlines())
    clients = {line["id"]: line["client"] for line in lines if line["id"] in ("mine", "nobody")}
    assert clients == {"mine": "ann", "nobody": None}
    counted = ask(client, "/metrics", **{"X-API-Key": key}).text
    assert 'classifier_client_requests_total{client="ann",status="200"}' in counted
    assert key not in counted


@pytest.fixture(scope="module")
def stack(archive: Path, workspace: Path) -> Iterator[Stack]:
    """The product of one process after another, with the keys of ann and bo, who may ask twice a second."""
    folder = workspace / "keyed"
    folder.mkdir()
    os.environ["GATEWAY_API_KEYS_FILE"] = str(folder / "keys")
    for name, rate in (("ann", None), ("bo", 2.0)):
        (folder / name).write_text(add_client(folder / "keys", name, rate))
    try:
        with serve(archive, folder, EMBEDDED) as running:
            yield running
    finally:
        del os.environ["GATEWAY_API_KEYS_FILE"]


def secret(stack: Stack, name: str) -> str:
    return (stack.run.parent / name).read_text()


def test_nobody_gets_in_with_anything_but_a_key(stack: Stack) -> None:
    """Attempts, each on a real connection: what they get is a refusal in the one shape, and nothing of the model."""
    key, other = secret(stack, "ann"), secret(stack, "bo")
    attempts: dict[str, dict[str, Any]] = {
        "nothing": {},
        "wrong": {"headers": {"X-API-Key": "wrong"}},
        "empty": {"headers": {"X-API-Key": "", "Authorization": ""}},
        "cut": {"headers": {"X-API-Key": key[:-1]}},
        "longer": {"headers": {"X-API-Key": key + "A"}},
        "other case": {"headers": {"X-API-Key": key.swapcase()}},
        "its digest": {"headers": {"X-API-Key": (stack.run.parent / "keys").read_text().split()[1]}},
        "its line": {"headers": {"X-API-Key": (stack.run.parent / "keys").read_text().splitlines()[0]}},
        "its name": {"headers": {"Authorization": "Bearer ann"}},
        "query": {"params": {"key": key, "api_key": key, "access_token": key}},
        "cookie": {"cookies": {"X-API-Key": key, "Authorization": f"Bearer {key}"}},
        "other scheme": {"headers": {"Authorization": f"Token {key}"}},
        "no scheme": {"headers": {"Authorization": key}},
        "password": {"auth": ("ann", key)},
        "two": {"headers": {"X-API-Key": f"{key},{other}"}},
        "underscore": {"headers": {"X_API_KEY": key}},
        "10 kB": {"headers": {"X-API-Key": "A" * 10_000}},
        "10 kB behind it": {"headers": {"Authorization": f"Bearer {key}{'A' * 10_000}"}},
        "not ASCII": {"headers": {"X-API-Key": "\xff\xfe".encode("latin-1")}},
        "beside a wrong one": {"headers": {"X-API-Key": "wrong", "Authorization": f"Bearer {key}"}},
    }
    for name, sent in attempts.items():
        reply = requests.post(f"{stack.url}/predict", files={"file": PICTURE}, **sent)
        assert reply.status_code == 401, name
        assert reply.json().keys() == {"error", "success"}, name
        assert key not in reply.text, name
    twice = f"POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nX-API-Key: {key}\r\nContent-Length: 0\r\n\r\n"
    with stack.connect(5) as connection:
        connection.sendall(twice.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")
    with requests.Session() as session:  # a connection on which somebody got in lets nobody else in
        assert session.get(f"{stack.url}/health", headers={"X-API-Key": key}).status_code == 200
        assert session.get(f"{stack.url}/health").status_code == 401
    right = requests.post(f"{stack.url}/predict", files={"file": PICTURE}, headers={"Authorization": f"bearer {key}"})
    assert right.json()["predicted_class"] == "red"
    assert not [line for line in (stack.run / "gateway.log").read_text().splitlines() if key in line or other in line]


def test_a_rate_is_one_for_all_connections_and_processes(stack: Stack) -> None:
    headers = {"X-API-Key": secret(stack, "bo")}

    def ask_on_a_new_connection(_: int) -> int:
        return requests.post(f"{stack.url}/predict", files={"file": PICTURE}, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        started = time.monotonic()
        statuses = Counter(pool.map(ask_on_a_new_connection, range(40)))
        seconds = time.monotonic() - started
    assert statuses.keys() == {200, 429}
    assert 2 <= statuses[200] <= 2 + 2 * seconds + 1


def test_a_large_body_without_a_key_is_not_read(stack: Stack) -> None:
    """Its client hears the refusal before it has sent anything, if it asks first as curl does."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\nExpect: 100-continue\r\n"
    with stack.connect(5) as connection:
        connection.sendall(head + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")

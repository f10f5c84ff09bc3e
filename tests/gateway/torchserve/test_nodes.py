"""Several nodes, some of which are away: small servers that are counted, refuse, hang, or do not even connect."""

import contextlib
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import gevent
import pytest
from flask.testing import FlaskClient

from gateway import context
from gateway.app import create_app
from gateway.backend import TooSlow, Unavailable
from gateway.torchserve import nodes
from gateway.torchserve.api import Api
from gateway.torchserve.inference import Inference
from gateway.torchserve.management import Management
from gateway.torchserve.nodes import Nodes
from tests.stack import free_ports, wait_until

Answer = tuple[int, object]
PREDICTION = {
    "predicted_class": "red",
    "confidence": 1.0,
    "class_probabilities": {"red": 1.0},
    "in_distribution": True,
    "in_distribution_score": 0.9,
    "version": "1.0",
    "success": True,
}
DIES = 0  # instead of a status
DIED = {"code": 500, "type": "InternalServerException", "message": "Worker died."}
SLOW = (504, {"code": 504, "type": "NodeSlowException", "message": "No node has answered in time"})
FULL = {"code": 503, "type": "ServiceUnavailableException", "message": "No worker is available."}


class Server(ThreadingHTTPServer):
    """A node that counts what it is asked, and answers it with `answer(path)`, a status and JSON."""

    daemon_threads = True

    def __init__(self, answer: Callable[[str], Answer], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answer = answer
        self.asked: list[bytes] = []  # what was posted
        self.tokens: set[str] = set()
        self.traces: list[str | None] = []  # that were posted
        self.niceness: list[str | None] = []
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.command == "POST":
            self.server.asked.append(body)
            self.server.traces.append(self.headers.get("traceparent"))
            self.server.niceness.append(self.headers.get("niceness"))
        status, said = self.server.answer(self.path)
        if status == DIES:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        reply = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


def ready(path: str, predictions: Answer = (200, PREDICTION), status: str = "READY") -> Answer:
    """Answer for management as a node does whose worker has a status."""
    worker = {"id": "9000", "startTime": "now", "status": status}
    said = {"card": {"name": "drawn", "preprocessing": [], "calibration": {"in_distribution": {}}}, "device": "cpu"}
    if "limit" in path:
        return 200, {"models": [{"modelName": "classifier"}]}
    if path.startswith("/models/classifier/"):  # for a prediction, it thinks, as both APIs have one address
        return 404, {"code": 404, "type": "ResourceNotFoundException", "message": "Requested resource is not found"}
    if path.startswith("/models"):
        return 200, [{"modelVersion": "1.0", "workers": [worker], "customizedMetadata": said}]
    return predictions


def good(path: str) -> Answer:
    return ready(path)


def starting(path: str) -> Answer:
    return ready(path, status="UNLOADING")


def full(path: str) -> Answer:
    return 503, FULL


@contextlib.contextmanager
def serving(*answers: Callable[[str], Answer], port: int = 0) -> Iterator[list[Server]]:
    servers = [Server(answer, port) for answer in answers]
    try:
        yield servers
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def refusing() -> str:
    return f"http://127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture
def black_hole(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of what does not answer who wants to connect: its queue is full and nobody takes from it."""
    monkeypatch.setattr(nodes, "CONNECT_TIMEOUT", 0.5)
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


def ask(asked: Nodes) -> int:
    return asked.send("POST", "/predictions/classifier", b"image", {}).status


def several_nodes(addresses: list[str], token_file: Path) -> Inference:
    return Inference(Api.of_several_nodes(addresses, token_file, timeout=5))


def client(addresses: list[str], token_file: Path, timeout: float = 5) -> FlaskClient:
    settings = {"TORCHSERVE": ",".join(addresses), "TOKEN_FILE": str(token_file), "TIMEOUT": timeout}
    return create_app(settings).test_client()


def upload() -> dict[str, object]:
    return {"file": (io.BytesIO(b"image"), "image.png")}


def test_each_has_its_turn() -> None:
    with serving(good, good, good) as servers:
        several = Nodes([server.url for server in servers], timeout=5)
        assert {ask(several) for _ in range(12)} == {200}
        assert [len(server.asked) for server in servers] == [4, 4, 4]


def test_another_answers_for_one_that_refuses(refusing: str) -> None:
    with serving(good) as (server,):
        several = Nodes([refusing, server.url], timeout=5)
        assert {ask(several) for _ in range(10)} == {200}
        assert len(server.asked) == 10


def test_another_answers_for_one_without_workers_which_is_then_left_alone() -> None:
    with serving(full, good) as (without, server):
        several = Nodes([without.url, server.url], timeout=5)
        assert {ask(several) for _ in range(10)} == {200}
        assert len(without.asked) == 1


def test_one_that_comes_back_is_asked_again(refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "REST_SECONDS", 0.2)
    with serving(good) as (server,):
        several = Nodes([refusing, server.url], timeout=5)
        ask(several)
        with serving(good, port=int(refusing.rpartition(":")[2])) as (back,):
            wait_until(lambda: ask(several) == 200 and len(back.asked) > 3, seconds=5)


def test_one_that_is_killed_in_an_answer_is_replaced() -> None:
    with serving(good, good) as (first, second):
        several = Nodes([first.url, second.url], timeout=5)
        assert [ask(several), ask(several)] == [200, 200]
        first.answer = lambda path: (DIES, None)
        assert {ask(several) for _ in range(4)} == {200}


def test_a_black_hole_costs_one_request_once_in_a_while(black_hole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(_: int) -> float:
        started = time.monotonic()
        assert ask(several) == 200
        return time.monotonic() - started

    monkeypatch.setattr(nodes, "REST_SECONDS", 3.0)
    with serving(good) as (server,), ThreadPoolExecutor(8) as pool:
        several = Nodes([black_hole, server.url], timeout=5)
        assert 0.5 <= timed(0) < 1
        assert max(map(timed, range(20))) < 0.3
        time.sleep(3)
        took = list(pool.map(timed, range(40)))  # at once, its rest over: one tries
        assert sum(each >= 0.5 for each in took) == 1


def test_one_that_takes_too_long_is_not_asked_elsewhere() -> None:
    def slow(path: str) -> Answer:
        time.sleep(1)
        return 200, PREDICTION

    with serving(slow, good) as (hanging, server):
        several = Nodes([hanging.url, server.url], timeout=0.3)
        with pytest.raises(TooSlow):
            ask(several)
        assert not server.asked
        assert {ask(several) for _ in range(4)} == {200}  # as it is asked last from now on


def test_one_that_lets_the_time_of_a_request_pass_is_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(good, good) as (hanging, server):
        several = Nodes([hanging.url, server.url], timeout=5)
        with monkeypatch.context() as context:
            context.setattr(several._nodes[0]._client, "send", Mock(side_effect=gevent.Timeout()))
            with pytest.raises(gevent.Timeout):
                ask(several)
        assert {ask(several) for _ in range(4)} == {200}
        assert (len(hanging.asked), len(server.asked)) == (0, 4)


def test_a_large_image_may_take_longer_than_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that takes a large body slowly is no node that is away."""
    monkeypatch.setattr(nodes, "CONNECT_TIMEOUT", 0.3)
    monkeypatch.setattr("gateway.torchserve.client.TIMEOUT", 2)
    image = bytes(10_000_000)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        asked = Nodes([f"http://127.0.0.1:{listening.getsockname()[1]}"], timeout=5)

        def answer() -> None:
            connection, _ = listening.accept()
            time.sleep(1)  # longer than a connection may take
            received = 0
            while received < len(image):
                received += len(connection.recv(2**20))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        Thread(target=answer, daemon=True).start()
        assert asked.send("POST", "/predictions/classifier", image, {}).status == 200
        with pytest.raises(TooSlow):  # nobody takes the next one, on the same connection
            asked.send("POST", "/predictions/classifier", image, {})


def test_who_asks_knows_when_all_are_away(refusing: str) -> None:
    with pytest.raises(Unavailable):
        ask(Nodes([refusing, refusing], timeout=5))


@pytest.mark.parametrize("second", [SLOW, (503, FULL)], ids=["slow", "full"])
def test_a_proxy_that_waited_too_long_for_its_node_says_so(token_file: Path, second: Answer) -> None:
    with serving(lambda path: ready(path, SLOW), lambda path: ready(path, second)) as servers:
        asked = client([server.url for server in servers], token_file)
        statuses = {asked.post("/predict", data=upload()).status_code for _ in range(4)}
        assert statuses == {504, second[0]}


def test_what_one_node_is_too_slow_for_another_may_answer(token_file: Path) -> None:
    with serving(lambda path: ready(path, SLOW), good) as servers:
        assert several_nodes([server.url for server in servers], token_file).predict(b"image") == PREDICTION


def test_what_a_worker_had_is_asked_of_another_node_once(token_file: Path) -> None:
    with serving(lambda path: ready(path, (500, DIED)), good) as servers:
        torchserve = several_nodes([server.url for server in servers], token_file)
        assert torchserve.predict(b"image") == PREDICTION
        assert [len(server.asked) for server in servers] == [1, 1]


def test_a_name_is_asked_again_as_it_may_lead_to_another(token_file: Path) -> None:
    answers = iter([(503, FULL), (200, PREDICTION)])
    with serving(lambda path: ready(path, next(answers)) if path.startswith("/pred") else good(path)) as (server,):
        assert several_nodes([server.url], token_file).predict(b"image") == PREDICTION


def test_a_node_that_is_starting_is_asked_nothing_and_speaks_for_nobody(token_file: Path) -> None:
    with serving(starting, good) as (first, second):
        asked = client([first.url, second.url], token_file)
        states = [asked.get("/health").get_json() for _ in range(4)]
        assert {(state["status"], state["workers"]) for state in states} == {("healthy", 1)}
        assert {asked.post("/predict", data=upload()).status_code for _ in range(4)} == {200}
        assert (len(first.asked), len(second.asked)) == (0, 4)


def test_a_node_that_was_started_again_unseen_is_asked_when_it_is_ready(token_file: Path) -> None:
    with serving(good, good) as (first, second):
        torchserve = several_nodes([first.url, second.url], token_file)
        for _ in range(4):
            torchserve.predict(b"image")
        first.answer = lambda path: starting(path) if path.startswith("/models") else (DIES, None)
        before = len(first.asked)
        for _ in range(4):
            torchserve.predict(b"image")
        assert len(first.asked) == before + 1  # on the connection that ended, and not again


def test_a_client_is_told_to_come_again_when_all_are_away(refusing: str, token_file: Path) -> None:
    asked = client([refusing, refusing], token_file)
    started = time.monotonic()
    for reply in (asked.post("/predict", data=upload()), asked.get("/health"), asked.get("/ready")):
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    assert time.monotonic() - started < 5  # the time it has for a node that is silent


def test_a_node_is_not_changed_while_the_others_stay(token_file: Path) -> None:
    """Whoever knows several nodes can only read and predict; what changes a TorchServe knows that of one machine."""
    changes = {"register", "scale", "set_default", "unregister"}
    assert changes <= set(dir(Management))
    assert changes.isdisjoint(dir(several_nodes(["http://127.0.0.1:1", "http://127.0.0.1:2"], token_file)))


def test_a_trace_goes_on_to_torchserve(tmp_path: Path) -> None:
    place = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with serving(good) as (server,):
        (tmp_path / "token").write_text("token")
        asking = client([server.url], tmp_path / "token")
        for sent, arrived in ((place, place), ("", None), ("all\tof it", None)):
            for query in ("", "?version=1.0"):
                form = {"file": (io.BytesIO(b"an image"), "image")}
                headers = {"traceparent": sent} if sent else {}
                assert asking.post(f"/predict{query}", data=form, headers=headers).status_code == 200
                assert server.traces[-1] == arrived


def test_a_call_tells_torchserve_how_far_it_gives_way(token_file: Path) -> None:
    with serving(good) as (server,):
        inference = several_nodes([server.url], token_file)
        with context.set_to(context.NICENESS, 19):
            inference.predict(b"an image")
        inference.predict(b"an image")
        assert server.niceness == ["19", None]

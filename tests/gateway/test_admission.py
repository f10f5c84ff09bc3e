"""The gate: what may be under way and wait, what is refused, and what is said to who finds no place."""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from unittest.mock import Mock

import gevent
import pytest
from flask.testing import FlaskClient
from gevent.socket import socketpair
from werkzeug.test import TestResponse

from gateway import admission, app, limits
from gateway.admission import Body, Gate, Line, Pace, SlowBody
from gateway.app import create_app
from gateway.backend import Answer, Busy, ImageRefused, Prediction, TooSlow
from gateway.limits import SMALL_IMAGE_BYTES
from tests.drawing import tiny
from tests.fake_backend import FakeBackend
from tests.stack import wait_until

SMALL = tiny(b"small")
LARGE = bytes(SMALL_IMAGE_BYTES + 1)
TRACE = f"00-{32 * 'a'}-{16 * 'b'}-01"
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


class Counting(FakeBackend):
    """Answers when it is let go, and knows how many calls are under way."""

    def __init__(self) -> None:
        self.go_on = Event()
        self.calls = self.most = self.done = 0
        self._lock = Lock()

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        with self._lock:
            self.calls += 1
            self.most = max(self.most, self.calls)
        assert self.go_on.wait(10)
        with self._lock:
            self.calls -= 1
            self.done += 1
        return super().predict(image, version)

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[Answer]:
        return [*super().predict_all(images[:1], version)] * len(images)


def test_a_request_has_its_time_once() -> None:
    line: Line[bytes] = Line("small", timeout=2)
    with pytest.raises(TooSlow):
        line.wait(SMALL, spent=2)
    started = time.monotonic()
    with pytest.raises(Busy):
        line.wait(SMALL, spent=1)
    assert 0.5 <= time.monotonic() - started < 1


@pytest.fixture
def torchserve() -> Iterator[Counting]:
    torchserve = Counting()
    yield torchserve
    torchserve.go_on.set()


@pytest.fixture
def client(torchserve: Counting, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A gateway that makes one call at once with small images, and one with everything else."""
    monkeypatch.setattr(app, "_backend", lambda config: torchserve)
    return create_app({"CALLS": 1}).test_client()


def gate_of(client: FlaskClient) -> Gate:
    return client.application.extensions["gate"]


def upload(client: FlaskClient, path: str, *images: bytes, **headers: str) -> TestResponse:
    form = {"file": [(io.BytesIO(image), "image") for image in images]}
    return client.application.test_client().post(path, data=form, headers=headers)


def chunked(client: FlaskClient, image: bytes) -> TestResponse:
    """Send an image without saying how large the body is."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="image"\r\n\r\n'
    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    stream = io.BytesIO(head + image + b"\r\n--x--\r\n")
    return client.application.test_client().post("/predict", input_stream=stream, headers=FORM, environ_base=environ)


Send = Callable[[FlaskClient], TestResponse]
COSTLY: dict[str, Send] = {
    "large": lambda client: upload(client, "/predict", LARGE),
    "large, of a page": lambda client: upload(client, "/predict", LARGE, Origin="null"),
    "versioned": lambda client: upload(client, "/predict?version=1.0", LARGE),
    "files": lambda client: upload(client, "/predict", LARGE, SMALL),
    "explain": lambda client: upload(client, "/explain", LARGE),
    "base64": lambda client: client.application.test_client().post(
        "/predict_base64", json={"image": base64.b64encode(LARGE).decode()}
    ),
    "chunked": lambda client: chunked(client, LARGE),
}
SMALL_BUT_ALONE: dict[str, Send] = {
    "small, versioned": lambda client: upload(client, "/predict?version=1.0", SMALL),
    "small files": lambda client: upload(client, "/predict", SMALL, SMALL),
}


def test_whatever_costs_takes_its_turn(client: FlaskClient, torchserve: Counting) -> None:
    gate, routes = gate_of(client), [*COSTLY.values(), *SMALL_BUT_ALONE.values()]
    with ThreadPoolExecutor(len(routes) + 1) as pool:
        answers = [pool.submit(send, client) for send in routes]
        wait_until(lambda: len(gate.large._turns) == len(routes) - 1)
        assert torchserve.calls == 1
        answers.append(pool.submit(upload, client, "/predict", SMALL))
        wait_until(lambda: torchserve.calls == 2)
        torchserve.go_on.set()
        assert {answer.result().status_code for answer in answers} == {200}
    assert torchserve.most == 2
    assert (gate._held, gate.large.images) == (0, 0)


@pytest.mark.parametrize("kind", COSTLY)
def test_bytes_beyond_the_bound_are_told_to_come_again(
    client: FlaskClient, torchserve: Counting, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", 2 * len(LARGE))
    gate = gate_of(client)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(upload, client, "/predict", LARGE)
        wait_until(lambda: torchserve.calls == 1)
        held = gate._held
        assert len(LARGE) < held < len(LARGE) + 1000
        refused = COSTLY[kind](client)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert gate._held == held
        torchserve.go_on.set()
        assert first.result().status_code == 200
    assert gate._held == 0
    assert COSTLY[kind](client).status_code == 200


def test_large_images_leave_small_ones_their_place(
    client: FlaskClient, torchserve: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", 0)
    torchserve.go_on.set()
    assert upload(client, "/predict", LARGE).status_code == 503
    assert upload(client, "/predict", SMALL).status_code == 200
    assert upload(client, "/predict", bytes(limits.MAX_BODY_BYTES)).status_code == 503


def test_too_large_a_body_is_called_so_if_there_is_place(client: FlaskClient) -> None:
    environ = {"CONTENT_LENGTH": str(2**30), "wsgi.input_terminated": True}
    assert client.post("/predict", headers=FORM, environ_overrides=environ).status_code == 413


def test_images_beyond_the_bound_are_told_to_come_again(
    client: FlaskClient, torchserve: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_WAITING_IMAGES", 2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(upload, client, "/predict", LARGE)
        wait_until(lambda: torchserve.calls == 1)
        pool.submit(upload, client, "/predict", SMALL, SMALL)
        wait_until(lambda: gate_of(client).large.images == 2)
        assert {send(client).status_code for send in (*COSTLY.values(), *SMALL_BUT_ALONE.values())} == {503}
        torchserve.go_on.set()
    assert first.result().status_code == 200


@pytest.mark.parametrize(("seconds", "status"), [(0.0, 503), (60.0, 200)])
def test_fewer_images_may_wait_if_the_first_has_waited_for_long(
    client: FlaskClient, torchserve: Counting, monkeypatch: pytest.MonkeyPatch, seconds: float, status: int
) -> None:
    monkeypatch.setattr(limits, "MAX_IMAGES_OF_SLOW_LINE", 2)
    monkeypatch.setattr(limits, "SLOW_LINE_SECONDS", seconds)
    line = gate_of(client).large
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(upload, client, "/predict", LARGE)
        wait_until(lambda: torchserve.calls == 1)
        second = pool.submit(upload, client, "/predict", SMALL, SMALL)
        wait_until(lambda: line.images == 2)
        third = pool.submit(upload, client, "/predict", SMALL, SMALL)
        wait_until(lambda: line.images == 4 or third.done())
        torchserve.go_on.set()
    assert [answer.result().status_code for answer in (first, second, third)] == [200, 200, status]


def test_explanations_leave_a_place_in_the_line(
    client: FlaskClient, torchserve: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(upload, client, "/explain", SMALL) for _ in range(2)]
        wait_until(lambda: (torchserve.calls, gate_of(client).large.images) == (1, 1))  # one is made, and one waits
        refused = upload(client, "/explain", SMALL)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert refused.get_json() == {"error": "Too many explanations are being made.", "success": False}
        torchserve.go_on.set()
        assert {answer.result().status_code for answer in answers} == {200}


@pytest.mark.parametrize("page", [{}, {"Origin": "null"}], ids=["program", "page"])
@pytest.mark.parametrize("path", ["/predict", "/predict_base64", "/explain"])
def test_is_told_to_come_again(
    client: FlaskClient,
    torchserve: Counting,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    path: str,
    page: dict[str, str],
) -> None:
    monkeypatch.setattr(limits, "MAX_WAITING_IMAGES", 0)
    reply = upload(client, path, SMALL, **{"X-Request-ID": "mine", "traceparent": TRACE, **page})
    assert (reply.status_code, reply.headers["Retry-After"], reply.headers["X-Request-ID"]) == (503, "1", "mine")
    assert reply.get_json() == {"error": "Too many images are waiting.", "success": False}
    assert reply.headers.get("Access-Control-Allow-Origin") == page.get("Origin")
    gevent.sleep(0)  # a turn of the loop, which writes the log
    line = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (line["id"], line["route"], line["status"], line["traceparent"]) == ("mine", path, 503, TRACE)


def test_a_full_gateway_is_ready_because_another_one_would_be_full_too(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_WAITING_IMAGES", 0)
    for path in ("/live", "/ready"):
        assert client.get(path).status_code == 200


def test_a_gateway_whose_model_answers_nobody_is_not_ready(
    torchserve: Counting, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = gate_of(client).small
    monkeypatch.setattr(small, "_timeout", 0.2)
    assert client.get("/ready").status_code == 503  # its own call takes too long
    assert client.get("/ready").status_code == 200  # others have the call
    wait_until(small.stuck)
    assert client.get("/ready").status_code == 503
    torchserve.go_on.set()
    wait_until(lambda: client.get("/ready").status_code == 200)
    assert not small.stuck()


def test_what_need_not_wait_has_the_time_of_its_request() -> None:
    line = Line[bytes]("small", timeout=0.2)
    assert line.skip(lambda: "answer") == "answer"
    started = time.monotonic()
    with pytest.raises(TooSlow):
        line.skip(lambda: gevent.sleep(5))
    assert 0.2 <= time.monotonic() - started < 1
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):  # of somebody else
        line.skip(lambda: gevent.sleep(5))
    with pytest.raises(TooSlow):
        line.skip(lambda: "answer", spent=0.2)
    wait_until(line.stuck)
    with pytest.raises(ImageRefused):
        line.skip(Mock(side_effect=ImageRefused("Bad.", 400)))
    assert not line.stuck()


def test_who_waits_too_long_is_told_to_come_again_and_keeps_no_place() -> None:
    go_on, begun, calls = Event(), Event(), []

    def work(number: int) -> int:
        calls.append(number)
        begun.set()
        assert go_on.wait(10)
        return number

    gate = Gate(calls=1, timeout=0.2)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(gate.call, lambda: work(1))
        assert begun.wait(10)
        with pytest.raises(Busy):
            gate.call(lambda: work(2), images=3)
        assert gate.large.images == 0
        with pytest.raises(TooSlow):
            slow.result()
        go_on.set()
        assert gate.call(lambda: work(3)) == 3
    assert calls == [1, 3]


@pytest.mark.parametrize("many", [0, limits.MANY_SLOW_BODIES], ids=["few", "many"])
def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    monkeypatch.setattr(limits, "HURRIED_READ_SECONDS" if many else "READ_SECONDS", 0.01)

    def dawdle() -> None:
        ours, theirs = socketpair()
        with ours, theirs:
            gate = Gate(calls=1, timeout=10)
            gate.slow_bodies = many
            body = Body(gate, ours.makefile("rb"), declared=10)
            theirs.sendall(b"half")
            with pytest.raises(SlowBody):
                body.read(10)
            assert gate.slow_bodies == many

    with ThreadPoolExecutor(1) as pool:  # with a hub of its own
        pool.submit(dawdle).result()


def test_a_body_may_not_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0)

    def drip() -> None:
        ours, theirs = socketpair()
        with ours, theirs, pytest.raises(SlowBody):
            Body(Gate(calls=1, timeout=10), ours.makefile("rb"), declared=10).read(10)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(drip).result()


def test_a_body_is_released_if_its_request_fails(client: FlaskClient) -> None:
    assert upload(client, "/predict?top_k=x", LARGE).status_code == 400
    assert gate_of(client)._held == 0


def test_nothing_is_read_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", 1000)
    stream = io.BytesIO(LARGE)
    body = Body(Gate(calls=1, timeout=10), stream, declared=None)
    body.read(400)
    body.read(400)
    with pytest.raises(Busy):
        body.read(400)
    assert stream.tell() == 1200


def test_few_refusals_leave_at_once_and_those_of_a_flood_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(admission, "sleep", waits.append)
    pace = Pace()
    pace.wait()
    assert not waits
    for _ in range(1000):
        pace.wait()
    assert waits[0] <= admission.TOGETHER + 1 / limits.REFUSALS_A_SECOND
    assert limits.REFUSAL_SECONDS <= max(waits) <= limits.REFUSAL_SECONDS + admission.TOGETHER

"""A share of the traffic for a new version, before a stand-in of two versions that can be told to fail."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import requests

from gateway import context, traffic
from gateway.admission import Gate
from gateway.backend import Answer, Busy, ImageRefused, Prediction, TooSlow, Unavailable
from gateway.batches import Batches
from gateway.limits import MAX_BATCH_BYTES, MAX_HELD_BYTES
from gateway.traffic import MAX_SHADOWS, MOST_HELD, NICENESS, Traffic, seen_file
from tests.drawing import draw, encode, tiny
from tests.fake_backend import FakeBackend, prediction, serving
from tests.stack import wait_until
from training.files import write_whole

OLD, NEW = "1.0", "2.0"
CANARY, CONTROL, OTHER = 0.1, 0.3, 0.45  # places of a request, of which a share of 20% goes to the canary


class Versions(FakeBackend):
    """Both versions see a cat; `new` may do something else in the place of the new one."""

    def __init__(self) -> None:
        self.new: Callable[[], Any] = lambda: None
        self.asked: list[str] = []
        self.niceness: list[int] = []  # of these calls

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        self.asked.append(version or OLD)
        self.niceness.append(context.NICENESS.get())
        if image == b"bad":
            raise ImageRefused("Bad.", 415)
        if version == NEW:
            self.new()
        return prediction("cat") | {"version": version or OLD}


def fails(error: Exception) -> None:
    raise error


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "traffic.json"


@pytest.fixture
def backend() -> Versions:
    return Versions()


@pytest.fixture
def gate() -> Gate:
    return Gate(calls=1, timeout=10)


@pytest.fixture
def split(file: Path, gate: Gate, backend: Versions, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that sends a request which has a place among all of them, while a split is on."""
    monkeypatch.setattr(traffic, "TOGETHER_SECONDS", 0.2)
    made = Traffic(file, gate, backend)

    def send(place: float, image: bytes = b"cat", *, canary: bool, seconds: float = 60) -> Prediction:
        def serve(version: str | None = None, shared: Batches | None = None) -> Prediction:
            return shared.predict(image) if shared else backend.predict(image, version)

        settings = {"roll": "1", "version": NEW, "canary": canary, "share": 0.2, "until": time.time() + seconds}
        write_whole(file, json.dumps(settings))
        monkeypatch.setattr(traffic, "LOOK_SECONDS", 0)
        monkeypatch.setattr(traffic, "random", lambda: place)
        return made.predict(image, "a-request", serve)

    return send


def seen(file: Path) -> list[dict[str, Any]]:
    path = seen_file(file)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_canary_answers_its_share_and_the_served_version_is_watched_as_often(
    split: Callable[..., Any], file: Path, backend: Versions
) -> None:
    answered = {place: split(place, canary=True)["version"] for place in (CANARY, CONTROL, OTHER)}
    assert answered == {CANARY: NEW, CONTROL: OLD, OTHER: OLD}
    assert backend.asked == [NEW, OLD, OLD]
    assert backend.niceness == [NICENESS, 0, 0]
    by_canary, watched = seen(file)
    assert [by_canary["version"], watched["version"]] == [NEW, OLD]
    assert {"id": "a-request", "predicted_class": "cat", "confidence": 1.0}.items() <= by_canary.items()
    assert 0 <= by_canary["seconds"] < 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ImageRefused("None.", 415), ["None."]),
        (Unavailable("Dead."), ["Dead."]),
        (RuntimeError("in its own code"), ["RuntimeError: in its own code"]),
        (Busy(), ["Too many images are waiting."]),  # for it alone
    ],
)
def test_the_served_version_answers_where_a_canary_fails(
    split: Callable[..., Any], file: Path, backend: Versions, error: Exception, told: list[str]
) -> None:
    backend.new = partial(fails, error)
    assert split(CANARY, canary=True)["version"] == OLD
    assert [each["failed"] for each in seen(file)] == told


def test_a_canary_is_not_to_blame_for_an_image_that_nobody_can_read(split: Callable[..., Any], file: Path) -> None:
    with pytest.raises(ImageRefused):
        split(CANARY, b"bad", canary=True)
    assert not seen(file)


def test_nobody_waits_long_for_a_canary_that_is_slow(
    file: Path, backend: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(calls=1, timeout=2)
    made = Traffic(file, gate, backend)
    monkeypatch.setattr(traffic, "random", lambda: 0.0)
    settings = {"roll": "1", "version": NEW, "canary": True, "share": 0.2, "until": time.time() + 60}
    write_whole(file, json.dumps(settings))
    backend.new = partial(time.sleep, 3)

    def serve(version: str | None = None, shared: Batches | None = None) -> Prediction:
        return shared.predict(b"cat") if shared else backend.predict(b"cat", version)

    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(made.predict, b"cat", "a-request", serve) for _ in range(8)]
        assert gate.call(lambda: "a large image") == "a large image"
        assert time.monotonic() < started + 0.3
        assert {answer.result()["version"] for answer in answers} == {OLD}
    assert time.monotonic() < started + 1.5
    assert {each["failed"] for each in seen(file)} == {str(TooSlow()), str(Busy())}


def test_a_shadow_is_asked_after_the_answer(split: Callable[..., Any], file: Path, backend: Versions) -> None:
    backend.new = partial(time.sleep, 0.3)
    started = time.monotonic()
    assert split(CANARY, canary=False)["version"] == OLD
    assert time.monotonic() < started + 0.3
    assert split(CONTROL, canary=False)["version"] == OLD
    wait_until(lambda: len(seen(file)) == 2)
    served, shadow = seen(file)
    assert (served["version"], shadow["version"], shadow["id"]) == (OLD, NEW, "a-request")
    assert served["seconds"] < 0.3 < shadow["seconds"]
    assert shadow["agrees"]
    assert sorted(zip(backend.asked, backend.niceness, strict=True)) == [(OLD, 0), (OLD, 0), (NEW, NICENESS)]


@pytest.mark.parametrize(
    ("error", "failed"),
    [(Unavailable("Dead."), "Dead."), (ValueError("bad"), "ValueError: bad"), (Busy(), None), (TooSlow(), None)],
    ids=["failed", "raised", "no time", "not enough time"],
)
def test_a_shadow_that_fails_harms_nobody(
    split: Callable[..., Any], file: Path, backend: Versions, gate: Gate, error: Exception, failed: str | None
) -> None:
    backend.new = partial(fails, error)
    for expected in (1, 2):
        assert split(CANARY, canary=False)["version"] == OLD
        wait_until(lambda: len(seen(file)) == 2 * expected)  # noqa: B023
        assert seen(file)[-1] == {"id": "a-request", "version": NEW, "failed": failed, "roll": "1"}
    gate.hold(MAX_HELD_BYTES)  # as nothing is held any more


def test_shadows_share_a_call_and_a_large_one_has_its_own(
    split: Callable[..., Any], file: Path, backend: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def predict_all(images: list[bytes], version: str | None = None) -> list[Answer]:
        calls.append((len(images), version))
        refused: Answer = {"error": "Bad.", "status": 415, "success": False}
        return [refused if image == tiny(b"odd") else backend.predict(image, version) for image in images]

    monkeypatch.setattr(backend, "predict_all", predict_all)
    for image in (tiny(b"1"), tiny(b"2"), tiny(b"odd"), bytes(MAX_BATCH_BYTES), tiny(b"3"), tiny(b"4")):
        split(CANARY, image, canary=False)
    wait_until(lambda: len(seen(file)) == 12)
    assert calls == [(3, NEW), (2, NEW)]
    assert [each["failed"] for each in seen(file) if "failed" in each] == ["Bad."]


def test_an_image_that_spoils_a_call_is_blamed_alone(
    split: Callable[..., Any], file: Path, backend: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(image: bytes, version: str | None = None) -> Prediction:
        if version and image == tiny(b"odd"):
            raise Unavailable("Dead.")
        return prediction("cat")

    def predict_all(images: list[bytes], version: str | None = None) -> list[Answer]:
        return [predict(image, version) for image in images]

    monkeypatch.setattr(backend, "predict", predict)
    monkeypatch.setattr(backend, "predict_all", predict_all)
    for image in (tiny(b"1"), tiny(b"odd"), tiny(b"2")):
        split(CANARY, image, canary=False)
    wait_until(lambda: len(seen(file)) == 6)
    assert [each["failed"] for each in seen(file) if "failed" in each] == ["Dead."]


def test_a_shadow_is_not_to_blame_if_nobody_answers(
    split: Callable[..., Any], file: Path, backend: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.new = partial(_die, backend, monkeypatch)
    split(CANARY, canary=False)
    wait_until(lambda: len(seen(file)) == 2)
    assert seen(file)[1]["failed"] is None


def _die(backend: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "predict", lambda *_: fails(Unavailable("Dead.")))
    raise Unavailable("Dead.")


def test_an_answer_that_nobody_understands_ends_nothing(
    split: Callable[..., Any], file: Path, backend: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "predict_all", lambda *_: [])
    for image in (tiny(b"1"), tiny(b"2")):
        split(CANARY, image, canary=False)
    wait_until(lambda: len(seen(file)) == 4)
    assert [each["version"] for each in seen(file) if "failed" not in each] == [OLD, NEW] * 2


def test_shadows_leave_room_for_those_who_wait(split: Callable[..., Any], file: Path, gate: Gate) -> None:
    gate.hold(int(MOST_HELD * MAX_HELD_BYTES))
    assert split(CANARY, canary=False)["version"] == OLD
    assert [each.get("failed", "") for each in seen(file)] == ["", None]


def test_shadows_are_forgotten_when_their_version_has_no_share_any_more(
    split: Callable[..., Any], file: Path, backend: Versions
) -> None:
    with patch.object(Gate, "waiting", return_value=1):  # until the file has gone
        split(CANARY, canary=False)
        file.unlink()
        wait_until(lambda: len(seen(file)) == 2)
    assert seen(file)[1]["failed"] is None
    assert backend.asked == [OLD]


def test_shadows_wait_for_nobody_and_in_bounds(
    split: Callable[..., Any], file: Path, backend: Versions, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "PATIENCE", 0.1)
    with patch.object(Gate, "waiting", return_value=1):
        for _ in range(MAX_SHADOWS + 4):
            split(CANARY, canary=False)
        wait_until(lambda: len(seen(file)) == 2 * (MAX_SHADOWS + 4))
    assert NEW not in backend.asked
    assert [each["failed"] for each in seen(file) if each["version"] == NEW] == [None] * (MAX_SHADOWS + 4)


def test_a_split_ends_by_itself(split: Callable[..., Any], file: Path, backend: Versions) -> None:
    split(CANARY, canary=True, seconds=-1)
    assert backend.asked == [OLD]
    assert not seen(file)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": "2.0", "canary": true, "share": 0.5, "until": 9e9}'])
def test_a_file_that_cannot_be_read_costs_no_prediction(
    text: str, file: Path, backend: Versions, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(text)
    assert Traffic(file, gate, backend).predict(b"cat", "a-request", partial(backend.predict, b"cat"))["version"] == OLD
    assert "cannot be read, so no version gets a share" in caplog.text


def test_a_full_disk_costs_no_prediction(split: Callable[..., Any], file: Path) -> None:
    seen_file(file).mkdir()  # which cannot be written either
    assert split(CANARY, canary=True)["version"] == NEW


def test_a_request_that_names_a_version_gets_it_and_the_split_goes_when_its_file_does(file: Path) -> None:
    picture = encode(draw("azure", 5))
    settings = {"roll": "1", "version": NEW, "canary": True, "share": 0.5, "until": time.time() + 60}
    write_whole(file, json.dumps(settings))
    with serving(TRAFFIC_FILE=str(file)) as url, patch.object(traffic, "random", lambda: 0.0):

        def ask(query: str = "") -> dict[str, Any]:
            return requests.post(f"{url}/predict{query}", files={"file": picture}).json()

        assert ask("?version=1.0")["success"]
        assert not seen(file)
        assert ask()["success"]
        assert len(seen(file)) == 1
        counted = requests.get(f"{url}/metrics").text
        assert 'classifier_compared_total{failed="false",version="1.0"}' in counted
        file.unlink()
        time.sleep(2 * traffic.LOOK_SECONDS)
        assert ask()["success"]
        assert len(seen(file)) == 1

"""Sharing calls: before the real TorchServe, and before a stand-in that can be held up."""

import contextlib
import struct
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from flask import Config
from PIL import Image

from gateway import app
from gateway import batches as batches_module
from gateway.admission import Line
from gateway.app import _small_calls
from gateway.backend import Answer, Backend, ImageRefused, Prediction, Unavailable
from gateway.batches import Batches, calls_of
from gateway.limits import MAX_BATCH, MAX_BATCH_BYTES, MAX_BATCH_PIXELS
from tests.drawing import TINY, draw, encode, tiny
from tests.fake_backend import FakeBackend, prediction
from tests.stack import Stack, wait_until

BAD = tiny(b"bad")


def header(width: int, height: int, text: bytes = b"") -> bytes:
    """Return the beginning of a PNG of this size."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", width, height) + text


@pytest.mark.parametrize(
    ("images", "calls"),
    [
        ([header(100, 100)] * 32, [32]),
        ([header(7000, 7000)] * 3, [1, 1, 1]),
        ([header(5000, 5000), header(5000, 5000), header(10, 10), header(7000, 7000)], [2, 2]),
        ([b"of unknown size"] * 2, [1, 1]),
        ([encode(Image.new("RGB", (4000, 3000)), "JPEG")] * 32, [16, 16]),
    ],
)
def test_a_request_of_many_pixels_becomes_several_calls(images: list[bytes], calls: list[int]) -> None:
    divided = list(calls_of(images))
    assert [len(call) for call in divided] == calls
    assert [image for call in divided for image in call] == images


def text_of(image: bytes) -> str:
    return image.removeprefix(TINY).decode()


class Held(FakeBackend):
    """Answers an image with its own text, once it is let go; notes which images came together."""

    def __init__(self) -> None:
        self.go_on = Event()
        self.calls: list[list[bytes]] = []

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        self.calls.append([image])
        assert self.go_on.wait(10)
        if image == BAD:
            raise ImageRefused("Bad.", 415)
        return prediction(text_of(image))

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[Answer]:
        self.calls.append(images)
        if tiny(b"fatal") in images:
            raise Unavailable("It died.")
        return [
            {"error": "Bad.", "status": 415, "success": False} if image == BAD else prediction(text_of(image))
            for image in images
        ]


class Counting(Held):
    """Sees red in every image, once it is let go."""

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        return super().predict(tiny(b"red"))

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[Answer]:
        return super().predict_all([tiny(b"red")] * len(images))


def batches(torchserve: Backend, calls: int = 1) -> Batches:
    return Batches(torchserve, Line("small", timeout=10), calls)


def ask_together(torchserve: Held, shared: Batches, images: list[bytes]) -> list[Future[Prediction]]:
    """Ask for the first image, for the others while it is held up, and then let it go."""
    with ThreadPoolExecutor(len(images)) as pool:
        first = pool.submit(shared.predict, images[0])
        wait_until(lambda: torchserve.calls)

        def ask(image: bytes) -> Future[Prediction]:
            before = shared._line.images, len(torchserve.calls)
            answer = pool.submit(shared.predict, image)
            wait_until(lambda: (shared._line.images, len(torchserve.calls)) != before)
            return answer

        others = [ask(image) for image in images[1:]]
        torchserve.go_on.set()
    return [first, *others]


def test_images_that_come_during_a_call_share_the_next() -> None:
    torchserve = Held()
    images = [tiny(b"%d" % number) for number in range(MAX_BATCH + 3)]
    answers = ask_together(torchserve, batches(torchserve), images)
    assert [tiny(answer.result()["predicted_class"].encode()) for answer in answers] == images
    assert torchserve.calls == [images[:1], images[1 : MAX_BATCH + 1], images[MAX_BATCH + 1 :]]


def test_an_image_that_is_refused_fails_alone() -> None:
    torchserve = Held()
    _, good, bad = ask_together(torchserve, batches(torchserve), [tiny(b"1"), tiny(b"2"), BAD])
    assert good.result() == prediction("2")
    with pytest.raises(ImageRefused, match=r"Bad\.") as refused:
        bad.result()
    assert refused.value.status == 415


class NamesThread(FakeBackend):
    """Sees in an image the name of the thread that has asked."""

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        return prediction(threading.current_thread().name)


@pytest.mark.parametrize("under_way", [False, True], ids=["a call is free", "no call is free"])
@pytest.mark.parametrize("pending", [0, 1], ids=["alone", "another comes with it"])
@pytest.mark.parametrize(
    ("kind", "image", "at_once"),
    [
        ({"waits": True}, tiny(b"1"), "if free"),
        ({"light": True}, tiny(b"1"), "always"),
        ({"light": True}, header(3000, 3000), "never"),
        ({}, tiny(b"1"), "never"),
    ],
    ids=["TorchServe", "light", "large", "heavy"],
)
def test_an_image_that_comes_alone_may_be_predicted_in_the_thread_that_asks(
    kind: dict[str, bool], image: bytes, at_once: str, pending: int, under_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "get_hub", lambda: SimpleNamespace(loop=SimpleNamespace(pendingcnt=pending)))
    backend = NamesThread()
    vars(backend).update(kind)
    shared = batches(backend)
    with ThreadPoolExecutor(1, "asks") as pool:
        with shared._calling() if under_way else contextlib.nullcontext():
            answer = pool.submit(shared.predict, image)
            wait_until(lambda: shared._line.images or answer.done())
        in_place = not pending and (at_once == "always" or (at_once == "if free" and not under_way))
        assert answer.result()["predicted_class"].startswith("asks") == in_place


def test_an_answer_in_the_thread_that_asks_shows_that_the_model_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    line: Line[bytes] = Line("small", timeout=0.1)
    line.answered(late=True)
    wait_until(line.stuck)
    backend = NamesThread()
    backend.light = True
    Batches(backend, line, 1).predict(tiny(b"1"))
    assert not line.stuck()


def test_with_a_light_backend_what_comes_while_others_wait_waits_too() -> None:
    torchserve = Held()
    shared = batches(torchserve)
    with ThreadPoolExecutor(3) as pool:
        first = [pool.submit(shared.predict, tiny(b"1"))]
        wait_until(lambda: torchserve.calls)
        first.append(pool.submit(shared.predict, tiny(b"2")))
        wait_until(lambda: shared._line.images == 1)
        torchserve.light = True
        last = pool.submit(shared.predict, tiny(b"3"))
        wait_until(lambda: shared._line.images == 2)
        torchserve.go_on.set()
        assert [each.result() for each in (*first, last)] == [prediction(name) for name in "123"]


def test_everyone_in_a_call_hears_that_it_failed() -> None:
    torchserve = Held()
    shared = batches(torchserve)
    _, *together = ask_together(torchserve, shared, [tiny(b"1"), tiny(b"2"), tiny(b"fatal")])
    for answer in together:
        with pytest.raises(Unavailable, match=r"It died\."):
            answer.result()
    assert shared.predict(tiny(b"3")) == prediction("3")


def test_of_a_call_to_a_given_version_only_the_image_that_spoils_it_fails() -> None:
    class Spoilt(FakeBackend):
        def predict(self, image: bytes, version: str | None = None) -> Prediction:
            if image == b"odd":
                raise Unavailable("Dead.")
            return prediction("cat") | {"version": version or "1.0"}

    line: Line[bytes] = Line("canary", 10)
    with ThreadPoolExecutor(3) as pool:
        asked = {image: pool.submit(line.wait, image, part=0.1) for image in (b"1", b"odd", b"2")}
        wait_until(lambda: line.images == 3)
        Batches(Spoilt(), line, 1, lambda: "2.0")
        assert [asked[image].result()["version"] for image in (b"1", b"2")] == ["2.0", "2.0"]
        with pytest.raises(Unavailable):
            asked[b"odd"].result()


def test_many_at_once_each_get_their_own_answer(stack: Stack) -> None:
    kinds = ["azure", "red", "purple"]
    pictures = {kind: encode(draw(kind, 5)) for kind in kinds} | {"bad": b"no image"}
    shared = batches(stack.torchserve.inference, calls=2)

    def ask(kind: str) -> str:
        try:
            return shared.predict(pictures[kind])["predicted_class"]
        except ImageRefused:
            return "bad"

    asked = [*kinds, "bad"] * 50
    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, asked)) == asked


@pytest.mark.parametrize(
    ("images", "together"),
    [
        ([tiny(bytes(MAX_BATCH_BYTES // 3 - 100))] * 7, [3, 3, 1]),
        ([encode(Image.new("1", (1000, MAX_BATCH_PIXELS // 2000)))] * 5, [2, 2, 1]),
        ([tiny(b"")] * (MAX_BATCH - 4) + [tiny(bytes(MAX_BATCH_BYTES // 2)), tiny(b"")], [MAX_BATCH - 4, 2]),
    ],
    ids=["bytes", "pixels", "of several sizes"],
)
def test_a_call_is_bound_by_bytes_and_pixels(images: list[bytes], together: list[int]) -> None:
    torchserve = Counting()
    answers = ask_together(torchserve, batches(torchserve), [tiny(b"first"), *images])
    assert [len(call) for call in torchserve.calls] == [1, *together]
    assert [answer.result() for answer in answers] == [prediction("red")] * (1 + len(images))


@pytest.mark.parametrize(
    ("cores", "quota", "model", "calls"),
    [
        (1, "max 100000", "x", 1),
        (2, "max 100000", "x", 1),
        (4, "max 100000", "x", 2),
        (64, "max 100000", "x", 2),
        (64, "200000 100000", "x", 1),
        (64, "350000 100000", "x", 2),
        (1, "max 100000", "", 2),
    ],
)
def test_a_process_that_runs_the_model_makes_no_more_calls_than_it_has_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int, quota: str, model: str, calls: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(app, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(cores))
    assert _small_calls(Config(".", {"CALLS": 2, "MODEL_DIR": model})) == calls

"""Sharing calls: before the real TorchServe, and before a stand-in that can be held up."""

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from gateway import batches
from gateway.batches import Batches
from gateway.torchserve import ImageRefused, TooSlow, TorchServe, Unavailable
from tests.drawing import draw, encode
from tests.stack import Stack, wait_until


class Held(TorchServe):
    """Answers an image with its own text, once it is let go; notes which images came together."""

    def __init__(self) -> None:
        self.go_on = Event()
        self.calls: list[list[bytes]] = []

    def predict(self, image: bytes, version: str | None = None) -> dict[str, Any]:
        self.calls.append([image])
        assert self.go_on.wait(10)
        if image == b"bad":
            raise ImageRefused("Bad.", 415)
        return {"predicted_class": image.decode()}

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[dict[str, Any]]:
        self.calls.append(images)
        if b"fatal" in images:
            raise Unavailable("It died.")
        return [
            {"error": "Bad.", "status": 415} if image == b"bad" else {"predicted_class": image.decode()}
            for image in images
        ]


def ask_together(torchserve: Held, shared: Batches, images: list[bytes]) -> list[Future[dict[str, Any]]]:
    """Ask for the first image, for the others while it is held up, and then let it go."""
    with ThreadPoolExecutor(len(images)) as pool:
        first = pool.submit(shared.predict, images[0])
        wait_until(lambda: torchserve.calls == [[images[0]]])

        def ask(image: bytes) -> Future[dict[str, Any]]:
            before = shared._small.qsize(), len(torchserve.calls)
            answer = pool.submit(shared.predict, image)
            wait_until(lambda: (shared._small.qsize(), len(torchserve.calls)) != before)
            return answer

        others = [ask(image) for image in images[1:]]
        torchserve.go_on.set()
    return [first, *others]


def test_images_that_come_during_a_call_share_the_next() -> None:
    torchserve = Held()
    images = [b"%d" % number for number in range(batches.TOGETHER + 3)]
    answers = ask_together(torchserve, Batches(torchserve, calls=1, timeout=10), images)
    assert [answer.result()["predicted_class"].encode() for answer in answers] == images
    assert torchserve.calls == [images[:1], images[1 : batches.TOGETHER + 1], images[batches.TOGETHER + 1 :]]


def test_an_image_that_is_refused_fails_alone() -> None:
    torchserve = Held()
    _, good, bad = ask_together(torchserve, Batches(torchserve, calls=1, timeout=10), [b"1", b"2", b"bad"])
    assert good.result() == {"predicted_class": "2"}
    with pytest.raises(ImageRefused, match=r"Bad\.") as refused:
        bad.result()
    assert refused.value.status == 415


def test_everyone_in_a_call_hears_that_it_failed() -> None:
    torchserve = Held()
    shared = Batches(torchserve, calls=1, timeout=10)
    _, *together = ask_together(torchserve, shared, [b"1", b"2", b"fatal"])
    for answer in together:
        with pytest.raises(Unavailable, match=r"It died\."):
            answer.result()
    assert shared.predict(b"3") == {"predicted_class": "3"}


def test_a_large_image_does_not_wait_for_others() -> None:
    torchserve = Held()
    large = b"x" * (batches.SMALL + 1)
    ask_together(torchserve, Batches(torchserve, calls=1, timeout=10), [b"1", b"2", b"3", large])
    assert [large] in torchserve.calls
    assert [b"2", b"3"] in torchserve.calls


def test_large_images_go_one_by_one() -> None:
    torchserve = Held()
    large = [b"%d" % number + bytes(batches.SMALL) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        shared = Batches(torchserve, calls=2, timeout=10)
        answers = pool.map(shared.predict, large)
        wait_until(lambda: shared._large.qsize() == 2)
        assert len(torchserve.calls) == 2
        torchserve.go_on.set()
        assert [answer["predicted_class"].strip("\0") for answer in answers] == ["0", "1", "2", "3"]
    assert sorted(torchserve.calls) == [[image] for image in large]


def test_who_waits_too_long_is_told_so_and_not_asked_for() -> None:
    torchserve = Held()
    shared = Batches(torchserve, calls=1, timeout=0.2)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(shared.predict, b"1")
        wait_until(lambda: torchserve.calls == [[b"1"]])
        with pytest.raises(TooSlow):
            shared.predict(b"2")
        with pytest.raises(TooSlow):
            slow.result()
        torchserve.go_on.set()
    assert shared.predict(b"3") == {"predicted_class": "3"}
    assert torchserve.calls == [[b"1"], [b"3"]]


def test_more_than_may_wait_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_WAITING", 1)
    torchserve = Held()
    shared = Batches(torchserve, calls=1, timeout=10)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(shared.predict, b"1")
        wait_until(lambda: torchserve.calls == [[b"1"]])
        pool.submit(shared.predict, b"2")
        wait_until(shared._small.full)
        with pytest.raises(Unavailable, match="Too many"):
            shared.predict(b"3")
        torchserve.go_on.set()


def test_many_at_once_each_get_their_own_answer(stack: Stack) -> None:
    kinds = ["azure", "red", "purple"]
    pictures = {kind: encode(draw(kind, 5)) for kind in kinds} | {"bad": b"no image"}
    shared = Batches(stack.torchserve, calls=2, timeout=15)

    def ask(kind: str) -> str:
        try:
            return shared.predict(pictures[kind])["predicted_class"]
        except ImageRefused:
            return "bad"

    asked = [*kinds, "bad"] * 50
    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, asked)) == asked

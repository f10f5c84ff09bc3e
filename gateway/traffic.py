"""A share of the live traffic for a new version: answered by it, as a canary, or sent to it afterwards, as a shadow.

`classifier models roll` writes a file that says which version gets which share. The processes of the gateway append to
another file beside it, which the command reads: a line of JSON for each answer that is to be compared.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import Empty, Full, Queue
from random import random
from threading import Thread
from typing import NamedTuple, NotRequired, TypedDict

from gateway import context
from gateway.admission import Gate
from gateway.backend import Answer, Backend, BackendError, Busy, Prediction, TooSlow
from gateway.batches import Batches, part_of_call
from gateway.limits import MAX_BATCH
from gateway.metrics import count_compared

LOOK_SECONDS = 0.5  # between two looks at the file, so that a request costs nothing while there is no such version
MAX_SHADOWS = 2 * MAX_BATCH  # images that wait for the new version, in each process
MOST_HELD = 0.5  # of the bytes that a process holds; the rest is for those who wait for an answer
TOGETHER_SECONDS = 3.0  # in which they come together for a call
PATIENCE = 5.0  # seconds that they wait for a moment in which nobody else does
MAX_SEEN_BYTES = 100_000_000  # of the file of answers, which are half a million
NICENESS = 10  # so that others wait for no such version; on a busy machine it still gets a tenth of a core
PAUSE = 0.01  # seconds between two looks for such a moment
logger = logging.getLogger(__name__)
# Has the default version predict the image of a request, or the one that given Batches ask.
Serve = Callable[..., Prediction]


class Split(TypedDict):
    """Which version gets which share (0 to 0.5) of the traffic, until when (seconds since 1970); as a canary or not.

    The command makes `until` later again and again, so that the share ends soon after the command, however that ends.
    `roll` is the same in all of them, and in the answers, because some of an earlier roll may come late.
    """

    roll: str
    version: str
    canary: bool
    share: float
    until: float


class Compared(TypedDict):
    """An answer of a version to a request, or the reason why it gave none, or None if there was no time to ask it.

    `seconds` is its time, or for a shadow its part of the time of a call that several images share. A shadow `agrees`
    if it predicts the class that was answered.
    """

    id: str
    version: str
    roll: NotRequired[str]  # as written
    seconds: NotRequired[float]
    predicted_class: NotRequired[str]
    confidence: NotRequired[float]
    agrees: NotRequired[bool]
    failed: NotRequired[str | None]


class Shadow(NamedTuple):
    """An image for the new version, and what the served one has answered."""

    image: bytes
    split: Split
    served: Compared

    @property
    def version(self) -> str:
        return self.split["version"]


def seen_file(file: Path) -> Path:
    """Return where the answers lie that belong to the file of a split."""
    return file.with_suffix(".jsonl")


class Traffic:
    """Splits predictions as `file` says. Nothing is split while it is not there. A canary has `calls` calls at once."""

    def __init__(self, file: Path, gate: Gate, backend: Backend, calls: int = 1) -> None:
        self._file, self._gate, self._backend = file, gate, backend
        self._split: Split | None = None
        self._next_look = 0.0
        self._canaries = Batches(backend, gate.canary, calls, self._new_version, NICENESS)
        self._shadows: Queue[Shadow] = Queue(MAX_SHADOWS)
        self._next: Shadow | None = None  # that did not fit into the last call
        Thread(target=self._ask_for_ever, daemon=True).start()

    def predict(self, image: bytes, request: str, serve: Serve) -> Prediction:
        """Return the prediction for the request of that id. Raises BackendError only if the default version does."""
        split = self._current()
        place = random() / split["share"] if split else 2  # noqa: S311 - nobody gains by guessing it
        if not split or place >= (2 if split["canary"] else 1):
            return serve()
        if split["canary"] and place < 1:
            return self._by_canary(split, request, serve)
        served, compared = _timed(request, serve)
        if split["canary"]:
            self._note(split, compared)  # as many as the canary has, to compare them with
        else:
            self._cast(Shadow(image, split, compared))
        return served

    def _current(self) -> Split | None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._split = self._read()
        return self._split if self._split and time.time() < self._split["until"] else None

    def _read(self) -> Split | None:
        try:
            split: Split = json.loads(self._file.read_text())
            if not isinstance(split, dict) or Split.__required_keys__ - split.keys():  # of another release, perhaps
                raise ValueError(f"it has not the keys {', '.join(Split.__annotations__)}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # no reason to refuse a request
            logger.warning("%s cannot be read, so no version gets a share of the traffic: %s", self._file, error)
            return None
        return split

    def _new_version(self) -> str | None:
        split = self._current()
        return split["version"] if split else None

    def _by_canary(self, split: Split, request: str, serve: Serve) -> Prediction:
        try:
            prediction, compared = _timed(request, partial(serve, shared=self._canaries))
        except Exception as error:  # whatever its code raises, somebody waits for an answer
            prediction = serve()  # if that fails too, the image is to blame, or both
            compared = {"id": request, "version": split["version"], "failed": _reason(error)}
        self._note(split, compared)
        return prediction

    def _cast(self, shadow: Shadow) -> None:
        """Have the new version predict an image too, unless there is no place for that."""
        try:
            self._gate.hold(len(shadow.image), MOST_HELD)
            self._shadows.put_nowait(shadow)
        except Busy:
            self._note(shadow.split, shadow.served, _skipped(shadow))
        except Full:
            self._gate.release(len(shadow.image))
            self._note(shadow.split, shadow.served, _skipped(shadow))

    def _ask_for_ever(self) -> None:
        while True:
            self._ask(self._together())

    def _ask(self, shadows: list[Shadow]) -> None:
        try:
            for shadow, compared in zip(shadows, self._asked(shadows), strict=True):
                self._note(shadow.split, shadow.served, compared)
        except Exception:  # whatever it is, the next images have their turn
            logger.exception("A version that gets a share of the traffic answered what nobody understands.")
        finally:
            self._gate.release(sum(len(shadow.image) for shadow in shadows))

    def _together(self) -> list[Shadow]:
        """Wait for images that share a call: the fewer calls, the fewer requests meet one and take longer for it."""
        shadows = [self._next or self._shadows.get()]
        self._next = None
        until, room = time.monotonic() + TOGETHER_SECONDS, 1 - part_of_call(shadows[0].image)
        while room > 0:
            try:
                shadow = self._shadows.get(timeout=max(0, until - time.monotonic()))
            except Empty:
                break
            room -= part_of_call(shadow.image)
            if room < 0:
                self._next = shadow
            else:
                shadows.append(shadow)
        return shadows

    def _asked(self, shadows: list[Shadow]) -> Iterator[Compared]:
        """Yield what the new version has answered, or for each image why not."""
        if not self._is_time_for(shadows[0].split["roll"]):
            yield from map(_skipped, shadows)
            return
        try:
            yield from self._answers(shadows)
        except (Busy, TooSlow):  # a busy machine has little time for what gives way to others
            yield from map(_skipped, shadows)
        except Exception as error:  # whatever its code raises
            if len(shadows) > 1:  # one of the images may have spoilt the call for all
                for shadow in shadows:
                    yield from self._asked([shadow])
            elif self._is_served(shadows[0].image):
                yield from (_failed(shadow, _reason(error)) for shadow in shadows)
            else:
                yield from map(_skipped, shadows)

    def _is_time_for(self, roll: str) -> bool:
        """Wait until nobody else waits; returns False if that takes too long, or the roll has ended."""
        until = time.monotonic() + PATIENCE
        while (split := self._current()) and split["roll"] == roll and time.monotonic() < until:
            if not self._gate.waiting():
                return True
            time.sleep(PAUSE)
        return False

    def _answers(self, shadows: list[Shadow]) -> list[Compared]:
        images = [shadow.image for shadow in shadows]
        started = time.perf_counter()
        answers = self._gate.call(partial(_predict, self._backend, images, shadows[0].version), len(images))
        seconds = (time.perf_counter() - started) / len(shadows)
        return [
            _compared(shadow.served["id"], answer, seconds)
            | {"agrees": answer["predicted_class"] == shadow.served["predicted_class"]}
            if answer["success"]
            else _failed(shadow, answer["error"])
            for shadow, answer in zip(shadows, answers, strict=True)
        ]

    def _is_served(self, image: bytes) -> bool:
        """Return whether the served version still predicts an image, so that the new one alone is to blame."""
        try:
            self._gate.call(partial(self._backend.predict, image))
        except BackendError:
            return False
        return True

    def _note(self, split: Split, *compared: Compared) -> None:
        for each in compared:
            each["roll"] = split["roll"]
            if each.get("failed", "") is not None:
                count_compared(each["version"], failed="failed" in each)
        lines = "".join(f"{json.dumps(each)}\n" for each in compared)
        try:
            with seen_file(self._file).open("a", encoding="utf-8") as file:
                if file.tell() < MAX_SEEN_BYTES:
                    file.write(lines)
        except OSError as error:  # on a full disk the predictions go on
            logger.warning("What a version answered cannot be written: %s", error)


def _predict(backend: Backend, images: list[bytes], version: str) -> list[Answer]:
    with context.set_to(context.NICENESS, NICENESS):
        if len(images) > 1:
            return backend.predict_all(images, version)
        return [backend.predict(images[0], version)]


def _timed(request: str, predict: Callable[[], Prediction]) -> tuple[Prediction, Compared]:
    started = time.perf_counter()
    prediction = predict()
    return prediction, _compared(request, prediction, time.perf_counter() - started)


def _compared(request: str, prediction: Prediction, seconds: float) -> Compared:
    return {
        "id": request,
        "version": prediction["version"],
        "seconds": round(seconds, 6),
        "predicted_class": prediction["predicted_class"],
        "confidence": prediction["confidence"],
    }


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, BackendError) else f"{type(error).__name__}: {error}"


def _failed(shadow: Shadow, reason: str) -> Compared:
    return _skipped(shadow) | {"failed": reason}


def _skipped(shadow: Shadow) -> Compared:
    return {"id": shadow.served["id"], "version": shadow.version, "failed": None}

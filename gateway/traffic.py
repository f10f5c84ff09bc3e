"""A share of the live traffic for a new version: answered by it, as a canary, or sent to it afterwards, as a shadow.

`classifier models roll` writes a file that says which version gets which share. The processes of the gateway append to
another file beside it, which the command reads: a line of JSON for each answer that is to be compared.
"""

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty, Full, Queue
from random import random
from threading import Thread
from typing import NamedTuple, NotRequired, TypedDict

from gateway.admission import Gate
from gateway.backend import Answer, Backend, BackendError, Busy, Prediction
from gateway.batches import part_of_call
from gateway.limits import MAX_BATCH
from gateway.metrics import count_compared

LOOK_SECONDS = 0.5  # between two looks at the file, so that a request costs nothing while there is no such version
MAX_SHADOWS = 2 * MAX_BATCH  # images that wait for the new version, in each process
TOGETHER_SECONDS = 3.0  # in which they come together for a call
PATIENCE = 5.0  # seconds that they wait for a moment in which nobody else does
MAX_SEEN_BYTES = 100_000_000  # of the file of answers, which are half a million
PAUSE = 0.01  # seconds between two looks for such a moment
logger = logging.getLogger(__name__)
Serve = Callable[[str | None], Prediction]  # has a version, or the default one, predict the image of a request


class Split(TypedDict):
    """Which version gets which share (0 to 0.5) of the traffic, until when (seconds since 1970); as a canary or not."""

    version: str
    canary: bool
    share: float
    until: float


class Compared(TypedDict):
    """An answer of a version to a request, or the reason why it gave none, or None if there was no time to ask it.

    `seconds` is its time, or its part of the time of a call that several images share.
    """

    id: str
    version: str
    seconds: NotRequired[float]
    predicted_class: NotRequired[str]
    confidence: NotRequired[float]
    failed: NotRequired[str | None]


class Shadow(NamedTuple):
    """An image for the new version, and what the served one has answered."""

    image: bytes
    version: str
    served: Compared


def seen_file(file: Path) -> Path:
    """Return where the answers lie that belong to the file of a split."""
    return file.with_suffix(".jsonl")


class Traffic:
    """Splits predictions as `file` says. Nothing is split while it is not there."""

    def __init__(self, file: Path, gate: Gate, backend: Backend) -> None:
        self._file, self._gate, self._backend = file, gate, backend
        self._split: Split | None = None
        self._next_look = 0.0
        self._shadows: Queue[Shadow] = Queue(MAX_SHADOWS)
        self._next: Shadow | None = None  # that did not fit into the last call
        Thread(target=self._ask_for_ever, daemon=True).start()

    def predict(self, image: bytes, request: str, serve: Serve) -> Prediction:
        """Return the prediction for the request of that id. Raises BackendError only if the default version does."""
        split = self._current()
        place = random() / split["share"] if split else 2  # noqa: S311 - nobody gains by guessing it
        if not split or place >= (2 if split["canary"] else 1):
            return serve(None)
        if split["canary"] and place < 1:
            return self._by_canary(split["version"], request, serve)
        served, compared = _timed(request, partial(serve, None))
        if split["canary"]:
            self._note(compared)  # as many as the canary has, to compare them with
        else:
            self._cast(Shadow(image, split["version"], compared))
        return served

    def _current(self) -> Split | None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            try:
                self._split = json.loads(self._file.read_text())
            except FileNotFoundError:
                self._split = None
        return self._split if self._split and time.time() < self._split["until"] else None

    def _by_canary(self, version: str, request: str, serve: Serve) -> Prediction:
        try:
            prediction, compared = _timed(request, partial(serve, version))
        except Busy:  # it is not to blame
            return serve(None)
        except Exception as error:  # whatever its code raises, somebody waits for an answer
            prediction = serve(None)  # if that fails too, the image is to blame, or both
            compared = {"id": request, "version": version, "failed": _reason(error)}
        self._note(compared)
        return prediction

    def _cast(self, shadow: Shadow) -> None:
        """Have the new version predict an image too, unless there is no place for that."""
        try:
            self._gate.hold(len(shadow.image))
            self._shadows.put_nowait(shadow)
        except Busy:
            self._note(shadow.served, _skipped(shadow))
        except Full:
            self._gate.release(len(shadow.image))
            self._note(shadow.served, _skipped(shadow))

    def _ask_for_ever(self) -> None:
        while True:
            shadows = self._together()
            try:
                for shadow, compared in zip(shadows, self._asked(shadows), strict=True):
                    self._note(shadow.served, compared)
            finally:
                self._gate.release(sum(len(shadow.image) for shadow in shadows))
            del shadows, shadow  # with their images, while the next are waited for

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

    def _asked(self, shadows: list[Shadow]) -> list[Compared]:
        until = time.monotonic() + PATIENCE
        while self._gate.waiting():
            if time.monotonic() > until:
                return list(map(_skipped, shadows))
            time.sleep(PAUSE)
        images, version = [shadow.image for shadow in shadows], shadows[0].version
        started = time.perf_counter()
        try:
            answers = self._gate.call(partial(_predict, self._backend, images, version), len(images))
        except Busy:
            return list(map(_skipped, shadows))
        except Exception as error:  # whatever its code raises, the next images have their turn
            return [_failed(shadow, _reason(error)) for shadow in shadows]
        seconds = (time.perf_counter() - started) / len(shadows)
        return [
            _compared(shadow.served["id"], answer, seconds) if answer["success"] else _failed(shadow, answer["error"])
            for shadow, answer in zip(shadows, answers, strict=True)
        ]

    def _note(self, *compared: Compared) -> None:
        for each in compared:
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

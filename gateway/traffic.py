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
from queue import Full, Queue
from random import random
from threading import Thread
from typing import NamedTuple, NotRequired, TypedDict

from gateway.admission import Gate
from gateway.backend import Backend, BackendError, Busy, Prediction
from gateway.metrics import count_compared

LOOK_SECONDS = 0.5  # between two looks at the file, so that a request costs nothing while there is no such version
MAX_SHADOWS = 4  # images that wait for the new version, in each process
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
    """An answer of a version to a request, or the reason why it gave none, or None if there was no time to ask it."""

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
        """Have the new version predict an image too, unless there is no time, or no place, for that."""
        try:
            self._gate.hold(len(shadow.image))
            try:
                self._shadows.put_nowait(shadow)
            except Full:
                self._gate.release(len(shadow.image))
                raise Busy from None
        except Busy:
            self._note(shadow.served, _skipped(shadow))

    def _ask_for_ever(self) -> None:
        while True:
            shadow = self._shadows.get()
            try:
                self._note(shadow.served, self._asked(shadow))
            finally:
                self._gate.release(len(shadow.image))
            del shadow  # with its image, while the next is waited for

    def _asked(self, shadow: Shadow) -> Compared:
        until = time.monotonic() + PATIENCE
        while self._gate.waiting():
            if time.monotonic() > until:
                return _skipped(shadow)
            time.sleep(PAUSE)
        ask = partial(self._backend.predict, shadow.image, shadow.version)
        try:
            return _timed(shadow.served["id"], partial(self._gate.call, ask))[1]
        except Busy:
            return _skipped(shadow)
        except Exception as error:  # whatever its code raises, the next image has its turn
            return _skipped(shadow) | {"failed": _reason(error)}

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


def _timed(request: str, predict: Callable[[], Prediction]) -> tuple[Prediction, Compared]:
    started = time.perf_counter()
    prediction = predict()
    return prediction, {
        "id": request,
        "version": prediction["version"],
        "seconds": round(time.perf_counter() - started, 6),
        "predicted_class": prediction["predicted_class"],
        "confidence": prediction["confidence"],
    }


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, BackendError) else f"{type(error).__name__}: {error}"


def _skipped(shadow: Shadow) -> Compared:
    return {"id": shadow.served["id"], "version": shadow.version, "failed": None}

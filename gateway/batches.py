"""Images that arrive together share a call to the model, as a call costs far more than a small image in it."""

import queue
import time
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any, NamedTuple

from gateway import metrics
from gateway.local import Backend
from gateway.torchserve import ImageRefused, TooSlow, Unavailable

SMALL = 64 * 1024  # bytes; a larger image takes longer to decode than a call does, and goes alone
TOGETHER = 16  # small images in a call
MAX_WAITING = 150  # small images, and as many others, which may take 10 MB each


class Busy(Unavailable):
    def __init__(self, message: str = "Too many images are waiting.") -> None:
        super().__init__(message)


class Turn(NamedTuple):
    """An image that waits, what will be said of it, and since when it waits (as perf_counter has it)."""

    image: bytes
    answer: Future[dict[str, Any]]
    since: float


class Line(queue.Queue[Turn]):
    """Images that wait, in the order they came; it tells how many there are, and how long each waited."""

    def __init__(self, size: str) -> None:
        super().__init__(MAX_WAITING)
        self._waiting = metrics.IMAGES_WAITING.labels(size)

    def _put(self, turn: Turn) -> None:
        super()._put(turn)
        self._waiting.set(self._qsize())

    def _get(self) -> Turn:
        turn = super()._get()
        self._waiting.set(self._qsize())
        metrics.QUEUE.observe(time.perf_counter() - turn.since)
        return turn


class Batches:
    """Sends what waits, in the order it came; nothing waits while a call is free.

    At most `calls` with small images are under way at once, and as many with a large one each, as TorchServe would hold
    all of them in memory. `timeout`, in seconds, is that of one image, its waiting included.
    """

    def __init__(self, backend: Backend, calls: int, timeout: float) -> None:
        self._backend, self._timeout = backend, timeout
        self._small, self._large = Line("small"), Line("large")
        for waiting, together in [(self._small, TOGETHER), (self._large, 1)] * calls:
            Thread(target=self._send_for_ever, args=(waiting, together), daemon=True).start()

    def predict(self, image: bytes) -> dict[str, Any]:
        """Do what TorchServe.predict does, raise what it raises."""
        turn = Turn(image, Future(), time.perf_counter())
        try:
            self._queue(len(image)).put_nowait(turn)
        except queue.Full:
            raise Busy from None
        try:
            return turn.answer.result(self._timeout)
        except TimeoutError:
            turn.answer.cancel()
            raise TooSlow("The model took too long to answer.") from None

    def turn_away_if_full(self, size: int) -> None:
        """Raise Unavailable if an image of about `size` bytes would find no place, before anything is done with it."""
        if self._queue(size).full():
            raise Busy

    def _queue(self, size: int) -> Line:
        return self._small if size <= SMALL else self._large

    def _send_for_ever(self, waiting: Line, together: int) -> None:
        while True:
            turns = [waiting.get()]
            with suppress(queue.Empty):
                while len(turns) < together:
                    turns.append(waiting.get_nowait())
            self._send([turn for turn in turns if turn.answer.set_running_or_notify_cancel()])

    def _send(self, turns: list[Turn]) -> None:
        outcomes: list[Any]
        try:
            answers = self._ask([turn.image for turn in turns])
            outcomes = [ImageRefused(each["error"], each["status"]) if "error" in each else each for each in answers]
        except Exception as error:  # whatever it is, nobody is left waiting
            outcomes = [error] * len(turns)
        for turn, outcome in zip(turns, outcomes, strict=True):
            if isinstance(outcome, Exception):
                turn.answer.set_exception(outcome)
            else:
                turn.answer.set_result(outcome)

    def _ask(self, images: list[bytes]) -> list[dict[str, Any]]:
        return self._backend.predict_all(images) if len(images) > 1 else list(map(self._backend.predict, images))

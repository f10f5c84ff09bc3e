"""Small images that arrive together share a call to the model, because a call costs far more than each of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread

from gevent import get_hub

from gateway import context
from gateway.admission import Line, Turn
from gateway.backend import Answer, Backend, ImageRefused, Prediction, TooSlow
from gateway.limits import MAX_BATCH, MAX_BATCH_BYTES, MAX_BATCH_PIXELS, MAX_CALL_PIXELS
from gateway.pixels import JPEG, pixels


def part_of_call(image: bytes) -> float:
    """Return how much of a call an image takes that shares it with others; 1 or more for one that goes alone."""
    said = pixels(image) or MAX_BATCH_PIXELS  # one that does not say its size may be as large
    return max(1 / MAX_BATCH, len(image) / MAX_BATCH_BYTES, said / MAX_BATCH_PIXELS)


def calls_of(images: list[bytes]) -> Iterator[list[bytes]]:
    """Divide the images of a request into calls, so that no worker decodes for long; a few bytes may be many pixels.

    A JPEG counts as a quarter, because it is decoded smaller.
    """
    call: list[bytes] = []
    room = 0.0
    for image in images:
        said = pixels(image) or MAX_CALL_PIXELS
        cost = said / 4 if image.startswith(JPEG) else said
        if cost > room and call:
            yield call
            call = []
        room = (room if call else MAX_CALL_PIXELS) - cost
        call.append(image)
    yield call


class Batches:
    """Sends the images of a line, in order, in at most `calls` calls at once; nothing waits while a call is free.

    An image that comes alone spares itself the line if the backend agrees, as it does for a light one at any time.

    `version` returns which version a call is for, or None for the default one. If a call to a given version fails, each
    of its images is tried alone, because one of them may have spoilt the call for all. `niceness` says how far the
    calls give way to others.
    """

    def __init__(
        self,
        backend: Backend,
        line: Line[bytes],
        calls: int,
        version: Callable[[], str | None] = lambda: None,
        niceness: int = 0,
    ) -> None:
        self._backend, self._line, self._version, self._niceness = backend, line, version, niceness
        self._free = calls
        for _ in range(calls):
            Thread(target=self._send_for_ever, daemon=True).start()

    def predict(self, image: bytes, spent: float = 0) -> Prediction:
        """Do what Backend.predict does; raises what that and Line.wait raise. `spent` is as in Line.wait."""
        version = self._version()
        alone = not self._line.images and not get_hub().loop.pendingcnt
        if alone and self._backend.may_skip_line(image, version, free=self._free > 0):
            with self._calling():
                return self._line.skip(partial(self._backend.predict, image, version), spent)
        return self._line.wait(image, part=part_of_call(image), spent=spent)

    def _send_for_ever(self) -> None:
        while True:
            turns = self._line.take(lambda: self._free > 0)
            with self._calling():
                self._send(turns)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        self._free -= 1
        try:
            with context.set_to(context.NICENESS, self._niceness):
                yield
        finally:
            self._free += 1
            self._line.wake()

    def _send(self, turns: list[Turn[bytes]]) -> None:
        version = self._version()
        try:
            answers = self._predict_all(turns, version)
            for turn, answer in zip(turns, answers, strict=True):
                turn.end(_outcome(answer))
        except Exception as error:  # whatever it is, nobody is left waiting
            if version and len(turns) > 1 and not isinstance(error, TooSlow):
                for turn in turns:
                    self._send([turn])
            else:
                for turn in turns:
                    turn.end(error)

    def _predict_all(self, turns: list[Turn[bytes]], version: str | None) -> list[Answer]:
        if len(turns) > 1:  # of which a trace could name only one
            return self._backend.predict_all([turn.work for turn in turns], version)
        with context.set_to(context.PLACE, turns[0].place):
            return [self._backend.predict(turns[0].work, version)]


def _outcome(answer: Answer) -> Prediction | ImageRefused:
    return answer if answer["success"] else ImageRefused(answer["error"], answer["status"])

"""Small images that arrive together share a call to the model, because a call costs far more than each of them."""

from threading import Thread
from typing import Any

from gateway.admission import Line, Turn
from gateway.embedded import Backend
from gateway.torchserve.client import ImageRefused

MAX_BATCH = 16  # small images in a call


class Batches:
    """Sends the images of a line, in order, in at most `calls` calls at once; nothing waits while a call is free."""

    def __init__(self, backend: Backend, line: Line[bytes], calls: int) -> None:
        self._backend, self._line = backend, line
        for _ in range(calls):
            Thread(target=self._send_for_ever, daemon=True).start()

    def predict(self, image: bytes) -> dict[str, Any]:
        """Do what TorchServe.predict does; raises what that and Line.wait raise."""
        return self._line.wait(image)

    def _send_for_ever(self) -> None:
        while True:
            self._send(self._line.take(MAX_BATCH))

    def _send(self, turns: list[Turn[bytes]]) -> None:
        outcomes: list[Any]
        try:
            answers = self._ask([turn.work for turn in turns])
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

"""Small images that arrive together share a call to the model, because a call costs far more than each of them."""

from collections.abc import Sequence
from threading import Thread

from gateway.admission import Line, Turn
from gateway.backend import Answer, Backend, ImageRefused, Prediction
from gateway.limits import MAX_BATCH


class Batches:
    """Sends the images of a line, in order, in at most `calls` calls at once; nothing waits while a call is free."""

    def __init__(self, backend: Backend, line: Line[bytes], calls: int) -> None:
        self._backend, self._line = backend, line
        for _ in range(calls):
            Thread(target=self._send_for_ever, daemon=True).start()

    def predict(self, image: bytes) -> Prediction:
        """Do what Backend.predict does; raises what that and Line.wait raise."""
        return self._line.wait(image)

    def _send_for_ever(self) -> None:
        while True:
            self._send(self._line.take(MAX_BATCH))

    def _send(self, turns: list[Turn[bytes]]) -> None:
        outcomes: Sequence[Prediction | Exception]
        try:
            outcomes = list(map(_outcome, self._predict_all([turn.work for turn in turns])))
        except Exception as error:  # whatever it is, nobody is left waiting
            outcomes = [error] * len(turns)
        for turn, outcome in zip(turns, outcomes, strict=True):
            if isinstance(outcome, Exception):
                turn.answer.set_exception(outcome)
            else:
                turn.answer.set_result(outcome)

    def _predict_all(self, images: list[bytes]) -> list[Answer]:
        return self._backend.predict_all(images) if len(images) > 1 else [self._backend.predict(images[0])]


def _outcome(answer: Answer) -> Prediction | ImageRefused:
    return answer if answer["success"] else ImageRefused(answer["error"], answer["status"])

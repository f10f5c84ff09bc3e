"""The part of TorchServe that the gateway needs: predictions, explanations, and the state of the versions."""

from typing import Any
from urllib.parse import quote

from gateway import context, metrics
from gateway.archives import check_card
from gateway.backend import (
    Answer,
    Details,
    Explanation,
    ImageRefused,
    OutdatedArchive,
    Prediction,
    Unavailable,
    Version,
    WorkerDied,
)
from gateway.torchserve.api import INFERENCE, Api, ready_workers, versioned
from gateway.torchserve.client import Headers
from gateway.torchserve.properties import MODEL

PREDICTIONS = f"/predictions/{MODEL}"
EXPLANATIONS = f"/explanations/{MODEL}"
MAX_REMEMBERED = 8  # nodes, or starts of a worker, whose description is kept
Seen = tuple[str, tuple[tuple[str, str], ...]]  # a version, and which of its workers are ready, since when


class Inference:
    """The Backend that TorchServe is, on this machine or on several nodes."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._remembered: dict[Seen, Details] = {}

    def may_skip_line(self, image: bytes, version: str | None, free: bool) -> bool:
        return free  # a thread that waits for TorchServe can leave at any time

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        (answer,) = _current([self._predict(version, image)])
        return answer

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[Answer]:
        if len(images) == 1:  # which TorchServe refuses by the status of its reply
            try:
                return [self.predict(images[0], version)]
            except ImageRefused as error:
                return [{"error": str(error), "status": error.status, "success": False}]
        # One after another, because TorchServe's Java takes as long to find the parts of a form as they take to decode.
        headers = {"file-lengths": ",".join(str(len(image)) for image in images)}
        answers = self._predict(version, b"".join(images), headers)
        if not isinstance(answers, list):  # its handler has seen one image
            raise OutdatedArchive
        if len(answers) != len(images):
            raise Unavailable(f"TorchServe gave {len(answers)} answers for {len(images)} images.")
        return _current(answers)

    def explain(self, image: bytes, class_name: str, version: str | None = None) -> Explanation:
        # Not a field of a form, because only a header can say to which image of a batch it belongs.
        headers = {"explained-class": quote(class_name, safe="")}
        (explanation,) = _current([self._post(EXPLANATIONS, version, image, headers)])
        return explanation

    def details(self) -> Details:
        """Describe the default version; of several nodes, the one that answers. A worker is asked once per start."""
        seen = _seen(self._api.describe()[0])
        if seen not in self._remembered:
            # It may be of another version: a roll has just made it the default, or another node answers. The request
            # names no version: TorchServe takes one for a prediction if both of its APIs have one address.
            description = self._api.describe_by_worker()
            seen = _seen(description)
            card, device = (description["customizedMetadata"][key] for key in ("card", "device"))
            check_card(card)
            while len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)), None)
            self._remembered[seen] = {"card": card, "device": device, "version": seen[0], "workers": len(seen[1])}
        return self._remembered[seen]

    def versions(self) -> list[Version]:
        listed = self._api.describe_all()
        default = listed[0]["modelVersion"] if len(listed) == 1 else self._api.describe()[0]["modelVersion"]
        return [
            {
                "version": description["modelVersion"],
                "default": description["modelVersion"] == default,
                "workers": len(ready_workers(description)),
            }
            for description in listed
        ]

    def _predict(self, version: str | None, body: bytes, headers: Headers | None = None) -> Any:
        with metrics.INFERENCE.time():
            return self._post(PREDICTIONS, version, body, headers)

    def _post(self, path: str, version: str | None, body: bytes, headers: Headers | None = None) -> Any:
        path = versioned(path, version)
        for variable in (context.PLACE, context.NICENESS):
            if value := variable.get():
                headers = {**(headers or {}), variable.name: str(value)}
        try:
            return self._api.call(INFERENCE, "POST", path, body, headers)
        except WorkerDied:  # a prediction changes nothing, so another worker may make it, once
            return self._api.call(INFERENCE, "POST", path, body, headers)


def _seen(description: dict[str, Any]) -> Seen:
    """Return the version of a description and its workers. Raises Unavailable if none is ready."""
    workers = tuple((worker["id"], worker["startTime"]) for worker in ready_workers(description))
    if not workers:
        raise Unavailable("The model is not ready yet.")
    return description["modelVersion"], workers


def _current(answers: list[Any]) -> list[Any]:
    """Return answers of the form in gateway.backend. Raises OutdatedArchive for others."""
    if not all("success" in answer for answer in answers):
        raise OutdatedArchive
    return answers

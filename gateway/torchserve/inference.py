"""The part of TorchServe that the gateway needs: predictions, explanations, and the state of the versions."""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from gateway import context, metrics
from gateway.archives import check_card
from gateway.backend import (
    Answer,
    Details,
    Explanation,
    NoSuchVersion,
    OutdatedArchive,
    Prediction,
    Unavailable,
    Version,
    WorkerDied,
)
from gateway.torchserve.api import INFERENCE, Api, ready_workers, versioned
from gateway.torchserve.nodes import Headers
from gateway.torchserve.properties import MODEL

PREDICTIONS = f"/predictions/{MODEL}"
EXPLANATIONS = f"/explanations/{MODEL}"
MAX_TRIES = 3  # times to look for a version that is unregistered before it can describe itself
MAX_REMEMBERED = 8  # nodes, or starts of a worker, whose description is kept
Starts = tuple[tuple[str, str], ...]  # which workers are ready, and when each was started


class Inference:
    """The Backend that TorchServe is, on this machine or on several nodes."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._remembered: Callable[[str, Starts], Details] = lru_cache(MAX_REMEMBERED)(self._details_of)

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        (answer,) = _current([self._predict(version, image)])
        return answer

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[Answer]:
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
        for _ in range(MAX_TRIES):
            with suppress(NoSuchVersion):  # a roll has just replaced it, so another one is the default
                return self._default_details()
        raise Unavailable("The versions of the model are changing just now.")

    def versions(self) -> list[Version]:
        default = self._api.describe()[0]["modelVersion"]
        return [
            {
                "version": description["modelVersion"],
                "default": description["modelVersion"] == default,
                "workers": len(ready_workers(description)),
            }
            for description in self._api.describe("all")
        ]

    def _default_details(self) -> Details:
        description = self._api.describe()[0]
        starts = tuple((worker["id"], worker["startTime"]) for worker in ready_workers(description))
        if not starts:
            raise Unavailable("The model is not ready yet.")
        return self._remembered(description["modelVersion"], starts)

    def _details_of(self, version: str, starts: Starts) -> Details:
        """Have a worker describe the default version. Raises NoSuchVersion if that is no longer `version`.

        The request names no version: TorchServe takes one for a prediction if both of its APIs have one address.
        """
        description = self._api.describe_by_worker()
        if description["modelVersion"] != version:
            raise NoSuchVersion(f"Version {version!r} is not the default here.")
        card, device = (description["customizedMetadata"][key] for key in ("card", "device"))
        check_card(card)
        return {"card": card, "device": device, "version": version, "workers": len(starts)}

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


def _current(answers: list[Any]) -> list[Any]:
    """Return answers of the form in gateway.backend. Raises OutdatedArchive for others."""
    if not all("success" in answer for answer in answers):
        raise OutdatedArchive
    return answers

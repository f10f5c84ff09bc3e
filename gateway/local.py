"""The model in the gateway's own process, for the smallest deployments: neither TorchServe nor Java.

It has the methods of TorchServe that answer requests, and raises what they raise.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gevent import get_hub

from gateway import metrics
from gateway.torchserve import ImageRefused, NoSuchVersion, TorchServe

T = TypeVar("T")


class Local:
    """Answers from an archive that is unpacked in `folder`, whose own code it runs.

    `workers` is how many calls of each kind the gate lets through at once, each in a thread.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        sys.path.insert(0, str(folder))
        from handler import model, onnx_engine

        self._read, self._model = model.read, onnx_engine.load(folder, threads=1)
        self._workers = workers

    def predict(self, image: bytes, version: str | None = None) -> dict[str, Any]:
        (answer,) = self.predict_all([image], version)
        return _unless_refused(answer)

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[dict[str, Any]]:
        self._check(version)
        with metrics.INFERENCE.time():
            return self._do(lambda: self._model.predict(list(map(self._read, images))))

    def explain(self, image: bytes, class_name: str, version: str | None = None) -> dict[str, Any]:
        self._check(version)
        return _unless_refused(self._do(lambda: self._model.explain(self._read(image), class_name)))

    def details(self) -> dict[str, Any]:
        return {"card": self._model.card, "device": "cpu", "version": self._model.version, "workers": self._workers}

    def versions(self) -> list[dict[str, Any]]:
        return [{"version": self._model.version, "default": True, "workers": self._workers}]

    def _check(self, version: str | None) -> None:
        if version not in (None, "", self._model.version):
            raise NoSuchVersion(f"There is no version {version!r}.")

    def _do(self, work: Callable[[], T]) -> T:
        return get_hub().threadpool.apply(work)  # in a real thread, so that connections are served meanwhile


Backend = TorchServe | Local


def _unless_refused(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise ImageRefused(answer["error"], answer["status"])
    return answer

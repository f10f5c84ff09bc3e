"""The Backend that runs archives in this process."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gevent import get_hub
from gevent.monkey import get_original

from gateway import metrics
from gateway.backend import (
    NO_MODEL,
    Answer,
    Details,
    Explanation,
    ImageRefused,
    NoSuchVersion,
    Prediction,
    Unavailable,
    Version,
)
from gateway.embedded import control, versions
from gateway.embedded.engine import load
from gateway.limits import MAX_BATCH
from gateway.pixels import is_small, pixels

LARGE_PIXELS = 13_000_000  # of images that several threads decode at once; more, up to 50 million, take 8 bytes each
_ONE_AT_A_TIME = get_original("threading", "Lock")()  # because it is held in real threads
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Embedded:
    """Answers from archives, whose own code it runs: the one that is unpacked in `folder`, or those that lie there.

    The second is so if versions.json is in `folder`; that is followed. `workers` is how many calls of each kind the
    gate lets through at once, each in a thread. Raises OutdatedArchive if an archive was packed by an earlier version
    of this project.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder, self._workers = folder, workers
        self._models: dict[str, Any] = {}  # by the names of their folders, that of the default first
        if (folder / versions.FILE).exists():
            listener = control.open_socket(folder)
            self._begin()
            control.answer(listener, self._asked)
        else:
            self._models = {folder.name: load(folder)}

    def follow(self) -> None:
        """Serve what versions.json says; until that is loaded, and if it cannot be, what was served."""
        wanted = [version["folder"] for version in versions.read(self._folder)]
        self._models = {name: self._models.get(name) or self._load(name) for name in wanted}

    def _begin(self) -> None:
        """Serve what versions.json says, but for versions that cannot be loaded. Raises if that is the default."""
        for version in versions.read(self._folder):
            try:
                self._models[version["folder"]] = self._load(version["folder"])
            except Exception:
                if not self._models:
                    raise
                logger.warning("Version %s cannot be loaded, and is not served.", version["version"], exc_info=True)

    def _load(self, name: str) -> Any:
        return self._do(partial(load, self._folder / name))

    def _asked(self, image: bytes | None, version: str | None) -> Prediction | None:
        """Answer `classifier models`: predict an image, or else follow versions.json."""
        if image is not None:
            return self.predict(image, version)
        self.follow()
        return None

    def may_skip_line(self, image: bytes, version: str | None, free: bool) -> bool:
        return self._is_light(image, version)  # what is not cannot be left before it ends

    def _is_light(self, image: bytes, version: str | None) -> bool:
        """Say whether image and network are small. Others would keep all clients of this process waiting."""
        return self._model(version).batch_size >= MAX_BATCH and is_small(image)

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        work = partial(_predict, self._model(version), [image])
        (answer,) = work() if self._is_light(image, version) else self._do(work)
        return _unless_refused(answer)

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[Answer]:
        return self._do(partial(_predict, self._model(version), images))

    def explain(self, image: bytes, class_name: str, version: str | None = None) -> Explanation:
        model = self._model(version)
        return _unless_refused(self._do(lambda: model.explain(_read(model, image), class_name)))

    def details(self) -> Details:
        model = self._model()
        return {"card": model.card, "device": "cpu", "version": model.version, "workers": self._workers}

    def versions(self) -> list[Version]:
        default = self._model().version
        return [
            {"version": model.version, "default": model.version == default, "workers": self._workers}
            for model in self._models.values()
        ]

    def _model(self, version: str | None = None) -> Any:
        """Return the model of a version. Raises NoSuchVersion, or Unavailable if there is no model at all."""
        if not self._models:
            raise Unavailable(NO_MODEL)
        for model in self._models.values():
            if version in (None, "", model.version):
                return model
        raise NoSuchVersion(f"There is no version {version!r}.")

    def _do(self, work: Callable[[], T]) -> T:
        return get_hub().threadpool.apply(work)  # in a real thread, so that connections are served meanwhile


def _predict(model: Any, images: list[bytes]) -> list[Answer]:
    with metrics.INFERENCE.time():
        answers: list[Answer] = model.predict([_read(model, image) for image in images])
        return answers


def _read(model: Any, image: bytes) -> Any:
    if is_small(image) or 0 < pixels(image) <= LARGE_PIXELS:
        return model.read(image)
    with _ONE_AT_A_TIME:
        return model.read(image)


def _unless_refused(answer: Any) -> Any:
    if not answer["success"]:
        raise ImageRefused(answer["error"], answer["status"])
    return answer

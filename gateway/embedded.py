"""The model in the gateway's own process, for the smallest deployments: neither TorchServe nor Java.

It is a Backend, as TorchServe's Inference is.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, TypeVar

from gevent import get_hub

from gateway import metrics
from gateway.archives import CODE, ENGINE, check_files
from gateway.backend import (
    Answer,
    Details,
    Explanation,
    ImageRefused,
    NoSuchVersion,
    Prediction,
    Version,
)
from gateway.limits import MAX_BATCH
from gateway.pixels import is_small

T = TypeVar("T")
_IMPORTING = Lock()


class Embedded:
    """Answers from an archive that is unpacked in `folder`, whose own code it runs.

    `workers` is how many calls of each kind the gate lets through at once, each in a thread. Raises OutdatedArchive if
    the archive was packed by an earlier version of this project.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        check_files(folder)
        self._model = _import_engine(folder).load(folder, threads=1)
        self._workers = workers

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        self._check(version)
        work = partial(self._predict, [image])
        # A light network, which is one of large batches, takes less time for a small image than handing it to another
        # thread. A heavy one would keep the other clients of this process waiting.
        at_once = is_small(image) and self._model.batch_size >= MAX_BATCH
        (answer,) = work() if at_once else self._do(work)
        return _unless_refused(answer)

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[Answer]:
        self._check(version)
        return self._do(partial(self._predict, images))

    def explain(self, image: bytes, class_name: str, version: str | None = None) -> Explanation:
        self._check(version)
        return _unless_refused(self._do(lambda: self._model.explain(self._model.read(image), class_name)))

    def details(self) -> Details:
        return {"card": self._model.card, "device": "cpu", "version": self._model.version, "workers": self._workers}

    def versions(self) -> list[Version]:
        return [{"version": self._model.version, "default": True, "workers": self._workers}]

    def _predict(self, images: list[bytes]) -> list[Answer]:
        with metrics.INFERENCE.time():
            return self._model.predict(list(map(self._model.read, images)))

    def _check(self, version: str | None) -> None:
        if version not in (None, "", self._model.version):
            raise NoSuchVersion(f"There is no version {version!r}.")

    def _do(self, work: Callable[[], T]) -> T:
        return get_hub().threadpool.apply(work)  # in a real thread, so that connections are served meanwhile


def _import_engine(folder: Path) -> ModuleType:
    """Import the engine of the archive's own code, whatever code of that name this process has already.

    It is not left in sys.modules, so that the next archive gets its own too. So that code has to import all of itself
    when it is loaded.
    """
    package = folder / CODE
    spec = spec_from_file_location(CODE, package / "__init__.py", submodule_search_locations=[str(package)])
    if not spec or not spec.loader:
        raise ImportError(f"{package} is no package. Unpack an archive that 'classifier archive' has made.")
    code = module_from_spec(spec)
    with _IMPORTING:
        others = _forget_code()
        sys.modules[CODE] = code
        try:
            spec.loader.exec_module(code)
            return import_module(f"{CODE}.{ENGINE}")
        finally:
            _forget_code()
            sys.modules.update(others)


def _forget_code() -> dict[str, ModuleType]:
    """Take the code out of sys.modules; returns it."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == CODE}


def _unless_refused(answer: Any) -> Any:
    if not answer["success"]:
        raise ImageRefused(answer["error"], answer["status"])
    return answer

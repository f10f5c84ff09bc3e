"""The part of TorchServe that operators need: the versions it serves, and how many workers each has.

If TorchServe itself waits until workers have loaded, one of its few threads does nothing else meanwhile. Predictions
whose connections have that thread would wait too. So TorchServe answers at once here, and the state is read again and
again.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gateway.backend import BackendError, Deployed, Prediction, TooSlow, Unavailable
from gateway.torchserve.api import MANAGEMENT, Api, model_path, ready_workers
from gateway.torchserve.inference import Inference
from gateway.torchserve.properties import MODEL

POLL_SECONDS, DRAIN_POLL_SECONDS = 0.1, 0.05
DRAIN_SECONDS = 120  # at most; no client waits longer for an image in the queue


class Management:
    """Changes which versions the TorchServe of this machine serves. Several nodes are deployed instead, never changed.

    `config` is its config.properties, and `key_file` holds its keys. `timeout`, in seconds, is that of an answer, and
    of the start of all workers. `inference` predicts with it. Every method raises BackendError.
    """

    def __init__(self, config: Path, key_file: Path, timeout: float) -> None:
        self._api, self._timeout = Api.of_this_machine(config, key_file, timeout), timeout
        self.inference = Inference(self._api)

    def describe(self, version: str | None = None) -> list[dict[str, Any]]:
        """Describe the default version, a given one, or `all`: settings and workers."""
        return self._api.describe(version)

    def models(self) -> list[str]:
        """Return the names of all registered models."""
        return [model["modelName"] for model in self._api.call(MANAGEMENT, "GET", "/models?limit=100")["models"]]

    def versions(self) -> list[Deployed]:
        """Describe every version in short."""
        if not self.models():
            return []
        default = self.describe()[0]["modelVersion"]
        return [
            {
                "version": version["modelVersion"],
                "default": version["modelVersion"] == default,
                "archive": version["modelUrl"],
                "ready": len(ready_workers(version)),
                "workers": version["minWorkers"],
            }
            for version in self.describe("all")
        ]

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        """Predict the bytes of an image file, as `inference` does."""
        return self.inference.predict(image, version)

    def register(self, archive: str) -> str:
        """Register an archive of the model store by its file name, and wait for its workers; returns its version.

        It gets as many workers as the default version has, because TorchServe does not look into the archive for that.
        If they do not start, it is unregistered. Raises Unavailable then, or TooSlow.
        """
        before = self.versions()
        workers = next((known["workers"] for known in before if known["default"]), 1)
        options = urlencode({"url": archive, "model_name": MODEL, "initial_workers": workers, "synchronous": "false"})
        try:
            self._change("POST", f"/models?{options}")
            (version,) = self._new(before)
            self._wait_for_workers(version)
        except BaseException:  # Ctrl-C leaves no version behind either
            with suppress(BackendError):
                for version in self._new(before):
                    self.unregister(version)
            raise
        return version

    def _new(self, before: list[Deployed]) -> set[str]:
        return {known["version"] for known in self.versions()} - {known["version"] for known in before}

    def scale(self, workers: int, version: str | None = None) -> str:
        """Run exactly `workers` workers, and wait for them; returns a sentence. Raises Unavailable or TooSlow."""
        options = urlencode({"min_worker": workers, "max_worker": workers, "synchronous": "false"})
        self._change("PUT", f"{model_path(version)}?{options}")
        self._wait_for_workers(version)
        return f"The number of workers is {workers}."

    def _wait_for_workers(self, version: str | None) -> None:
        """Wait until a version has all its workers. Raises Unavailable if one ends, TooSlow if they take long."""
        until = time.monotonic() + self._timeout
        processes: dict[str, int] = {}
        while time.monotonic() < until:
            (description,) = self.describe(version)
            workers = description["workers"]
            if len(workers) == len(ready_workers(description)) == description["minWorkers"]:
                return
            started = {worker["id"]: worker["pid"] for worker in workers if worker["pid"] > 0}
            if any(processes.get(worker, process) != process for worker, process in started.items()):
                raise Unavailable("The workers do not start.")
            processes |= started
            time.sleep(POLL_SECONDS)
        raise TooSlow

    def set_default(self, version: str) -> None:
        """Serve `version` to requests that name none."""
        self._change("PUT", f"{model_path(version)}/set-default")

    def drain(self, version: str) -> None:
        """Wait until a version that gets no more requests has answered all, because unregistering kills its workers.

        When its queue is empty, a worker that describes itself has no other work left. The worker of an old archive
        cannot describe itself; TorchServe has ended it when responseTimeout is over.
        """
        until = time.monotonic() + DRAIN_SECONDS
        (description,) = self.describe(version)
        while description["jobQueueStatus"]["pendingRequests"] and time.monotonic() < until:
            time.sleep(DRAIN_POLL_SECONDS)
            (description,) = self.describe(version)
        until = time.monotonic() + description["responseTimeout"]
        idle: set[int | None] = set()
        while not {worker["pid"] for worker in description["workers"]} <= idle and time.monotonic() < until:
            with suppress(Unavailable):  # a worker that died has nothing left to do either
                idle.add(self._api.describe_by_worker(version)["customizedMetadata"].get("pid"))
            time.sleep(DRAIN_POLL_SECONDS)
            (description,) = self.describe(version)

    def unregister(self, version: str) -> None:
        """Stop and forget `version`."""
        self._change("DELETE", model_path(version))

    def _change(self, method: str, path: str) -> None:
        self._api.call(MANAGEMENT, method, path)

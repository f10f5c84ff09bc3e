"""The part of TorchServe that operators need: the versions it serves, and how many workers each has."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gateway.torchserve.api import MANAGEMENT, Api, model_path
from gateway.torchserve.inference import Inference
from gateway.torchserve.properties import MODEL


class Management:
    """Changes which versions the TorchServe of this machine serves. Several nodes are deployed instead, never changed.

    `config` is its config.properties, `key_file` holds its keys, `timeout` is in seconds. `inference` predicts with
    it. Every method raises BackendError.
    """

    def __init__(self, config: Path, key_file: Path, timeout: float) -> None:
        self._api = Api.of_this_machine(config, key_file, timeout)
        self.inference = Inference(self._api)

    def describe(self, version: str | None = None) -> list[dict[str, Any]]:
        """Describe the default version, a given one, or `all`: settings and workers."""
        return self._api.describe(version)

    def describe_worker(self, version: str | None = None) -> dict[str, Any]:
        """Have a worker describe itself: `card`, `device` and `pid`. It has answered all that it had before then.

        Raises Unavailable if it does not.
        """
        return self._api.describe_by_worker(version)["customizedMetadata"]

    def models(self) -> list[str]:
        """Return the names of all registered models."""
        return [model["modelName"] for model in self._api.call(MANAGEMENT, "GET", "/models?limit=100")["models"]]

    def register(self, archive: str) -> str:
        """Register an archive of the model store by its file name; returns TorchServe's report.

        It gets as many workers as the default version has, because TorchServe does not look into the archive for that.
        """
        workers = self.describe()[0]["minWorkers"] if self.models() else 1
        options = urlencode({"url": archive, "model_name": MODEL, "initial_workers": workers, "synchronous": "true"})
        return self._change("POST", f"/models?{options}")

    def scale(self, workers: int, version: str | None = None) -> str:
        """Run exactly `workers` workers; returns TorchServe's report."""
        options = urlencode({"min_worker": workers, "max_worker": workers, "synchronous": "true"})
        return self._change("PUT", f"{model_path(version)}?{options}")

    def set_default(self, version: str) -> str:
        """Serve `version` to requests that name none; returns TorchServe's report."""
        return self._change("PUT", f"{model_path(version)}/set-default")

    def unregister(self, version: str) -> str:
        """Stop and forget `version`; returns TorchServe's report."""
        return self._change("DELETE", model_path(version))

    def _change(self, method: str, path: str) -> str:
        return self._api.call(MANAGEMENT, method, path)["status"]

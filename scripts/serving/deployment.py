"""The versions that are served on this machine, whichever backend serves them: what `classifier models` changes."""

from typing import Any, Protocol

from gateway.backend import Deployed, Prediction


class Refused(Exception):
    """A command was refused, and nothing was changed; the message says why."""


class Deployment(Protocol):
    """Changes which versions are served; gateway.torchserve.management has the one of TorchServe.

    Every method raises BackendError, or Refused.
    """

    def versions(self) -> list[Deployed]:
        """Describe every version in short."""

    def describe(self, version: str | None = None) -> list[dict[str, Any]]:
        """Return all that the backend knows of the default version, of a given one, or of `all`."""

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        """Predict the bytes of an image file."""

    def register(self, archive: str) -> str:
        """Load an archive of the model store, by its file name, until it can predict; returns its version."""

    def scale(self, workers: int, version: str | None = None) -> str:
        """Run exactly `workers` workers for the default version, or a given one; returns a sentence."""

    def set_default(self, version: str) -> None:
        """Serve `version` to requests that name none."""

    def drain(self, version: str) -> None:
        """Wait until `version`, which gets no more requests, can be unregistered without a loss."""

    def unregister(self, version: str) -> None:
        """Stop and forget `version`."""

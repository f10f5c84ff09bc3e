"""The versions that are served on this machine, whichever backend serves them: what `classifier models` changes."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.backend import Deployed, Prediction
from gateway.limits import TIMEOUT as GATEWAY_TIMEOUT

SLOWER = 3.0


class Refused(Exception):
    """A command was refused, and nothing was changed; the message says why."""


@dataclass(frozen=True)
class Limits:
    """The limits of a new version beside the old one: accuracy to lose, times the median time, seconds an image.

    Without `slower` it is SLOWER, or any if the classes differ, because another task may need a larger network.
    """

    tolerance: float = 0.01
    slower: float | None = None
    seconds: float = GATEWAY_TIMEOUT
    new_classes: bool = False

    def slowest(self, same_classes: bool) -> float:
        """Return how many times the old median time the new one may take."""
        return self.slower or (SLOWER if same_classes else math.inf)


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

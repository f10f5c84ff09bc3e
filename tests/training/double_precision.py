"""training.train in double precision, in which rounding is too small to hide a fault; torchrun -m starts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor

from training.checkpoint import build
from training.models import Network
from training.train import main


@contextmanager
def double_precision() -> Iterator[None]:
    """Train in double precision until the block ends; images become double when they enter the network."""
    forward = Network.forward

    def in_doubles(*arguments: Any) -> Network:
        return build(*arguments).double()

    def widened(network: Network, images: Tensor) -> Tensor:
        return forward(network, images.to(next(network.head.parameters()).dtype))

    with patch("training.run.build", in_doubles), patch.object(Network, "forward", widened):
        yield


if __name__ == "__main__":
    with double_precision():
        main()

"""The architectures and their registry; adding one is adding a function to ARCHITECTURES."""

from collections.abc import Callable

from torch import nn


def cnn(num_classes: int, dropout: float) -> nn.Module:
    """Build the reference three-layer network: (N, 3, 32, 32) float32 to logits (N, num_classes).

    1.15 M parameters for ten classes.
    """
    return nn.Sequential(
        *_conv_block(3, 32),
        *_conv_block(32, 64),
        *_conv_block(64, 128),
        nn.Flatten(),
        nn.Linear(128 * 4 * 4, 512),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(512, num_classes),
    )


def _conv_block(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


ARCHITECTURES: dict[str, Callable[[int, float], nn.Module]] = {"cnn": cnn}

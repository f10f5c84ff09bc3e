from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import run_module
from training.checkpoint import load_checkpoint
from training.data import Images
from training.evaluate import evaluate


class Brightness(nn.Module):
    """Says class 1 for bright images and class 0 for dark ones."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.mean(dim=(1, 2, 3))
        return torch.stack([-brightness, brightness], dim=1)


def test_counts_what_is_right() -> None:
    pixels = torch.zeros(1000, 3, 4, 4, dtype=torch.uint8)
    pixels[:700] = 255
    labels = torch.ones(1000, dtype=torch.int64)
    figures = evaluate(Brightness(), Images(pixels, labels, ["dark", "bright"]))
    assert figures["accuracy"] == 0.7
    assert figures["images"] == 1000
    assert figures["loss"] == pytest.approx(0.7 * 0.126928 + 0.3 * 2.126928, abs=1e-5)


def test_command_prints_the_cards_figure(checkpoint: Path, dataset: Path) -> None:
    accuracy = load_checkpoint(checkpoint).card["metrics"]["test"]["accuracy"]
    printed = run_module("training.evaluate", checkpoint, "--data", dataset)
    assert printed.startswith(f"accuracy {accuracy:.2%}, loss ")
    assert printed.endswith("on 80 test images\n")

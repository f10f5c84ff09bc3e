import pytest
import torch
from torch import Tensor, nn

from handler.transforms import Preprocessing
from training.data import Images
from training.inputs import Inputs
from training.metrics import evaluate, figures, wilson_interval


class Brightness(nn.Module):
    """Says class 1 for bright images and class 0 for dark ones."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.mean(dim=(1, 2, 3))
        return torch.stack([-brightness, brightness], dim=1)


def test_counts_what_is_right() -> None:
    pixels = torch.zeros(1000, 3, 4, 4, dtype=torch.uint8)
    pixels[:700] = 255
    labels = torch.ones(1000, dtype=torch.int64)
    figures = evaluate(Brightness(), Images(Inputs([Preprocessing(4)], [pixels]), labels, ["dark", "bright"]))
    assert figures["accuracy"] == 0.7
    assert figures["images"] == 1000
    assert figures["loss"] == pytest.approx(0.7 * 0.126928 + 0.3 * 2.126928, abs=1e-5)


def test_confidence_that_is_as_often_right_as_it_says_has_no_error() -> None:
    labels = torch.cat([torch.zeros(800), torch.ones(200)]).long()
    honest = torch.tensor([0.8, 0.2]).log().expand(1000, 2)
    assert figures(honest, labels)["ece"] == pytest.approx(0, abs=1e-4)
    assert figures(honest * 10, labels)["ece"] == pytest.approx(0.2, abs=1e-3)


def test_interval_is_wilsons() -> None:
    assert wilson_interval(0.9, 10_000) == pytest.approx((0.89396, 0.90573), abs=1e-5)
    assert wilson_interval(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-4)

"""What a heat map shows, of a network whose reasons are known."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from handler.explanation import as_data_url, heat_map


def bright_corner(images: Tensor) -> Tensor:
    """Say class 1 as far as the upper left eighth of an image is bright, and class 0 otherwise."""
    bright = images[:, :, :4, :4].mean(dim=(1, 2, 3)).clamp(0, 1)
    return torch.stack([1 - bright, bright], dim=1)


def test_what_speaks_for_a_class_is_hot_and_against_it_cold() -> None:
    image = torch.ones(3, 32, 32)
    hot, cold = (heat_map(bright_corner, image, target) for target in (1, 0))
    assert hot.shape == (32, 32)
    assert hot[:4, :4].min() == hot.max() == 1
    assert hot[12:, 12:].abs().max() == 0
    assert torch.equal(cold, -hot)


def test_a_data_url_holds_the_pixels() -> None:
    pixels = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
    kind, content = as_data_url(pixels).split(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/png;base64"
    assert [image.getpixel((1, 0)), image.size] == [(1, 17, 33), (4, 4)]

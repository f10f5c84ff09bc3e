"""What a heat map shows, of a network whose reasons are known."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handler.explanation import as_data_url, heat_map
from handler.transforms import Normalised, Part, Preprocessing

WHOLE = (0.0, 0.0, 1.0, 1.0)


def bright_corner(images: list[Normalised]) -> Normalised:
    """Say class 1 as far as the upper left eighth of an image is bright, and class 0 otherwise."""
    eighth = images[0].shape[-1] // 8
    bright = images[0][:, :, :eighth, :eighth].mean(axis=(1, 2, 3)).clip(0, 1)
    return np.stack([1 - bright, bright], axis=1)


@pytest.mark.parametrize("size", [32, 224])
def test_what_speaks_for_a_class_is_hot_and_against_it_cold(size: int) -> None:
    image = np.ones((3, size, size), dtype=np.float32)
    hot, cold = (heat_map(bright_corner, [image], target, [WHOLE]) for target in (1, 0))
    assert hot.shape == (32, 32)
    assert hot[:4, :4].min() == hot.max() == 1
    assert np.abs(hot[12:, 12:]).max() == 0
    assert (cold == -hot).all()


def test_a_part_is_hidden_in_every_input() -> None:
    images = [np.ones((3, size, size), dtype=np.float32) for size in (32, 50)]
    heat = heat_map(lambda batch: bright_corner(batch) * bright_corner(batch[1:]), images, 1, [WHOLE] * 2)
    assert heat[:4, :4].min() == pytest.approx(heat.max()) == pytest.approx(1)


@pytest.mark.parametrize(("shown", "column"), [(0, 8), (1, 0)], ids=["squeezed", "cropped"])
def test_of_a_wide_photo_the_heat_is_where_the_picture_on_show_has_it(shown: int, column: int) -> None:
    """The middle square begins at a quarter of the width. There a network for that square sees what is bright."""
    parts = [Preprocessing(64, fit).part(200, 100) for fit in ("squeeze", "crop")]
    images = [np.ones((3, 64, 64), dtype=np.float32)] * 2
    heat = heat_map(lambda batch: bright_corner(batch[1:]), images, 1, parts, shown)
    row, hottest = np.unravel_index(heat.argmax(), heat.shape)
    assert (row, hottest) == (0, column)
    assert np.abs(heat[12:]).max() == 0
    assert np.abs(heat[:, : max(0, column - 8)]).sum() == 0


@pytest.mark.parametrize(
    ("fit", "part"),
    [("squeeze", WHOLE), ("crop", (0.25, 0.0, 0.75, 1.0)), ("pad", (0.0, -0.5, 1.0, 1.5))],
)
def test_an_input_knows_which_part_of_a_photo_it_shows(fit: Any, part: Part) -> None:
    assert Preprocessing(32, fit).part(200, 100) == part


def test_a_data_url_holds_the_pixels() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    kind, content = as_data_url(pixels).split(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/png;base64"
    assert [image.getpixel((1, 0)), image.size] == [(1, 17, 33), (4, 4)]

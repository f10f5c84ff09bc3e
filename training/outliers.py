"""Outliers: images of none of the classes, to choose an in-distribution score with, and to measure it on.

A score is chosen with drawn images. It is measured on other kinds: photographs, textures, faces and pages that
scikit-image includes. All are made for the inputs of a network, and the same at every call.
"""

import math
from collections.abc import Iterator

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from handler.transforms import Preprocessing
from training.data import seeded
from training.inputs import Inputs, read_all

COUNT = 250  # images of each drawn kind
COUNT_OF_LARGE = 60  # if they have more than LARGE pixels in each direction, because those take longer
LARGE = 64
PARTS = (1, 2, 4)  # squares along the shorter side of a photograph
# The pictures of scikit-image that show no animal and no vehicle.
OBJECTS = (
    "astronaut",
    "camera",
    "clock",
    "coffee",
    "coins",
    "colorwheel",
    "hubble_deep_field",
    "logo",
    "moon",
    "retina",
)
TEXTURES = ("brick", "grass", "gravel", "immunohistochemistry")
PAGES = ("page", "text")


def drawn(preprocessing: list[Preprocessing]) -> dict[str, Inputs]:
    """Return kinds of outliers to choose a score with: noise and regular patterns."""
    generator, (count, _, size, _) = seeded(0), _shape(preprocessing)
    uniform = torch.rand((count, 3, size, size), generator=generator)
    coarse = torch.rand((count, 3, 4, 4), generator=generator)
    rows, columns = torch.meshgrid(*[torch.arange(size).float()] * 2, indexing="ij")
    angle = torch.rand((count, 1, 1), generator=generator) * math.pi
    period = (2 + 10 * torch.rand((count, 1, 1), generator=generator)) * size / 32
    waves = torch.sin((rows * angle.cos() + columns * angle.sin()) * 2 * math.pi / period)[:, None]
    low, high = torch.rand((2, count, 3, 1, 1), generator=generator)
    kinds = {
        "uniform noise": uniform,
        "blurred noise": F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1),
        "gratings": low + (high - low) * (waves + 1) / 2,
        "checks": low + (high - low) * (waves > 0),
    }
    return {name: _read((255 * images).round().to(torch.uint8), preprocessing) for name, images in kinds.items()}


def measured(preprocessing: list[Preprocessing]) -> dict[str, Inputs]:
    """Return kinds of outliers to measure a score on; `drawn` has none of them."""
    spots = torch.where(torch.rand(_shape(preprocessing), generator=seeded(1)) < 0.1, 255, 0).to(torch.uint8)
    faces = [Image.fromarray((face * 255).astype(np.uint8)).convert("RGB") for face in skimage.data.lfw_subset()[:100]]
    return {
        "salt-and-pepper noise": _read(spots, preprocessing),
        "textures": read_all(_crops(TEXTURES), preprocessing),
        "pages": read_all(_crops(PAGES), preprocessing),
        "objects": read_all(_crops(OBJECTS), preprocessing),
        "faces": read_all(faces, preprocessing),
    }


def _shape(preprocessing: list[Preprocessing]) -> tuple[int, int, int, int]:
    """Return the shape of the images that are drawn, which are as large as the largest input."""
    size = max(each.size for each in preprocessing)
    return COUNT if size <= LARGE else COUNT_OF_LARGE, 3, size, size


def _read(pixels: Tensor, preprocessing: list[Preprocessing]) -> Inputs:
    return read_all((Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels), preprocessing)


def _crops(names: tuple[str, ...]) -> Iterator[Image.Image]:
    pictures = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in names]
    return (square for picture in pictures for part in PARTS for square in _cut(picture, part))


def _cut(picture: Image.Image, part: int) -> list[Image.Image]:
    side = min(picture.size) // part
    corners = [
        (left, top)
        for top in range(0, picture.height - side + 1, side)
        for left in range(0, picture.width - side + 1, side)
    ]
    return [picture.crop((left, top, left + side, top + side)) for left, top in corners]

"""Outliers: images of none of the classes, to choose an in-distribution score with, and to measure it on.

A score is chosen with drawn images. It is measured on other kinds: photographs, textures, faces and pages that
scikit-image includes. All are uint8 (N, 3, INPUT_SIZE, INPUT_SIZE) and the same at every call.
"""

import math

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from handler.transforms import INPUT_SIZE, to_pixels
from training.data import seeded

COUNT = 250  # images of each drawn kind
SHAPE = (COUNT, 3, INPUT_SIZE, INPUT_SIZE)
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


def drawn() -> dict[str, Tensor]:
    """Return kinds of outliers to choose a score with: noise and regular patterns."""
    generator = seeded(0)
    uniform = torch.rand(SHAPE, generator=generator)
    coarse = torch.rand((COUNT, 3, 4, 4), generator=generator)
    rows, columns = torch.meshgrid(*[torch.arange(INPUT_SIZE).float()] * 2, indexing="ij")
    angle = torch.rand((COUNT, 1, 1), generator=generator) * math.pi
    period = 2 + 10 * torch.rand((COUNT, 1, 1), generator=generator)
    waves = torch.sin((rows * angle.cos() + columns * angle.sin()) * 2 * math.pi / period)[:, None]
    low, high = torch.rand((2, COUNT, 3, 1, 1), generator=generator)
    kinds = {
        "uniform noise": uniform,
        "blurred noise": F.interpolate(coarse, size=INPUT_SIZE, mode="bicubic").clamp(0, 1),
        "gratings": low + (high - low) * (waves + 1) / 2,
        "checks": low + (high - low) * (waves > 0) * torch.ones(SHAPE),
    }
    return {name: (images * 255).round().to(torch.uint8) for name, images in kinds.items()}


def measured() -> dict[str, Tensor]:
    """Return kinds of outliers to measure a score on; `drawn` has none of them."""
    generator = seeded(1)
    spots = torch.where(torch.rand(SHAPE, generator=generator) < 0.1, 255, 0).to(torch.uint8)
    faces = [Image.fromarray((face * 255).astype(np.uint8)).convert("RGB") for face in skimage.data.lfw_subset()[:100]]
    return {
        "salt-and-pepper noise": spots,
        "textures": _crops(TEXTURES),
        "pages": _crops(PAGES),
        "objects": _crops(OBJECTS),
        "faces": torch.stack([to_pixels(face) for face in faces]),
    }


def _crops(names: tuple[str, ...]) -> Tensor:
    pictures = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in names]
    return torch.stack([to_pixels(square) for picture in pictures for part in PARTS for square in _cut(picture, part)])


def _cut(picture: Image.Image, part: int) -> list[Image.Image]:
    side = min(picture.size) // part
    corners = [
        (left, top)
        for top in range(0, picture.height - side + 1, side)
        for left in range(0, picture.width - side + 1, side)
    ]
    return [picture.crop((left, top, left + side, top + side)) for left, top in corners]

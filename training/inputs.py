"""Images as the inputs of a network take them: pixels, and what normalises them, as tensors."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from handler.transforms import Preprocessing
from training.cache import CachedPixels

Pixels = Tensor | CachedPixels  # of N images, uint8 (N, 3, S, S)


@dataclass(frozen=True)
class Inputs:
    """N images for a network: each of its inputs has a preprocessing, and pixels uint8 (N, 3, S, S)."""

    preprocessing: list[Preprocessing]
    pixels: list[Pixels]

    @property
    def count(self) -> int:
        return len(self.pixels[0])

    def of(self, preprocessing: list[Preprocessing]) -> "Inputs":
        """Return some of the inputs."""
        return Inputs(preprocessing, [self.pixels[self.preprocessing.index(each)] for each in preprocessing])

    def subset(self, indices: Tensor | slice) -> "Inputs":
        return Inputs(
            self.preprocessing,
            [pixels[indices] if isinstance(pixels, Tensor) else pixels.subset(indices) for pixels in self.pixels],
        )

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[list[Tensor]]:
        """Yield normalised images, (`size`, 3, S, S) for each input, on `device`."""
        for start in range(0, self.count, size):
            yield [
                normalise(pixels[start : start + size].to(device), each)
                for each, pixels in zip(self.preprocessing, self.pixels, strict=True)
            ]


def read_all(images: Iterable[Image.Image], preprocessing: list[Preprocessing]) -> Inputs:
    """Bring RGB images to the size of each input."""
    rows = [[to_pixels(image, each) for each in preprocessing] for image in images]
    return Inputs(preprocessing, [torch.stack(column) for column in zip(*rows, strict=True)])


def to_pixels(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Bring an RGB image to the size of an input: uint8 (3, size, size)."""
    return torch.from_numpy(preprocessing.pixels(image))


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn pixels of 0 to 255, (..., 3, H, W), into the values that an input takes, as `Preprocessing.normalise`."""
    offset, scale = (
        torch.from_numpy(values).to(pixels.device) for values in (preprocessing.offset, preprocessing.scale)
    )
    return (pixels.float() - offset) / scale


def renormalise(images: Tensor, ours: Preprocessing, theirs: Preprocessing) -> Tensor:
    """Make images (N, 3, S, S), normalised for one input, into those of another; `fit` does not matter any more.

    They may be smaller than the first input is.
    """
    if ours == theirs and images.shape[-1] == theirs.size:
        return images
    offset, scale = (torch.from_numpy(values).to(images.device) for values in (ours.offset, ours.scale))
    pixels = F.interpolate(images * scale + offset, size=theirs.size, mode="bilinear", antialias=True)
    return normalise(pixels, theirs)


def call(network: Callable[[Any], Any], images: list[Tensor]) -> Any:
    """Return the output of a network, which takes a tensor, or a list of them if it has several inputs."""
    return network(images if len(images) > 1 else images[0])

"""Explanations: how much the probability of a class falls when a part of the image is hidden."""

import base64
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from handler.transforms import Normalised, Pixels

METHOD = "occlusion"
# An image of any size has CELLS rows and columns of cells. A square hides WINDOW of them in each direction, and moves
# by STRIDE, so every explanation takes as many predictions.
CELLS, WINDOW, STRIDE = 32, 8, 4
HIDDEN_VALUE = 0.0  # the mean colour of a normalised image, which supports no class
SQUARES = [
    (slice(top, top + WINDOW), slice(left, left + WINDOW))
    for top in range(0, CELLS - WINDOW + 1, STRIDE)
    for left in range(0, CELLS - WINDOW + 1, STRIDE)
]


def heat_map(
    probabilities: Callable[[list[Normalised]], Normalised], inputs: list[Normalised], target: int
) -> Normalised:
    """Return for each cell how much the probability of class `target` falls if squares over it are hidden.

    `inputs` has the normalised image, (3, S, S), for each input of a network; the same part is hidden in all.
    `probabilities` takes such images, each with a first dimension N, to (N, C). The result is float32 (CELLS, CELLS),
    from -1 to 1; positive values support the class. Method: Zeiler and Fergus 2014.
    """
    whole, *hidden = probabilities([_with_hidden_squares(image) for image in inputs])[:, target]
    heat, covered = np.zeros((2, CELLS, CELLS), dtype=np.float32)
    for square, probability in zip(SQUARES, hidden, strict=True):
        heat[square] += whole - probability
        covered[square] += 1
    return heat / covered


def _with_hidden_squares(image: Normalised) -> Normalised:
    """Return an image (3, S, S), and behind it a copy for each square that hides a part of it."""
    edges = np.linspace(0, image.shape[-1], CELLS + 1).round().astype(int)  # of the cells, in pixels
    images = np.repeat(image[None], 1 + len(SQUARES), axis=0)
    for copy, square in zip(images[1:], SQUARES, strict=True):
        rows, columns = (slice(edges[part.start], edges[part.stop]) for part in square)
        copy[:, rows, columns] = HIDDEN_VALUE
    return images


def as_data_url(pixels: Pixels) -> str:
    """Return pixels (3, H, W) as a PNG in a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

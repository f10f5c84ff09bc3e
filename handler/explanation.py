"""Explanations: how much the probability of a class falls when a part of the image is hidden."""

import base64
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from handler.transforms import Normalised, Part, Pixels

METHOD = "occlusion"
# The picture that is shown has CELLS rows and columns of cells. A square hides WINDOW of them in each direction, and
# moves by STRIDE, so every explanation takes as many predictions.
CELLS, WINDOW, STRIDE = 32, 8, 4
HIDDEN_VALUE = 0.0  # the mean colour of a normalised image, which supports no class
SQUARES = [
    (slice(top, top + WINDOW), slice(left, left + WINDOW))
    for top in range(0, CELLS - WINDOW + 1, STRIDE)
    for left in range(0, CELLS - WINDOW + 1, STRIDE)
]


def heat_map(
    probabilities: Callable[[list[Normalised]], Normalised],
    inputs: list[Normalised],
    target: int,
    parts: list[Part],
    shown: int = 0,
) -> Normalised:
    """Return for each cell how much the probability of class `target` falls if squares over it are hidden.

    `inputs` has the normalised image, (3, S, S), for each input of a network, and `parts` what each of them shows of
    the photo. The cells are those of the input with the number `shown`; the same part of the photo is hidden in all.
    `probabilities` takes such images, each with a first dimension N, to (N, C). The result is float32 (CELLS, CELLS),
    from -1 to 1; positive values support the class. Method: Zeiler and Fergus 2014.
    """
    places = [_in_cells(part, parts[shown]) for part in parts]
    images = [_with_hidden_squares(image, place) for image, place in zip(inputs, places, strict=True)]
    whole, *hidden = probabilities(images)[:, target]
    heat, covered = np.zeros((2, CELLS, CELLS), dtype=np.float32)
    for square, probability in zip(SQUARES, hidden, strict=True):
        heat[square] += whole - probability
        covered[square] += 1
    return heat / covered


def _in_cells(part: Part, shown: Part) -> Part:
    """Return where a part of the photo lies among the cells, which divide the `shown` one."""
    left, top, right, bottom = shown
    across, down = CELLS / (right - left), CELLS / (bottom - top)
    return (part[0] - left) * across, (part[1] - top) * down, (part[2] - left) * across, (part[3] - top) * down


def _with_hidden_squares(image: Normalised, place: Part) -> Normalised:
    """Return an image (3, S, S) from this place among the cells, and a copy for each square that hides a part of it.

    The edges of a square are soft: a pair of networks would take hard ones for the detail of a photo.
    """
    images = np.repeat(image[None], 1 + len(SQUARES), axis=0)
    for copy, square in zip(images[1:], SQUARES, strict=True):
        mask = np.zeros((CELLS, CELLS), dtype=np.float32)
        mask[square] = 1
        cover = Image.fromarray(mask).transform(
            image.shape[1:], Image.Transform.EXTENT, place, Image.Resampling.BILINEAR
        )
        copy += (HIDDEN_VALUE - copy) * np.asarray(cover)
    return images


def as_data_url(pixels: Pixels) -> str:
    """Return pixels (3, H, W) as a PNG in a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

"""Pictures that stand out: dark, bright, empty, blurred or tiny ones."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from training.curation.examine import Photo

DARK, BRIGHT = 25.0, 235.0  # mean grey values of 0 to 255
EMPTY = 6.0  # deviation of the grey values
BLURRED, TINY = 0.25, 0.34  # of the median of all photos


class Outstanding(NamedTuple):
    photo: int
    why: str


def outstanding(photos: list[Photo]) -> list[Outstanding]:
    """Return the photos that stand out, each with the first reason that fits, in words."""
    sharpness = float(np.median([photo.sharpness for photo in photos]))
    side = float(np.median([min(photo.size) for photo in photos]))
    reasons: list[tuple[str, Callable[[Photo], bool]]] = [
        ("dark", lambda photo: photo.brightness < DARK),
        ("bright", lambda photo: photo.brightness > BRIGHT),
        ("empty", lambda photo: photo.contrast < EMPTY),
        ("tiny", lambda photo: min(photo.size) < TINY * side),
        ("blurred", lambda photo: photo.sharpness < BLURRED * sharpness),
    ]
    firsts = ((at, next((why for why, fits in reasons if fits(photo)), "")) for at, photo in enumerate(photos))
    return [Outstanding(at, why) for at, why in firsts if why]

"""Copies among photos: files with the same bytes, and pictures that look the same."""

from typing import NamedTuple

import numpy as np

from training.curation.examine import Photo

MAX_BITS = 8  # of 64 in which the perceptual hashes of two copies differ
MAX_DIFFERENCE = 12.0  # of the colours of two copies, of 0 to 255, in the mean
ROWS = 1024  # of hashes that are compared with all others at once


class Copy(NamedTuple):
    """Two photos, by their numbers, that are copies; `exact` if their bytes are the same."""

    first: int
    second: int
    exact: bool


def copies(photos: list[Photo]) -> list[Copy]:
    """Return pairs of copies. Of several copies of a photo each is paired with the first only."""
    first_of: dict[str, int] = {}
    exact = [
        Copy(first, at, True)
        for at, photo in enumerate(photos)
        if (first := first_of.setdefault(photo.digest, at)) != at
    ]
    others = [*first_of.values()]
    return exact + _near(photos, others)


def _near(photos: list[Photo], numbers: list[int]) -> list[Copy]:
    hashes = np.array([photos[at].phash for at in numbers], dtype=np.uint64)
    paired: set[int] = set()
    found = []
    for start in range(0, len(numbers), ROWS):
        bits = np.bitwise_count(hashes[start : start + ROWS, None] ^ hashes[None, :])
        for row, column in np.argwhere(bits <= MAX_BITS):
            first, second = numbers[start + row], numbers[column]
            if start + row < column and second not in paired and _look_the_same(photos[first], photos[second]):
                paired.add(second)
                found.append(Copy(first, second, False))
    return found


def _look_the_same(one: Photo, other: Photo) -> bool:
    difference = np.abs(one.small.astype(np.int16) - other.small.astype(np.int16))
    return float(difference.mean()) <= MAX_DIFFERENCE

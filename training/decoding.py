"""Image files as the inputs of a network, in memory or in the cache; many threads decode them."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from handler.transforms import ImageError, Preprocessing, is_pointer, read_pixels
from training import cache, distributed
from training.inputs import Inputs

THREADS = min(os.cpu_count() or 1, 16)  # no more, because each may hold a large image
MAX_QUEUED = 512  # images that wait for a thread, or whose pixels wait for their turn
UNREADABLE = "Remove it, or make it readable."
S = TypeVar("S")
T = TypeVar("T")


def decode(
    paths: list[Path], preprocessing: list[Preprocessing], name: str, digests: list[bytes] | None = None
) -> tuple[Inputs, list[str]]:
    """Decode image files for the inputs of a network, with a progress bar called `name`.

    Pixels of large data sets stay in the cache, on disk. `digests` has the SHA-256 of each file, if it is known.
    If files cannot be read, returns no pixels, and a line for each of those files.
    """
    if cache.is_worthwhile(paths, preprocessing):
        pixels, problems = _in_cache(paths, preprocessing, name, digests)
        return Inputs(preprocessing, list(pixels)), problems
    read, problems = [], []
    hidden = distributed.rank() > 0 or None  # None shows the bar on terminals only
    with tqdm(desc=name, total=len(paths), unit=" images", leave=False, disable=hidden) as bar:
        for path, result in zip(paths, in_threads(partial(_read, preprocessing), paths), strict=True):
            bar.update()
            if isinstance(result, str):
                problems.append(f"{path}: {result}")
            else:
                read.append(result)
    columns = [] if problems else [torch.stack(column) for column in zip(*read, strict=True)]
    return Inputs(preprocessing, list(columns)), problems


def _in_cache(
    paths: list[Path], preprocessing: list[Preprocessing], name: str, known: list[bytes] | None
) -> tuple[list[cache.CachedPixels], list[str]]:
    found = known or digests_of(paths)
    problems = [f"{path}: {digest}" for path, digest in zip(paths, found, strict=True) if isinstance(digest, str)]
    named = {path: digest for path, digest in zip(paths, found, strict=True) if isinstance(digest, bytes)}
    decoder = partial(in_threads, partial(_read, preprocessing))
    digests = [digest for digest in found if isinstance(digest, bytes)]
    readable = [path for path, digest in zip(paths, found, strict=True) if isinstance(digest, bytes)]
    pixels, failed = cache.load(readable, digests, preprocessing, decoder, name)
    problems += [f"{path}: {failed[digest]}" for path, digest in named.items() if digest in failed]
    return ([], problems) if problems else (pixels, [])


def digests_of(paths: list[Path]) -> list[bytes | str]:
    """Return the SHA-256 of each file, or the reason why it cannot be read."""
    return cache.digests_of(paths, partial(in_threads, _digest))


def in_threads(work: Callable[[S], T], items: list[S]) -> Iterator[T]:
    """Yield the results in order. It uses all cores, because Pillow and hashlib work without Python's lock."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        for first in range(0, len(items), MAX_QUEUED):
            yield from pool.map(work, items[first : first + MAX_QUEUED])
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, wait only for the images that are being read


def _read(preprocessing: list[Preprocessing], path: Path) -> list[Tensor] | str:
    """Return the pixels of an image for each input, or the reason why it cannot be read."""
    try:
        content = path.read_bytes()
        return list(map(torch.from_numpy, read_pixels(content, preprocessing)))
    except ImageError as error:
        return str(error) if is_pointer(content) else f"{error} Remove or replace it."
    except OSError as error:
        return f"{error.strerror}. {UNREADABLE}"


def _digest(path: Path) -> bytes | str:
    try:
        return cache.digest_of(path)
    except OSError as error:
        return f"{error.strerror}. {UNREADABLE}"

"""Decoded images on disk: a large data set needs little memory, and a second start decodes nothing.

FOLDER has a folder for each way to prepare images. It holds the pixels of any number of files, one behind the other,
and their keys: the SHA-256 of each file. So a file may move, and copies are decoded once. Several processes may use
it. You may delete it at any time; a process that reads from it then keeps what it has.
"""

import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import PIL
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from handler.transforms import PIXELS_VERSION, Preprocessing
from training.outcome import Stopped
from training.project import ROOT

FOLDER = Path(os.environ.get("CLASSIFIER_CACHE") or ROOT / "data" / "cache")
MIN_BYTES = 64 * 1024 * 1024  # of all files together; decoding fewer again takes seconds
MAX_PIXEL_BYTES = 512 * 1024 * 1024  # that may stay in memory
FILES = ("pixels", "keys")
KEY_BYTES = 32  # of a SHA-256
FLUSHED = 256  # images that are written between two waits for the disk
SETTLED_NS = 2_000_000_000  # a file that changed later than this may change again without a new time


class CacheError(Stopped, ValueError):
    """The cache cannot be used; the message says what to do."""


class CachedPixels:
    """The pixels of N images in a file, which stand in for a tensor uint8 (N, 3, size, size).

    Indexing copies some of them into a tensor. The file is mapped for that copy only, because the pages of a map that
    were read count as memory of the process.
    """

    def __init__(
        self, path: Path, record: int, start: int, size: int, rows: Tensor, file: IO[bytes] | None = None
    ) -> None:
        self.path, self.record, self.start, self.size, self.rows = path, record, start, size, rows
        self.file = file or path.open("rb")  # stays readable if the cache is deleted

    def __reduce__(self) -> tuple[type["CachedPixels"], tuple[Path, int, int, int, Tensor]]:
        return CachedPixels, (self.path, self.record, self.start, self.size, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), 3, self.size, self.size))

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        rows = self.rows[index].numpy()
        stop = self.start + 3 * self.size**2
        # As many records as needed, because another process may be adding some.
        shape = (int(rows.max(initial=0)) + 1, self.record)
        mapped = np.memmap(self.file, dtype=np.uint8, mode="r", shape=shape)
        copied = np.array(mapped[rows, self.start : stop])
        return torch.from_numpy(copied.reshape(*rows.shape, 3, self.size, self.size))

    def subset(self, index: slice | Tensor) -> "CachedPixels":
        """Return some of the images, still in their file."""
        return CachedPixels(self.path, self.record, self.start, self.size, self.rows[index], self.file)


class Decoder(Protocol):
    """Decodes files: yields for each, in order, the pixels for each input, or the reason why it cannot be read."""

    def __call__(self, paths: list[Path]) -> Iterable[list[Tensor] | str]: ...


def is_worthwhile(paths: list[Path], inputs: list[Preprocessing]) -> bool:
    """Return whether the pixels of these files belong into the cache: they are many, or slow to decode."""
    return len(paths) * _record(inputs) > MAX_PIXEL_BYTES or _bytes_of(paths) > MIN_BYTES


def load(
    paths: list[Path], digests: list[bytes], inputs: list[Preprocessing], decode: Decoder, name: str
) -> tuple[list[CachedPixels], dict[bytes, str]]:
    """Return the pixels of files for each input; those that the cache lacks are decoded, with a bar called `name`.

    `digests` has the SHA-256 of each file. If files cannot be read, returns no pixels, and the reasons by digest.
    Raises CacheError if the cache cannot be written.
    """
    folder, record = FOLDER / _name(inputs), _record(inputs)
    try:
        with _opened(folder) as (pixels, keys):
            rows = _rows(pixels, keys, record)
            missing = {digest: path for digest, path in zip(digests, paths, strict=True) if digest not in rows}
            failed = _add(missing, decode, rows, pixels, keys, record, name)
            if missing and not failed:
                _say(f"{_size_in_words()}; you may delete it at any time.")
    except OSError as error:
        raise CacheError(
            f"The cache {FOLDER} cannot be written ({error.strerror}). It takes {len(paths) * record / 1e9:.1f} GB for "
            "these images; free some space, or name another folder in CLASSIFIER_CACHE."
        ) from None
    if failed:
        return [], failed
    places = torch.tensor([rows[digest] for digest in digests])
    ends = np.cumsum([3 * each.size**2 for each in inputs]).tolist()
    return [
        CachedPixels(folder / FILES[0], record, end - 3 * each.size**2, each.size, places)
        for end, each in zip(ends, inputs, strict=True)
    ], {}


def _rows(pixels: IO[bytes], keys: IO[bytes], record: int) -> dict[bytes, int]:
    """Return the row of each key. Keys without pixels, as after a deletion, are removed from the file."""
    count = min(_size(keys) // KEY_BYTES, _size(pixels) // record)
    keys.truncate(count * KEY_BYTES)
    keys.seek(0)
    known = keys.read()
    return {known[row * KEY_BYTES : (row + 1) * KEY_BYTES]: row for row in range(count)}


def _add(
    missing: dict[bytes, Path],
    decode: Decoder,
    rows: dict[bytes, int],
    pixels: IO[bytes],
    keys: IO[bytes],
    record: int,
    name: str,
) -> dict[bytes, str]:
    """Decode files, and write their pixels and keys. Returns the reasons of those that cannot be read."""
    failed: dict[bytes, str] = {}
    waiting: list[bytes] = []  # keys whose pixels may not be on the disk yet

    def settle() -> None:
        pixels.flush()
        os.fsync(pixels.fileno())
        keys.seek(0, os.SEEK_END)
        keys.write(b"".join(waiting))
        keys.flush()
        waiting.clear()

    pixels.seek(len(rows) * record)
    with tqdm(desc=name, total=len(missing), unit=" images", leave=False, disable=None) as bar:
        try:
            for digest, read in zip(missing, decode(list(missing.values())), strict=True):
                bar.update()
                if isinstance(read, str):
                    failed[digest] = read
                    continue
                for each in read:
                    pixels.write(each.numpy().data)
                rows[digest] = len(rows)
                waiting.append(digest)
                if len(waiting) == FLUSHED:
                    settle()
        finally:
            settle()  # also after Ctrl-C, so that the next start continues
    return failed


def digests_of(paths: list[Path], hashes: "Hasher") -> list[bytes | str]:
    """Return the SHA-256 of each file, or the reason why it cannot be read.

    For large data sets, the cache remembers it by path, size and times, so that a second start reads no file.
    """
    if _bytes_of(paths) <= MIN_BYTES:
        return list(hashes(paths))
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(FOLDER / "digests.sqlite", timeout=60)) as memory:
            return _remembered(memory, paths, hashes)
    except (OSError, sqlite3.Error) as error:
        raise CacheError(f"The cache {FOLDER} cannot be used ({error}); delete it, or make it writable.") from None


class Hasher(Protocol):
    """Reads files: yields the SHA-256 of each, in order, or the reason why it cannot be read."""

    def __call__(self, paths: list[Path]) -> Iterable[bytes | str]: ...


def _remembered(memory: sqlite3.Connection, paths: list[Path], hashes: Hasher) -> list[bytes | str]:
    memory.execute("CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, state TEXT, digest BLOB)")
    names = [os.fsencode(path.absolute()) for path in paths]
    states = [_state(path) for path in paths]
    digests: dict[int, bytes | str] = {}
    for number, name in enumerate(names):
        row = memory.execute("SELECT state, digest FROM files WHERE path = ?", (name,)).fetchone()
        if row and states[number] == row[0]:
            digests[number] = row[1]
    unknown = [number for number in range(len(paths)) if number not in digests]
    with tqdm(desc="looking for copies", total=len(unknown), unit=" images", leave=False, disable=None) as bar:
        for number, digest in zip(unknown, hashes([paths[number] for number in unknown]), strict=True):
            bar.update()
            digests[number] = digest
    with memory:
        memory.executemany(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?)",
            [(names[at], states[at], digests[at]) for at in unknown if states[at] and isinstance(digests[at], bytes)],
        )
    return [digests[number] for number in range(len(paths))]


def _state(path: Path) -> str:
    """Return size and times of a file, which change with its content; empty if it is gone or has just changed."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) < SETTLED_NS:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _size_in_words() -> str:
    used = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    return f"The cache {FOLDER} holds {used / 1e9:.1f} GB of decoded images"


def _say(note: str) -> None:
    """Print a note above the progress bar; not to the standard output, which may be a JSON document."""
    tqdm.write(note, file=sys.stderr)


@contextmanager
def _opened(folder: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open the pixels and the keys of a folder under its lock.

    Other processes wait until all is decoded, because they mostly want the same images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"Waiting for another process that decodes images into {folder} …")
        lock.acquire()
    try:
        for name in FILES:
            (folder / name).touch()
        with (folder / FILES[0]).open("r+b") as pixels, (folder / FILES[1]).open("r+b") as keys:
            yield pixels, keys
    finally:
        lock.release()


def _name(inputs: list[Preprocessing]) -> str:
    """Name everything that the pixels depend on, besides the file: the inputs, the code, and Pillow's decoders."""
    # The inputs together, because a JPEG is decoded once for all of them, at a size that suits the largest.
    shown = []
    for each in inputs:
        bars = "-" + "-".join(str(round(255 * value)) for value in each.mean) if each.fit == "pad" else ""
        shown.append(f"{each.size}-{each.fit}{bars}")
    return "_".join((*shown, f"v{PIXELS_VERSION}", f"pillow{PIL.__version__}"))


def _record(inputs: list[Preprocessing]) -> int:
    """Return the bytes of an image, for all inputs."""
    return sum(3 * each.size**2 for each in inputs)


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _bytes_of(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())

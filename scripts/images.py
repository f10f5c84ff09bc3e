"""The image files that the commands take: found in what was named, and grouped for the gateway."""

import argparse
import codecs
import glob
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path

from scripts.options import Stopped

EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif"}
FILES_AT_ONCE = 32  # in a request; the gateway takes no more,
BYTES_AT_ONCE = 4 * 1024 * 1024  # nor more than 10 MB together


def paths_of(arguments: argparse.Namespace) -> list[Path]:
    """Return what the options of `add_images` name. Raises Stopped without any."""
    return list(map(Path, names_of(arguments)))


def names_of(arguments: argparse.Namespace) -> list[str]:
    """Return it as it was written, as a URL is no path. Raises Stopped without any."""
    names = arguments.paths + (read_list(arguments.list) if arguments.list else [])
    if not names:
        raise Stopped("Name folders, globs or files, or a --list of them.")
    return names


def read_list(name: str) -> list[str]:
    """Return the lines of a file, or of the standard input for `-`. Raises Stopped."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise Stopped(f"{name} cannot be read ({error.strerror}); name another --list.") from None
    return [os.fsdecode(line) for line in _without_mark(content).splitlines() if line]


def _without_mark(content: bytes) -> bytes:
    """Return text without the byte order mark that Windows begins a file with, as UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def absent_of(arguments: argparse.Namespace, names: list[str]) -> set[str]:
    """Return which of `names_of` are paths that stand in the --list alone, but are not there."""
    listed = set(names[len(arguments.paths) :]).difference(arguments.paths)
    return {name for name in listed if not (os.path.exists(name) or glob.has_magic(name) or "://" in name)}


def list_once(named: list[Path], absent: Collection[Path]) -> list[Path]:
    """Return each image in `named` once, in order, with the `absent` paths among them. Raises Stopped."""
    if not absent:
        return list(dict.fromkeys(list_images(named)))
    parts = groupby(named, absent.__contains__)
    return list(dict.fromkeys(chain.from_iterable(part if gone else find_images(part) for gone, part in parts)))


def list_images(named: Iterable[Path]) -> list[Path]:
    """Return what `find_images` yields. Raises Stopped where that is nothing."""
    images = list(find_images(named))
    if not images:
        raise Stopped("There are no JPEG, PNG or GIF files in what was named.")
    return images


def find_images(named: Iterable[Path]) -> Iterator[Path]:
    """Yield each file, and the images below each folder and of each glob in order. Raises Stopped."""
    for path in named:
        if path.is_dir():
            yield from _images(path.rglob("*"))
        elif path.is_file():
            yield path
        elif glob.has_magic(str(path)):
            yield from _images(_matching(path))
        else:
            raise Stopped(f"There is no file or folder {path}.")


def count_others(named: Iterable[Path], but: Collection[Path | None] = ()) -> Counter[str]:
    """Count by extension the files that `find_images` leaves out of folders and globs, but hidden and given ones."""
    files: set[Path] = set()
    for path in named:
        if path.is_dir():
            files.update(file for file in path.rglob("*") if not _is_hidden(file.relative_to(path)))
        elif not path.is_file():
            files.update(_matching(path))
    others = (file for file in files.difference(but) if not _is_image(file) and file.is_file())
    return Counter(file.suffix.lower() for file in others)


def _matching(path: Path) -> Iterator[Path]:
    return map(Path, glob.iglob(str(path), recursive=True))


def _images(files: Iterable[Path]) -> list[Path]:
    return sorted({file for file in files if _is_image(file) and file.is_file()})


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in EXTENSIONS


def _is_hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parts)


def grouped(images: Iterable[Path]) -> Iterator[list[Path]]:
    """Yield the images, in order, in groups for one request each."""
    group: list[Path] = []
    size = 0
    for image in images:
        its_size = _size(image)
        size += its_size
        if group and (len(group) == FILES_AT_ONCE or size > BYTES_AT_ONCE):
            yield group
            group, size = [], its_size
        group.append(image)
    if group:
        yield group


def _size(image: Path) -> int:
    try:
        return image.stat().st_size
    except (OSError, ValueError):  # it was moved since it was found, say; who reads it will say so
        return 0

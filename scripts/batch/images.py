"""The image files that you name for a command, in folders, by globs or one by one, and their groups for the gateway."""

import codecs
import glob
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from errno import ENOENT, ENOTDIR
from itertools import chain, groupby
from pathlib import Path
from stat import S_ISDIR

from gateway.limits import MAX_FILES
from training.folders import FORMAT_NAMES, Findings, extensions_of, find, match
from training.outcome import Stopped

BYTES_AT_ONCE = 4 * 1024 * 1024  # in a request; the gateway takes MAX_IMAGE_BYTES


def names_of(paths: Sequence[str], listed: str | None) -> list[str]:
    """Return what you named on the command line and in the file `listed`, as written. Raises Stopped without any."""
    names = [*paths, *(read_list(listed) if listed else [])]
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


def absent_of(names: list[str], paths: Sequence[str]) -> set[str]:
    """Return which of `names_of` are paths that stand in the --list alone, but are not there."""
    listed = set(names[len(paths) :]).difference(paths)
    # Brackets are more often part of a name than of a pattern.
    return {name for name in listed if not (os.path.exists(name) or {"*", "?"} & set(name) or "://" in name)}


def list_once(named: list[Path], absent: Collection[Path]) -> list[Path]:
    """Return each image in `named` once, in order, with the `absent` paths among them. Raises Stopped."""
    if not absent:
        return list(dict.fromkeys(list_images(named)))
    parts = groupby(named, absent.__contains__)
    return list(dict.fromkeys(chain.from_iterable(part if gone else find_images(part) for gone, part in parts)))


def list_images(named: Iterable[Path]) -> list[Path]:
    """Return the images that `find_images` yields. Raises Stopped if there are none."""
    images = list(find_images(named))
    if not images:
        raise Stopped(f"There are no {FORMAT_NAMES} files in the named places; name others.")
    return images


def find_images(named: Iterable[Path], aloud: bool = True) -> Iterator[Path]:
    """Yield each file, and the images below each folder and of each glob in order. Raises Stopped.

    At the end it prints the files that it left out, unless `aloud` is false; then it raises OSError for a place that
    cannot be reached now.
    """
    everything = Findings()
    for path in named:
        findings = _look(path, aloud)
        yield from findings.images
        everything.add(findings)
    for line in everything.notes() if aloud else ():
        print(f"{line[0].upper()}{line[1:]}.", file=sys.stderr)


def count_others(named: Iterable[Path], but: Collection[Path | None] = ()) -> Counter[str]:
    """Count by extension the files that `find_images` leaves out of folders and globs, but hidden and given ones."""
    files: set[Path] = set()
    for path in named:
        if path.is_dir() or glob.has_magic(str(path)):
            files.update(_look(path).others)
    return extensions_of(files.difference(but))


def _look(path: Path, aloud: bool = True) -> Findings:
    """Find the images of one named place. Raises Stopped if it does not exist."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if glob.has_magic(str(path)):
            return match(path)
        if error.errno in (ENOENT, ENOTDIR):
            raise Stopped(f"There is no file or folder {path}.") from None
        if not aloud:
            raise
        raise Stopped(f"{path} cannot be read ({error.strerror}); name another, or make it readable.") from None
    return find(path) if S_ISDIR(mode) else Findings([path])


def grouped(images: Iterable[Path]) -> Iterator[list[Path]]:
    """Yield the images, in order, in groups for one request each."""
    group: list[Path] = []
    size = 0
    for image in images:
        its_size = _size(image)
        size += its_size
        if group and (len(group) == MAX_FILES or size > BYTES_AT_ONCE):
            yield group
            group, size = [], its_size
        group.append(image)
    if group:
        yield group


def _size(image: Path) -> int:
    try:
        return image.stat().st_size
    except (OSError, ValueError):  # it was moved meanwhile, for example; its reader reports that
        return 0

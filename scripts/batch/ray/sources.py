"""The images for Ray: files, on this machine or in an object store, and images in Parquet files."""

import sys
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow
import pyarrow.dataset
from pyarrow.fs import FileSystem, LocalFileSystem

from scripts.batch.images import find_images
from scripts.batch.ray.worker import Contents, Files, Folder, stored
from training.folders import FORMAT_NAMES, Findings, is_image, is_leaving
from training.outcome import Stopped

GROUP = 256  # images in a file of the output
NAMES, CONTENTS = ("path", "file"), ("bytes", "image")  # the columns of a Parquet file that holds images
TEXT, BYTES = (pyarrow.string(), pyarrow.large_string()), (pyarrow.binary(), pyarrow.large_binary())


class Source(NamedTuple):
    """Images: their names, what Ray reads, and how a worker reads an image of that.

    Ray reads tables, each a group of images, or columns of a Parquet file.
    """

    files: list[str]
    images: list[pyarrow.Table] | tuple[Folder, list[str]]
    contents: Contents


def find_sources(named: list[str], absent: Collection[str] = ()) -> Iterator[Source]:
    """Yield the images that paths, globs and URLs name, and paths that are known to be absent. Raises Stopped."""
    stores = [name for name in named if _path_of(name).endswith(".parquet")]
    files = [name for name in named if name not in stores]
    if files:
        yield find_files(files, absent)
    yield from map(find_stored, stores)


def _path_of(name: str) -> str:
    """Return a name without the options of a URL."""
    return name.partition("?")[0] if "://" in name else name


def find_files(named: list[str], absent: Collection[str]) -> Source:
    """Find image files; those of an object store are named by URLs. Raises Stopped."""
    filesystems: list[FileSystem] = [LocalFileSystem()]
    places: dict[str, tuple[str, int, str]] = {}
    for name in named:
        if "://" in name:
            folder = open_folder(name)
            files = files_in(folder)
            left = {path for path in files if any(map(is_leaving, PurePosixPath(path.removeprefix(folder.path)).parts))}
            for line in Findings(leavings=sorted(map(Path, left))).notes():
                print(f"{folder.name}: {line}.", file=sys.stderr)
            images = [path for path in files if is_image(PurePosixPath(path)) and path not in left]
            files_there = [(folder.name + path.removeprefix(folder.path), path) for path in images]
            places |= {file: (file, len(filesystems), path) for file, path in files_there}
            filesystems.append(folder.filesystem)
        else:
            paths = [Path(name)]
            places |= {
                str(path): (str(path), 0, str(path.absolute()))
                for path in (paths if name in absent else find_images(paths))
            }
    if not places:
        raise Stopped(f"There are no {FORMAT_NAMES} files in the named places; name others.")
    rows = list(places.values())
    groups = [as_group(rows[first : first + GROUP]) for first in range(0, len(rows), GROUP)]
    return Source(list(places), groups, Files(filesystems))


def as_group(rows: list[tuple[str, int, str]]) -> pyarrow.Table:
    """Return a group as Files reads it. Raises Stopped."""
    try:
        return pyarrow.table(list(map(pyarrow.array, zip(*rows, strict=True))), ["file", "filesystem", "path"])
    except UnicodeEncodeError as error:
        raise Stopped(f"{error.object!r} is a name that is no UTF-8; rename it, or use --engine gateway.") from None


def find_stored(name: str) -> Source:
    """Find the images in a Parquet file, or in a folder of such. Raises Stopped."""
    folder = open_folder(name)
    try:
        images = pyarrow.dataset.dataset(folder.path, filesystem=folder.filesystem, format="parquet")
        fields = [field_of(images.schema, NAMES, TEXT), field_of(images.schema, CONTENTS, BYTES)]
        files = images.to_table(columns=fields[:1])[0].to_pylist()
        if None in files:
            raise ValueError(f"not every image in it has a {fields[0]}")
    except (OSError, ValueError) as error:
        raise Stopped(f"{folder.name} cannot be read as Parquet ({error}); name another.") from None
    return Source(files, (folder, fields), stored)


def field_of(schema: pyarrow.Schema, names: tuple[str, str], kinds: tuple[pyarrow.DataType, ...]) -> str:
    """Return the one of `names` that is a column of such a kind. Raises ValueError if no column is."""
    for field in schema:
        if field.name in names and field.type in kinds:
            return field.name
    raise ValueError(f"it has no column {' or '.join(names)} of {kinds[0]}")


def files_in(folder: Folder) -> list[str]:
    """Return its files. Raises Stopped."""
    try:
        return folder.files()
    except OSError as error:
        raise Stopped(f"{folder.name} cannot be listed ({error}); name another.") from None


def open_folder(name: str) -> Folder:
    """Open what a path or URL names. Raises Stopped."""
    try:
        return Folder(name)
    except (OSError, ValueError) as error:
        raise Stopped(f"{name} cannot be reached ({error}); name another.") from None

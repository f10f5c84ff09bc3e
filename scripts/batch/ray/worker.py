"""The code of Ray's workers for scripts.batch.ray.engine: it runs an archive's own code on groups of images.

This module travels to the workers, with scripts.batch.rows, so machines need Ray and what the archive needs, not this
repository.
"""

import hashlib
import io
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pyarrow
from pyarrow import compute, parquet
from pyarrow.fs import FileSelector, FileSystem, FileType

from scripts.batch.rows import as_table, columns, rows_of

READ_AT_ONCE = 32  # files of a group, as a store far away takes long to answer, but answers many
UNFINISHED = re.compile(r"/\.[0-9a-f]{64}\.parquet\.[0-9a-f]{32}\.part$")

Content = bytes | OSError
Contents = Callable[[pyarrow.Table], Iterator[Content]]  # of each image in a table


class Folder:
    """A folder that every machine sees, or a prefix in an object store, as a path or URL names it.

    Raises OSError or ValueError if there can be no such folder.
    """

    def __init__(self, name: str) -> None:
        self.name = name.partition("?")[0].rstrip("/")  # the rest is how to reach it, and may be secret
        self.filesystem, path = FileSystem.from_uri(name if "://" in name else str(Path(name).absolute()))
        self.path = path.rstrip("/")

    def files(self) -> list[str]:
        """Return the paths, in its file system, of all files in and below it, in order."""
        infos = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True, recursive=True))
        return sorted(info.path for info in infos if info.type == FileType.File)

    def write(self, name: str, table: pyarrow.Table) -> None:
        """Write a Parquet file completely or not at all; until it is complete, UNFINISHED finds its path."""
        part = f"{self.path}/.{name}.{uuid4().hex}.part"
        with self.filesystem.open_output_stream(part) as stream:
            parquet.write_table(table, stream)
        self.filesystem.move(part, f"{self.path}/{name}")


class Classifier:
    """Predicts groups of images by the code that `archive`, the bytes of an archive, brings along.

    A group is a table whose first column names the images; `contents` reads them. Those named in `done` are left out.
    `top_k` is as in scripts.batch.rows.
    """

    def __init__(
        self, archive: bytes, contents: Contents, done: pyarrow.Array, output: Folder, top_k: int | None
    ) -> None:
        self.contents, self.done, self.output, self.top_k = contents, done, output, top_k
        with tempfile.TemporaryDirectory() as folder:
            zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)
            sys.path.insert(0, folder)
            from handler import onnx_engine

            self.model = onnx_engine.load(Path(folder), threads=1)

    def __call__(self, images: pyarrow.Table) -> pyarrow.Table:
        """Write the rows of a group to a file of the output.

        Returns a table with their number, the images without a row because they could not be read, and the reasons.
        """
        images = images.filter(compute.invert(compute.is_in(images[0].cast(pyarrow.string()), self.done)))
        files = images[0].to_pylist()
        contents = dict(zip(files, self.contents(images), strict=True))
        unread = {file: str(content) for file, content in contents.items() if isinstance(content, OSError)}
        read = self.model.read
        items = {file: read(content) for file, content in contents.items() if not isinstance(content, OSError)}
        if items:
            classes, answers = self.model.classes, self.model.predict(list(items.values()))
            rows = rows_of(list(items), answers, classes, self.top_k)
            # Who does the group again writes the same file, and not a second one.
            name = hashlib.sha256("\n".join(files).encode()).hexdigest()
            self.output.write(f"{name}.parquet", as_table(rows, columns(classes, self.top_k)))
        lists = [pyarrow.array([list(part)], pyarrow.list_(pyarrow.string())) for part in (unread, unread.values())]
        return pyarrow.table([pyarrow.array([len(items)]), *lists], ["written", "unread", "why"])


class Files:
    """Reads images that are files; a table has names, the numbers of file systems, and paths there."""

    def __init__(self, filesystems: list[FileSystem]) -> None:
        self.filesystems = filesystems

    def __call__(self, images: pyarrow.Table) -> Iterator[Content]:
        places = list(zip(images[1].to_pylist(), images[2].to_pylist(), strict=True))
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            for first in range(0, len(places), READ_AT_ONCE):
                yield from pool.map(self._read, places[first : first + READ_AT_ONCE])

    def _read(self, place: tuple[int, str]) -> Content:
        filesystem, path = place
        try:
            with self.filesystems[filesystem].open_input_stream(path) as stream:
                return stream.read()
        except OSError as error:
            return error


def stored(images: pyarrow.Table) -> Iterator[Content]:
    """Yield images that are in the table itself, after their names; a missing one is as one without a byte."""
    return (content or b"" for content in images[1].to_pylist())

"""Predictions as rows of a file: CSV and JSON Lines, which grow by appending, and Parquet, which is written at once."""

import csv
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.batch.output import writing
from training.files import written_whole
from training.outcome import Stopped

if TYPE_CHECKING:
    import pyarrow

FIGURES = ("predicted_class", "confidence", "in_distribution", "error")
Row = list[Any]  # the values of its `columns`; None where there is none
KINDS = {"predicted_class": str, "confidence": float, "in_distribution": bool, "error": str, "file": str}
RANK = "class_"  # before the rank of one of the likeliest classes; its probability is the next column
PREDICTED, ERROR = 1, len(FIGURES)  # their places in a Row
NUMBER_OF_FIGURES = ERROR + 1  # values at the beginning of a Row; the others are classes and probabilities
HOW_TO_CONTINUE = " Run the same command again to continue after its rows."


def columns(classes: list[str], top_k: int | None = None) -> list[str]:
    """Return the names of a Row's columns: the file, FIGURES, and the probability of every class.

    With `top_k` the likeliest classes and their probabilities stand there instead, as many of them.
    """
    if top_k is None:
        return ["file", *FIGURES, *(f"probability_{name}" for name in classes)]
    ranks = range(1, min(top_k, len(classes)) + 1)
    return ["file", *FIGURES, *chain.from_iterable((f"{RANK}{rank}", f"probability_{rank}") for rank in ranks)]


def rows_of(
    files: Sequence[Path | str],
    answers: Sequence[Mapping[str, object]],
    classes: list[str],
    top_k: int | None = None,
) -> list[Row]:
    """Return a row for each file and its answer, which is a Prediction or a Refusal."""
    return [_row(file, answer, classes, top_k) for file, answer in zip(files, answers, strict=True)]


def _row(file: Path | str, answer: Mapping[str, object], classes: list[str], top_k: int | None) -> Row:
    probabilities: Any = answer.get("class_probabilities", {})
    first = [str(file), *map(answer.get, FIGURES)]
    if top_k is None:
        return [*first, *map(probabilities.get, classes)]
    likeliest = nlargest(top_k, probabilities, key=probabilities.get) or [None] * min(top_k, len(classes))
    return [*first, *chain.from_iterable((name, probabilities.get(name)) for name in likeliest)]


def legible(file: str) -> str:
    """Return the name of a file as it can be printed: a byte that is no UTF-8 becomes its number."""
    return os.fsencode(file).decode(errors="backslashreplace")


class Csv:
    """A header and a line a row; files are named by the bytes that the file system has.

    `head` is the header, `opening` the first bytes of a file, and `end` the bytes after each row.
    """

    end = b"\r\n"

    def __init__(self, names: list[str]) -> None:
        self.kinds = _kinds(names)
        self.head = self.opening = self.encode([names])

    def encode(self, rows: Iterable[Row]) -> bytes:
        """Return rows as they stand in the file."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        return os.fsencode(text.getvalue())

    def decode(self, content: bytes) -> list[Row]:
        """Return the rows of a complete file. Raises ValueError or TypeError if it has another form."""
        _, *rows = csv.reader(io.StringIO(os.fsdecode(content), newline=""))
        return [[_parse(kind, text) for kind, text in zip(self.kinds, row, strict=False)] for row in rows]


def _kinds(names: list[str]) -> list[type]:
    return [str if name.startswith(RANK) else KINDS.get(name, float) for name in names]


def _parse(kind: type, text: str) -> Any:
    if not text:
        return None
    return text == "True" if kind is bool else kind(text)


class JsonLines:
    """A JSON object a line and row, its keys the columns in order; otherwise as Csv."""

    head = b""
    opening = b'{"file": '
    end = b"\n"

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def encode(self, rows: Iterable[Row]) -> bytes:
        return b"".join(json.dumps(dict(zip(self.names, row, strict=True))).encode() + self.end for row in rows)

    def decode(self, content: bytes) -> list[Row]:
        return [list(dict(json.loads(line)).values()) for line in content.splitlines()]


Form = Csv | JsonLines
FORMS: dict[str, type[Form]] = {".csv": Csv, ".jsonl": JsonLines, ".parquet": Csv}


class OtherRows(Stopped):
    """There are rows of other images, classes or columns."""


class Journal:
    """A file of rows that is appended to, so that a kill costs no more than its last, torn one.

    Every method raises Stopped if the file cannot be read or written.
    """

    def __init__(self, path: Path, form: Form) -> None:
        self.path, self.form = path, form

    def read(self) -> list[Row]:
        """Return the complete rows of an earlier run. Raises Stopped if they are of another kind."""
        with writing(self.path):
            content = self.path.read_bytes() if self.path.exists() else b""
        complete = b"".join(content.rpartition(self.form.end)[:2])
        if not complete:
            if not self.form.opening.startswith(content[: len(self.form.opening)]):
                raise self.other()
            return []
        try:
            rows = self.form.decode(complete)
            if self._bytes(rows) != complete:
                raise ValueError
        except (ValueError, TypeError):
            raise self.other() from None
        return rows

    def read_valid(self, classes: Collection[str]) -> list[Row]:
        """Return the rows that `read` returns, but for those of files that have changed since.

        Raises OtherRows if one has none of `classes`.

        A refused file may have been half copied, by a program that sets back the time of the last change.
        """
        rows = self.read()
        if not rows:
            return []
        if not {row[PREDICTED] for row in rows if not row[ERROR]} <= set(classes):
            raise self.other()
        written = self.path.stat().st_mtime_ns
        return [row for row in rows if not _changed_since(written, Path(row[0]), bool(row[ERROR]))]

    def is_older_than(self, output: Path) -> bool:
        return output.exists() and self.path.stat().st_mtime_ns <= output.stat().st_mtime_ns

    def keep(self, rows: list[Row]) -> None:
        """Leave no others than these rows in the file, or begin it."""
        content = self._bytes(rows)
        with writing(self.path, HOW_TO_CONTINUE):
            if not rows:
                self.path.write_bytes(content)
            elif self.path.exists() and self.path.read_bytes().startswith(content):
                os.truncate(self.path, len(content))
            else:
                with written_whole(self.path.resolve()) as temporary:
                    temporary.write_bytes(content)

    def append(self, rows: list[Row]) -> None:
        with writing(self.path, HOW_TO_CONTINUE), self.path.open("ab") as file:
            file.write(self.form.encode(rows))

    def drop(self, files: Collection[str]) -> list[Row]:
        """Take the rows of some files out, and return them."""
        rows = self.read()
        self.keep([row for row in rows if row[0] not in files])
        return [row for row in rows if row[0] in files]

    def other(self) -> OtherRows:
        """Return what to raise where the rows do not belong to this run."""
        return OtherRows(
            f"{self.path} holds rows of other images or classes, or with another --top-k; remove it to start over."
        )

    def _bytes(self, rows: list[Row]) -> bytes:
        return self.form.head + self.form.encode(rows)


class Rows:
    """The rows of one run by file: `final` ones are in the journal, those in `again` are of images to ask again.

    To save memory, the final ones are kept here without their probabilities.
    """

    def __init__(self, journal: Journal, kept: list[Row]) -> None:
        self.journal = journal
        self.final = {row[0]: row[:NUMBER_OF_FIGURES] for row in kept}  # in the order of the journal
        self.again: dict[str, Row] = {}

    def add(self, rows: list[Row], again: list[Row]) -> None:
        self.journal.append(rows)
        for row in rows:
            self.again.pop(row[0], None)
            self.final[row[0]] = row[:NUMBER_OF_FIGURES]
        self.again |= {row[0]: row for row in again}

    def reopen(self, files: Collection[str]) -> None:
        """Remove the rows of files that have changed, so that these are predicted again."""
        if files := self.final.keys() & files:
            self.again |= {row[0]: row for row in self.journal.drop(files)}
            for file in files:
                del self.final[file]

    def all(self) -> Iterator[Row]:
        """Yield the beginning of each row."""
        return chain(self.final.values(), self.again.values())

    def write(self, output: Path, files: list[str], names: list[str]) -> None:
        """Make the output, a row for each of `files`; the journal stays if images are to be predicted again."""
        with writing(output, f" The rows are in {self.journal.path}; the same command continues after them."):
            if files == list(self.final) and output.suffix != ".parquet":
                self.journal.path.replace(output)
                return
            rows = {row[0]: row for row in self.journal.read()} | self.again
            write_rows(output, [rows[file] for file in files], names)
            if not self.again:
                self.journal.path.unlink()


def _changed_since(moment: int, file: Path, refused: bool) -> bool:
    """Say whether a file has changed after a moment in nanoseconds; False if it is not there."""
    try:
        stat = file.stat()
    except OSError:
        return False
    return (stat.st_ctime_ns if refused else stat.st_mtime_ns) > moment


def write_rows(path: Path, rows: list[Row], names: list[str]) -> None:
    """Write a complete file of rows, in the form that its suffix names. Raises OSError."""
    with written_whole(path) as temporary:
        if path.suffix == ".parquet":
            from pyarrow import parquet  # takes a third of a second, which most runs need not spend

            parquet.write_table(as_table(rows, names), temporary)
        else:
            form = FORMS[path.suffix](names)
            temporary.write_bytes(form.head + form.encode(rows))


def as_table(rows: list[Row], names: list[str]) -> "pyarrow.Table":
    """Return rows as strings, doubles and booleans; files as `legible` has them."""
    import pyarrow

    types = {str: pyarrow.string(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    files, *figures = zip(*rows, strict=True)
    values = (list(map(legible, files)), *figures)
    arrays = [pyarrow.array(column, types[kind]) for column, kind in zip(values, _kinds(names), strict=True)]
    return pyarrow.table(arrays, names=names)

"""Predictions as rows of a file: CSV and JSON Lines, which grow by appending, and Parquet, which is written whole."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.gateway_client import Answer
from scripts.options import Stopped
from training.files import written_whole

if TYPE_CHECKING:
    import pyarrow

FIGURES = ("predicted_class", "confidence", "in_distribution", "error")
Row = list[Any]  # the file, FIGURES, the probability of every class; None where there is none
KINDS = (str, str, float, bool, str)  # of the first in a Row; the others are floats


def columns(classes: list[str]) -> list[str]:
    """Return the names of what is in a Row."""
    return ["file", *FIGURES, *(f"probability_{name}" for name in classes)]


def rows_of(files: Sequence[Path | str], answers: list[Answer], classes: list[str]) -> list[Row]:
    return [_row(file, answer, classes) for file, answer in zip(files, answers, strict=True)]


def _row(file: Path | str, answer: Answer, classes: list[str]) -> Row:
    probabilities = answer.get("class_probabilities", {})
    return [str(file), *map(answer.get, FIGURES), *map(probabilities.get, classes)]


def legible(file: str) -> str:
    """Return the name of a file as it can be printed: a byte that is no UTF-8 becomes its number."""
    return os.fsencode(file).decode(errors="backslashreplace")


class Csv:
    """A header and a line a row; files are named by the bytes that the file system has.

    `head` is what the file begins with, `opening` what its first bytes are, and `end` what ends each row.
    """

    end = b"\r\n"

    def __init__(self, names: list[str]) -> None:
        self.head = self.opening = self.encode([names])

    def encode(self, rows: Iterable[Row]) -> bytes:
        """Return rows as they stand in the file."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        return os.fsencode(text.getvalue())

    def decode(self, content: bytes) -> list[Row]:
        """Return the rows of a whole file. Raises ValueError or TypeError where it is none of this form."""
        _, *rows = csv.reader(io.StringIO(os.fsdecode(content), newline=""))
        return [[_parse(kind, text) for kind, text in zip(_kinds(), row, strict=False)] for row in rows]


def _kinds() -> Iterator[type]:
    return chain(KINDS, repeat(float))


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


class Journal:
    """A file of rows that is appended to, so that a kill costs no more than its last, torn one."""

    def __init__(self, path: Path, form: Form) -> None:
        self.path, self.form = path, form

    def read(self) -> list[Row]:
        """Return the whole rows that a run before has left. Raises Stopped where they are of another kind."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = b"".join(content.rpartition(self.form.end)[:2])
        if not whole:
            if not self.form.opening.startswith(content[: len(self.form.opening)]):
                raise self.other()
            return []
        try:
            rows = self.form.decode(whole)
            if self._bytes(rows) != whole:
                raise ValueError
        except (ValueError, TypeError):
            raise self.other() from None
        return rows

    def keep(self, rows: list[Row]) -> None:
        """Cut the file after these, its first, rows, or begin it."""
        if rows:
            os.truncate(self.path, len(self._bytes(rows)))
        else:
            self.path.write_bytes(self.form.head)

    def append(self, groups: Iterable[list[Row]]) -> Iterator[Row]:
        """Yield each row once it is in the file."""
        with self.path.open("ab") as file:
            for rows in groups:
                file.write(self.form.encode(rows))
                file.flush()
                yield from rows

    def other(self) -> Stopped:
        """Return what to raise where the rows do not belong to this run."""
        return Stopped(f"{self.path} holds rows of other images or classes; remove it to begin anew.")

    def _bytes(self, rows: list[Row]) -> bytes:
        return self.form.head + self.form.encode(rows)


def write_parquet(path: Path, rows: list[Row], names: list[str]) -> None:
    """Write rows as `as_table` has them."""
    from pyarrow import parquet  # takes a third of a second, which most runs need not spend

    with written_whole(path) as temporary:
        parquet.write_table(as_table(rows, names), temporary)


def as_table(rows: list[Row], names: list[str]) -> "pyarrow.Table":
    """Return rows as strings, doubles and booleans; files as `legible` has them."""
    import pyarrow

    types = {str: pyarrow.string(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    files, *figures = zip(*rows, strict=True)
    values = (list(map(legible, files)), *figures)
    arrays = [pyarrow.array(column, types[kind]) for column, kind in zip(values, _kinds(), strict=False)]
    return pyarrow.table(arrays, names=names)

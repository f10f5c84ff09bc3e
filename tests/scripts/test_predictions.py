"""Rows in files: what is written is what is read, and what belongs to another run is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import parquet

from scripts.options import Stopped
from scripts.predictions import FORMS, Journal, Row, columns, write_parquet

CLASSES = ["cat", "dog, wild"]
ROWS: list[Row] = [
    ["a/cat, 1.jpg", "dog, wild", 0.8999999761581421, True, None, 1e-07, 0.8999999761581421],
    ["a/caf\udce9.jpg", None, None, None, "The file cannot be read.", None, None],
    ["a/é.jpg", "cat", 1.0, False, None, 1.0, 0.0],
]


@pytest.fixture(params=[".csv", ".jsonl"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    return Journal(tmp_path / "rows", FORMS[request.param](columns(CLASSES)))


def test_what_a_kill_has_left_is_taken_up(journal: Journal) -> None:
    assert journal.read() == []
    journal.keep([])
    assert list(journal.append([ROWS[:2], ROWS[2:]])) == ROWS
    assert journal.read() == ROWS
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-1])
    journal.keep(journal.read())
    assert list(journal.append([ROWS[2:]])) == ROWS[2:]
    assert journal.path.read_bytes() == whole


@pytest.mark.parametrize(
    "change", [lambda text: text.replace("cat", "cow"), lambda text: "[1, 2]\r\n" + text, lambda _: '{"own": 1}']
)
def test_other_rows_are_refused_and_left_alone(journal: Journal, change: Callable[[str], str]) -> None:
    other = change(
        'file,predicted_class,confidence,in_distribution,error,probability_cat,"probability_dog, wild"\r\n'
        if journal.form.head
        else journal.form.encode(ROWS[:1]).decode()
    ).encode()
    journal.path.write_bytes(other)
    with pytest.raises(Stopped, match="holds rows of other images or classes; remove it"):
        journal.read()
    assert journal.path.read_bytes() == other


def test_a_file_with_other_line_ends_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("name,grade\nAda,1\n")
    with pytest.raises(Stopped, match="holds rows of other images"):
        Journal(tmp_path / "mine.csv", FORMS[".csv"](columns(CLASSES))).read()


def test_json_lines_have_json_types_in_the_order_of_the_columns() -> None:
    first, second, _ = FORMS[".jsonl"](columns(CLASSES)).encode(ROWS).splitlines()
    assert list(json.loads(first).items()) == list(zip(columns(CLASSES), ROWS[0], strict=True))
    assert json.loads(second)["confidence"] is None


def test_parquet_has_types_and_nulls(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", ROWS, columns(CLASSES))
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert [str(each) for each in table.schema.types] == ["string", "string", "double", "bool", "string"] + 2 * [
        "double"
    ]
    assert table.column_names == columns(CLASSES)
    legible = ["a/cat, 1.jpg", r"a/caf\xe9.jpg", "a/é.jpg"]
    assert [list(row.values()) for row in table.to_pylist()] == [
        [name, *row[1:]] for name, row in zip(legible, ROWS, strict=True)
    ]

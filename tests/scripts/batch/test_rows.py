"""Rows in files: what is written is what is read, and what belongs to another run is refused."""

import json
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import parquet

from scripts.batch.rows import FORMS, NUMBER_OF_FIGURES, Journal, OtherRows, Row, Rows, columns, rows_of, write_rows
from training.outcome import Stopped

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
    journal.append(ROWS[:2])
    journal.append(ROWS[2:])
    assert journal.read() == ROWS
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-1])
    journal.keep(journal.read())
    journal.append(ROWS[2:])
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
    with pytest.raises(Stopped, match="holds rows of other images or classes, or with another --top-k; remove it"):
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
    write_rows(tmp_path / "rows.parquet", ROWS, columns(CLASSES))
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert [str(each) for each in table.schema.types] == ["string", "string", "double", "bool", "string"] + 2 * [
        "double"
    ]
    assert table.column_names == columns(CLASSES)
    legible = ["a/cat, 1.jpg", r"a/caf\xe9.jpg", "a/é.jpg"]
    assert [list(row.values()) for row in table.to_pylist()] == [
        [name, *row[1:]] for name, row in zip(legible, ROWS, strict=True)
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_rows_of_the_likeliest_classes_come_back_as_they_were(suffix: str, tmp_path: Path) -> None:
    probabilities = {"cat": 0.25, "dog, wild": 0.5, "12": 0.25}
    answers: list[Mapping[str, object]] = [
        {"predicted_class": "dog, wild", "confidence": 0.5, "in_distribution": True}
        | {"class_probabilities": probabilities},
        {"error": "No image."},
    ]
    for top_k, tail in (
        (0, []),
        (2, ["dog, wild", 0.5, "cat", 0.25]),
        (9, ["dog, wild", 0.5, "cat", 0.25, "12", 0.25]),
    ):
        names = columns(list(probabilities), top_k)
        written = rows_of(["a.png", "b.png"], answers, list(probabilities), top_k)
        assert [row[NUMBER_OF_FIGURES:] for row in written] == [tail, [None] * len(tail)]
        journal = Journal(tmp_path / f"{top_k}{suffix}", FORMS[suffix](names))
        journal.keep(written)
        assert journal.read() == written
        with pytest.raises(Stopped, match="with another --top-k"):
            Journal(journal.path, FORMS[suffix](columns(list(probabilities), top_k + 1 if top_k < 3 else None))).read()
        write_rows(tmp_path / f"{top_k}.parquet", written, names)
        assert parquet.read_table(tmp_path / f"{top_k}.parquet").column_names == names


def row_of(path: Path, error: str | None = None) -> Row:
    return [str(path), *([None] * 3 if error else ["cat", 1.0, True]), error, *([None] * 2 if error else [1.0, 0.0])]


def test_rows_of_files_that_have_changed_since_do_not_hold(journal: Journal, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("same.png", "drawn.png", "half.png", "broken.png", "gone.png")]
    for path in paths[:-1]:
        path.write_bytes(b"content")
        os.utime(path, (1, 1))
    rows = [row_of(path, "It is damaged." if path.stem in ("half", "broken") else None) for path in paths]
    journal.keep(rows)
    os.utime(journal.path, ns=(time.time_ns(), paths[-2].stat().st_ctime_ns))
    assert journal.read_valid(CLASSES) == rows
    paths[0].chmod(0o600)
    paths[1].write_bytes(b"another")
    with paths[2].open("ab") as half:
        half.write(b"the other half")
    os.utime(paths[2], (1, 1))  # as `cp -p` does at its end
    assert [row[0] for row in journal.read_valid(CLASSES)] == [str(paths[index]) for index in (0, 3, 4)]


def test_rows_of_a_model_with_other_classes_do_not_hold(journal: Journal) -> None:
    journal.keep(ROWS)
    with pytest.raises(OtherRows):
        journal.read_valid(["mug", "plate"])


def test_rows_are_dropped_from_the_middle(journal: Journal) -> None:
    journal.keep(ROWS)
    assert journal.drop([ROWS[1][0]]) == ROWS[1:2]
    assert journal.read() == [ROWS[0], ROWS[2]]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_output_is_in_order_and_the_journal_has_what_is_final(suffix: str, tmp_path: Path) -> None:
    output, names = tmp_path / f"out{suffix}", columns(CLASSES)
    files = [str(row[0]) for row in ROWS]
    journal = Journal(tmp_path / f"out{suffix}.part", FORMS[suffix](names))
    journal.keep([])
    rows = Rows(journal, [])
    rows.add(ROWS[1:2], [row_of(Path(files[0]), "It cannot be read.")])
    rows.add(ROWS[2:], [])
    rows.write(output, files, names)
    first = output.read_bytes()
    assert journal.read() == ROWS[1:]
    assert journal.is_older_than(output)
    rows.add(ROWS[:1], [])
    rows.write(output, files, names)
    assert not journal.path.exists()
    write_rows(tmp_path / f"whole{suffix}", ROWS, names)
    assert output.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes() != first


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a full disk, a write fails that goes beyond `size` bytes of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_costs_no_row_that_is_there(journal: Journal) -> None:
    journal.keep(ROWS)
    full = no_file_larger_than(journal.path.stat().st_size + 10)
    with full, pytest.raises(Stopped, match=r"cannot be written \(File too large\); make room .*Run the same command"):
        journal.append(ROWS)
    assert journal.read() == ROWS


def test_where_the_output_finds_no_room_the_rows_stay_in_the_journal(tmp_path: Path) -> None:
    names = columns(CLASSES)
    journal = Journal(tmp_path / "out.parquet.part", FORMS[".parquet"](names))
    journal.keep(ROWS)
    rows = Rows(journal, ROWS)
    with no_file_larger_than(1000), pytest.raises(Stopped, match=r"out.parquet cannot be written .* The rows are in"):
        rows.write(tmp_path / "out.parquet", [row[0] for row in ROWS], names)
    assert journal.read() == ROWS
    assert list(tmp_path.iterdir()) == [journal.path]


def test_a_place_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "rows.csv", tmp_path / ("long" * 100)):
        journal = Journal(path, FORMS[".csv"](columns(CLASSES)))
        with pytest.raises(Stopped, match=f"{path} cannot be written"):
            journal.keep(journal.read())

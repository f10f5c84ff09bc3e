"""What is said of an output that cannot be written."""

from pathlib import Path

import pytest

from scripts.batch.output import alone_with, check_output
from training.outcome import Stopped


def test_refuses_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    check_output("--output", tmp_path / "a.csv", [".csv", ".jsonl"])
    for path, sentence in (
        (tmp_path / "a.txt", "must end in .csv or .jsonl"),
        (tmp_path / "none" / "a.csv", "There is no folder"),
        (tmp_path / "folder.csv", "is a folder; name a file with --output"),
        (Path("/proc/self/a.csv"), "You may not write into the folder /proc/self"),
    ):
        with pytest.raises(Stopped, match=sentence):
            check_output("--output", path, [".csv", ".jsonl"])


def test_two_commands_do_not_write_the_same_rows(tmp_path: Path) -> None:
    output = tmp_path / "a.csv"
    with (
        alone_with(output),
        pytest.raises(Stopped, match=r"Another command writes to .*; wait for its end"),
        alone_with(output),
    ):
        pass
    with alone_with(output), alone_with(tmp_path / "b.csv"):
        pass
    assert not list(tmp_path.iterdir())

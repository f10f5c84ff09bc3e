"""What every command has: help with examples, one JSON document, one sentence where it stops."""

import argparse
import importlib
import json
import sys
from pathlib import Path

import pytest

from scripts.options import Outcome, Stopped, check_output, execute


@pytest.mark.parametrize("command", ["batch_predict", "verify", "doctor", "models"])
def test_help_has_examples(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"scripts.{command}").main()
    printed = capsys.readouterr().out
    assert f" scripts/{command}.py " in printed  # test_help tries them
    assert "--json" in printed
    assert "Exit status" in printed


def test_json_is_all_there_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = argparse.Namespace(json=True)
    assert execute(lambda _: Outcome(1, "one is wrong", {"wrong": 1}), arguments) == 1
    assert json.loads(capsys.readouterr().out) == {"wrong": 1}


@pytest.mark.parametrize(
    ("error", "said"), [(Stopped("There is no model."), "There is no model."), (KeyboardInterrupt, "Interrupted.")]
)
def test_says_in_a_sentence_why_it_stops(error: BaseException, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def stops(_: argparse.Namespace) -> Outcome:
        raise error

    for as_json in (False, True):
        assert execute(stops, argparse.Namespace(json=as_json)) == 2
        printed = capsys.readouterr()
        assert printed.err == f"{said}\n"
        assert (json.loads(printed.out) if as_json else printed.out) == ({"error": said} if as_json else "")


def test_refuses_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    check_output("--output", tmp_path / "a.csv", [".csv", ".jsonl"])
    for path, said in (
        (tmp_path / "a.txt", "must end in .csv or .jsonl"),
        (tmp_path / "none" / "a.csv", "There is no folder"),
        (tmp_path / "folder.csv", "is a folder; name a file with --output"),
        (Path("/proc/self/a.csv"), "You may not write into the folder /proc/self"),
    ):
        with pytest.raises(Stopped, match=said):
            check_output("--output", path, [".csv", ".jsonl"])

"""The help of every command: it fits a terminal, and its examples are taken as they stand there."""

import re
import shlex
import sys
from unittest.mock import patch

import pytest

from scripts import cli, doctor, models
from scripts.cli import BENCHMARKS, COMMANDS
from training.commands import Command

NAMES = [name for section in COMMANDS.values() for name in section if name != "bench"]
NAMES += [f"bench {name}" for section in BENCHMARKS.values() for name in section]
NAMES += [f"models {name}" for name in models.main.commands]
EXAMPLE = re.compile(r"^ *(?:[^`|]+ \| )?classifier (.*)$", re.MULTILINE)


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with patch.dict("os.environ", {"COLUMNS": "80"}):
        assert cli.main([*name.split(), "--help"], "classifier", standalone_mode=False) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_no_line_is_wider_than_a_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line for line in help_of(name, capsys).splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_command_takes_the_arguments_of_its_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples = EXAMPLE.findall(help_of(name, capsys))
    assert any(example.startswith(name) for example in examples)
    for example in examples:
        with patch.object(Command, "invoke", lambda command, context: 0):
            assert cli.main(shlex.split(example), standalone_mode=False) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["predict", "verify", "doctor", "models"])
def test_says_its_exit_status_and_how_machines_read_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = help_of(name, capsys)
    assert "--json" in printed
    assert "Exit status" in " ".join(printed.split())


def test_the_doctor_comes_before_the_environment() -> None:
    examples = re.findall(r"^    (.+?) (\S+\.py) ?(.*)$", doctor.__doc__ or "", re.MULTILINE)
    assert examples
    for python, script, arguments in examples:
        assert (python, script) == ("python3", "scripts/doctor.py")
        with patch.object(sys, "argv", [script, *shlex.split(arguments)]), patch.object(doctor, "end", lambda *_: 0):
            assert doctor.main() == 0

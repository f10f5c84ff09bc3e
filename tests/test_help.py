"""The help of every command: it fits a terminal, and its examples are taken as they stand there."""

import importlib
import re
import shlex
import subprocess
import sys
from unittest.mock import patch

import click
import pytest

from scripts import cli, doctor
from scripts.cli import BENCHMARKS, COMMANDS
from tests.stack import ROOT
from training.commands import Command

NAMES = [name for section in COMMANDS.values() for name in section if name != "bench"]
NAMES += [f"bench {name}" for section in BENCHMARKS.values() for name in section]
EXAMPLE = re.compile(r"^ *(?:[^`|]+ \| )?classifier (.*)$", re.MULTILINE)


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with patch.dict("os.environ", {"COLUMNS": "80"}):
        assert cli.main([*name.split(), "--help"], "classifier", standalone_mode=False) == 0
    return capsys.readouterr().out


def test_the_list_of_commands_fits_a_screen_and_is_there_at_once() -> None:
    code = "import sys; from scripts.cli import main; main(['--help'], 'classifier', standalone_mode=False); "
    code += "sys.exit(len({'torch', 'flask', 'numpy', 'requests'} & sys.modules.keys()))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = printed.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert all(f"\n  {name} " in printed for name in [*(name for name in NAMES if " " not in name), "bench"])


@pytest.mark.parametrize("name", [*NAMES, *(f"models {name}" for name in ("list", "roll", "rollback"))])
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


def test_every_command_is_the_one_that_its_module_runs() -> None:
    for section in (*COMMANDS.values(), *BENCHMARKS.values()):
        for place, _ in section.values():
            module, _, name = place.partition(":")
            assert isinstance(getattr(importlib.import_module(module), name), click.Command)

"""The one installed command: its list is there at once, and every name leads to the command that it promises."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from scripts import cli
from scripts.cli import BENCHMARKS, COMMANDS
from tests.stack import ROOT

NAMES = [name for section in COMMANDS.values() for name in section]


def test_the_list_of_commands_fits_a_screen_and_is_there_at_once() -> None:
    code = "import sys; from scripts.cli import main; main(['--help'], 'classifier', standalone_mode=False); "
    code += "sys.exit(len({'torch', 'flask', 'numpy', 'requests'} & sys.modules.keys()))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = printed.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert all(re.search(rf" {name}[ ,\n]", printed) for name in NAMES)


def test_every_command_is_the_one_that_its_module_runs() -> None:
    for section in (*COMMANDS.values(), *BENCHMARKS.values()):
        for place, _ in section.values():
            module, _, name = place.partition(":")
            assert isinstance(getattr(importlib.import_module(module), name), click.Command)


@pytest.mark.parametrize("name", ["serve", "batch_predict", "models", "verify", "doctor"])
def test_the_scripts_are_thin(name: str) -> None:
    assert len((ROOT / "scripts" / f"{name}.py").read_text().splitlines()) <= 50


def test_an_unknown_command_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"], "classifier", standalone_mode=False) == 2
    assert capsys.readouterr() == ("", "No such command 'trian'. Did you mean 'train'? See 'classifier --help'.\n")


def test_it_is_installed_and_works_in_any_folder(tmp_path: Path) -> None:
    installed = Path(sys.executable).with_name("classifier")
    done = subprocess.run([installed, "serve", "none.pth"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "There is no checkpoint none.pth; 'classifier train' makes one.\n"


def test_an_archive_has_its_version_already(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "my.mar", "--version", "2.0"], standalone_mode=False) == 2
    assert capsys.readouterr().err == "--version is for a checkpoint; an archive has its version already.\n"

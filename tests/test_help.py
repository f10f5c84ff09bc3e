"""The examples that the help of each command gives: as they stand there, from a shell in which nothing is set up."""

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Callable
from typing import Any, NoReturn
from unittest.mock import patch

import pytest

from tests.stack import ROOT

COMMANDS = [
    f"{room}.{path.stem}"
    for room in ("scripts", "training")
    for path in sorted((ROOT / room).glob("*.py"))
    if "\ndef main(" in path.read_text()
]
EXAMPLE = re.compile(r"^ *(?:[^`]+ \| )?(\S*python3? )?((?:-m [a-z_]+\.|scripts/)[a-z_./]+)(?: (.*))?$", re.MULTILINE)


PARSE, INTERMIXED = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_intermixed_args


class Parsed(Exception):
    """Ends a command when it has read its arguments."""


def only(parse: Callable[..., Any]) -> Callable[..., NoReturn]:
    def parse_and_end(*arguments: Any) -> NoReturn:
        parse(*arguments)
        raise Parsed

    return parse_and_end


def examples(module: str) -> list[tuple[str, str, list[str]]]:
    found = EXAMPLE.findall(importlib.import_module(module).__doc__ or "")
    return [(python.strip(), command, shlex.split(arguments)) for python, command, arguments in found]


@pytest.mark.parametrize("module", COMMANDS)
def test_examples_need_no_active_environment(module: str) -> None:
    python = "python3" if module == "scripts.doctor" else ".venv/bin/python"  # the doctor comes before the environment
    wanted = {(python, f"-m {module}"), (python, f"{module.replace('.', '/')}.py")}
    assert examples(module)
    assert {(python, command) for python, command, _ in examples(module)} <= wanted


@pytest.mark.parametrize("module", COMMANDS)
def test_the_command_takes_the_arguments_of_its_examples(module: str) -> None:
    for _, _, arguments in examples(module):
        with (
            patch.object(sys, "argv", [module, *arguments]),
            patch.object(argparse.ArgumentParser, "parse_args", only(PARSE)),
            patch.object(argparse.ArgumentParser, "parse_intermixed_args", only(INTERMIXED)),
            pytest.raises(Parsed),
        ):
            importlib.import_module(module).main()

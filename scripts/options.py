"""What the commands have in common: options of one name each, one way to end, and `--json`."""

from __future__ import annotations  # scripts/doctor.py has to run in Pythons too old for the rest

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / ".run"  # the folder that scripts/serve.py runs in
URL_FILE = "url"  # in it: where the gateway is, or was last
STOPPED = 2  # the exit status of a command that ended before its end


class Stopped(Exception):
    """Ends a command before its end; the message says why and what to do."""


class Outcome(NamedTuple):
    """How a command ended: its exit status, and what it found as text and as JSON."""

    status: int
    text: str
    document: Any


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the docstring of the command, examples and all."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_json(parser)
    return parser


def add_json(parser: argparse.ArgumentParser, default: Any = False) -> None:
    parser.add_argument("--json", action="store_true", default=default, help="print one JSON document, for machines")


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the images to send: `paths`, `list`; see `images.paths_of`."""
    parser.add_argument("paths", nargs="*", metavar="FOLDER|GLOB|FILE")
    parser.add_argument("--list", metavar="FILE", help="a file with more of these, one a line; - is the standard input")


def add_gateway(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", type=_url, default=_served_url(), help="the gateway (%(default)s)")


def _served_url() -> str:
    """Return where `make serve` has served last, or else where it would."""
    url = RUN / URL_FILE
    return url.read_text() if url.exists() else "http://127.0.0.1:5001"


def _url(text: str) -> str:
    return text.rstrip("/")


def add_connections(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connections", type=_count, default=4, help="requests under way at once (%(default)s)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of 1 or more")
    return int(text)


def add_product(parser: argparse.ArgumentParser) -> None:
    """Add where the product that runs on this machine has its files: `config`, `run`."""
    parser.add_argument("--config", type=Path, default=ROOT / "config.properties", help="TorchServe's configuration")
    parser.add_argument("--run", type=Path, default=RUN, help="the folder that scripts/serve.py runs in")


def check_output(option: str, path: Path, suffixes: Iterable[str]) -> None:
    """Raise Stopped where a file of such a name, in such a folder, cannot be written."""
    if path.suffix not in suffixes:
        raise Stopped(f"{option} {path} must end in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise Stopped(f"There is no folder {path.parent} to write to; make it, or name another with {option}.")


def execute(command: Callable[[argparse.Namespace], Outcome], arguments: argparse.Namespace) -> int:
    """Carry out a command; returns its exit status. Prints what it found, or else why it was stopped."""
    try:
        outcome = command(arguments)
    except (Stopped, KeyboardInterrupt) as error:
        reason = str(error) or "Interrupted."
        print(reason, file=sys.stderr)
        outcome = Outcome(STOPPED, "", {"error": reason})
    if arguments.json:
        print(json.dumps(outcome.document, indent=2))
    elif outcome.text:
        print(outcome.text)
    return outcome.status

"""What the commands have in common: options of one name each, one way to end, and `--json`."""

from __future__ import annotations  # scripts/doctor.py has to run in Pythons too old for the rest

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

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


def add_token(parser: argparse.ArgumentParser) -> None:
    """Add the token for a proxy before the gateway: `token_file`."""
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a token to send, if a proxy asks for one")


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
    if path.is_dir():
        raise Stopped(f"{path} is a folder; name a file with {option}.")
    if not os.access(path.parent, os.W_OK):
        raise Stopped(f"You may not write into the folder {path.parent}; name another with {option}.")


@contextmanager
def writing(path: Path, consequence: str = "") -> Iterator[None]:
    """Turn an OSError of the block into Stopped: `path` cannot be written, with what follows from it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise Stopped(f"{path} cannot be written ({reason}); make room or name another output.{consequence}") from None


def execute(command: Callable[[argparse.Namespace], Outcome], arguments: argparse.Namespace) -> int:
    """Carry out a command; returns its exit status. Prints what it found, or else why it was stopped."""
    try:
        outcome = command(arguments)
    except (Stopped, KeyboardInterrupt, BrokenPipeError) as error:  # the last if nobody reads what is said meanwhile
        reason = str(error) or "Interrupted."
        outcome = Outcome(STOPPED, "", {"error": reason})
        _print(reason, sys.stderr)
    text = json.dumps(outcome.document, indent=2) if arguments.json else outcome.text
    return outcome.status if not text or _print(text, sys.stdout) else STOPPED


def say(note: str) -> None:
    """Print what is no result."""
    print(note, file=sys.stderr, flush=True)


def _print(text: str, stream: TextIO) -> bool:
    """Print and return whether that was possible; says it if not."""
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        # What is left in its buffer would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is not sys.stderr:
            _print(f"The standard output cannot be written ({error.strerror}); the result was not printed.", sys.stderr)
        return False
    return True

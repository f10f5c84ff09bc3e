"""How every command ends: with a result, or with one sentence and status 2; loads the standard library alone."""

from __future__ import annotations  # scripts/doctor.py has to run in Pythons too old for the rest

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO

STOPPED = 2  # the exit status of a command that ended before its end
INTERRUPTED = "Interrupted."
# By the file system. The last four if a file or folder is named where the other one is, or with too long a name.
REFUSED = (
    *(errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG),
)


class Stopped(Exception):
    """Ends a command before its end; the message says what is wrong, then what to do."""


class Outcome(NamedTuple):
    """How a command ended: its exit status, and its result as text and as JSON."""

    status: int = 0
    text: str = ""
    document: Any = None


def end(command: Callable[[], Outcome | None], as_json: bool = False, interrupted: str = INTERRUPTED) -> int:
    """Carry out a command and return its exit status. Prints its result, or else why it was stopped."""
    try:
        outcome = command() or Outcome()
    except (Stopped, KeyboardInterrupt, OSError) as error:
        reason = interrupted if isinstance(error, KeyboardInterrupt) else _reason(error)
        outcome = Outcome(STOPPED, "", {"error": reason})
        _print(reason, sys.stderr)
    text = json.dumps(outcome.document, indent=2) if as_json else outcome.text
    return outcome.status if not text or _print(text, sys.stdout) else STOPPED


def _reason(error: Stopped | OSError) -> str:
    """Return the sentence of an error that is no mistake of ours; raises any other one."""
    if isinstance(error, (Stopped, BrokenPipeError)):  # the last if nobody reads the notes meanwhile
        return str(error)
    if error.errno not in REFUSED:
        raise error
    return f"{error.filename or 'A file'} cannot be used ({error.strerror}); make room, allow it, or name another."


def say(note: str) -> None:
    """Print a note that is no result."""
    print(note, file=sys.stderr, flush=True)


def _print(text: str, stream: TextIO) -> bool:
    """Print and return whether that was possible; says it if not."""
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        # The rest of its buffer would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is not sys.stderr:
            _print(f"The standard output cannot be written ({error.strerror}); the result was not printed.", sys.stderr)
        return False
    return True

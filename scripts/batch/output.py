"""Checks that an output can be written, before the work begins, and sentences for the user if it cannot."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from training.outcome import Stopped


def check_output(option: str, path: Path, suffixes: Iterable[str]) -> None:
    """Raise Stopped if a file of this name, in this folder, cannot be written."""
    if path.suffix not in suffixes:
        raise Stopped(f"{option} {path} must end in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise Stopped(f"There is no folder {path.parent} to write to; make it, or name another with {option}.")
    if path.is_dir():
        raise Stopped(f"{path} is a folder; name a file with {option}.")
    if not os.access(path.parent, os.W_OK):
        raise Stopped(f"You may not write into the folder {path.parent}; name another with {option}.")


@contextmanager
def alone_with(output: Path) -> Iterator[None]:
    """Keep other commands from the rows of an output until the block ends. Raises Stopped if one has them."""
    lock = FileLock(output.with_name(f".{output.name}.lock"), blocking=False)
    with writing(output):
        try:
            lock.acquire()
        except Timeout:  # an OSError, too
            raise Stopped(
                f"Another command writes to {output} now; wait for its end, or name another output."
            ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def writing(path: Path, consequence: str = "") -> Iterator[None]:
    """Turn an OSError of the block into Stopped: `path` cannot be written, and the `consequence` of that."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise Stopped(f"{path} cannot be written ({reason}); make room or name another output.{consequence}") from None

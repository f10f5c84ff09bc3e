"""Images that appear in folders while you watch them, each when it has been written completely.

It lists the folders again and again, because network drives report no changes by other machines.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import NamedTuple

from scripts.batch.images import find_images
from training.outcome import say

SETTLED_SECONDS = 2.0  # seconds without a change, after which a file counts as written
LOOK_SECONDS = 1.0  # seconds from look to look,
LOOK_SHARE = 10  # or as many times as long as a look takes, if that is more


class State(NamedTuple):
    """The size of a file in bytes and the time of its last change in nanoseconds; both change when it is written to."""

    size: int
    changed: int


def state_of(path: Path) -> State | None:
    """Return the state of a file, or None if it is not there or cannot be reached."""
    try:
        stat = path.stat()
    except (OSError, ValueError):  # the latter for a name that none can have
        return None
    return State(stat.st_size, stat.st_mtime_ns)


def arrivals(
    named: list[Path], done: Mapping[str, State | None], later: Mapping[str, float], stop: Event
) -> Iterator[dict[Path, State]]:
    """Yield images of the named places, also those that appear or change later, until `stop` is set.

    An image comes again at the next look unless `done` has its state then, or `later` a moment of time.monotonic() that
    is still to come. Raises Stopped if a folder goes away.
    """
    seen: dict[tuple[Path, State], float] = {}  # when a file was first seen in a state
    wait, hidden = 0.0, False
    while not stop.wait(wait):
        now = time.monotonic()
        try:
            states_now = {path: state_of(path) for path in find_images(named, aloud=False)}
        except OSError as error:  # a network drive may be away for a moment
            if not hidden:
                say(f"{error.filename} cannot be looked through now ({error.strerror}); trying again.")
            states_now, hidden = {}, True
        else:
            hidden = False
        wait = max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - now))
        states = {path: state for path, state in states_now.items() if state and state != done.get(str(path))}
        seen = {known: seen.get(known, now) for known in states.items()}
        written = {
            path: state
            for (path, state), since in seen.items()
            if now - since >= SETTLED_SECONDS and later.get(str(path), now) <= now
        }
        if written:
            yield written

"""Images that appear in folders while one watches, each once it has been written."""

import time
from collections.abc import Collection, Iterator
from pathlib import Path
from threading import Event

from watchfiles import watch

from scripts.images import find_images

SETTLED = 2.0  # seconds without a change, after which a file counts as written
LOOK_INTERVAL = 500  # milliseconds
State = tuple[Path, int, int]  # a file, its size, and when it was changed


def arrivals(named: list[Path], done: Collection[str], stop: Event) -> Iterator[list[Path]]:
    """Yield images in what was named, also those that appear later, until `stop` is set.

    What was yielded has to be among `done` before the next is taken. Raises Stopped where a folder goes away.
    """
    seen: dict[State, float] | None = None  # when a file was first seen as it is
    folders = {_folder(path) for path in named}
    for changes in watch(
        *folders, watch_filter=None, stop_event=stop, rust_timeout=LOOK_INTERVAL, yield_on_timeout=True
    ):
        if seen == {} and not changes:
            continue
        now, before = time.monotonic(), seen or {}
        # Looks for itself, as what is in a new folder may be there before the folder is watched.
        try:
            seen = {state: before.get(state, now) for state in _states(named, done)}
        except FileNotFoundError:  # something was moved away meanwhile
            seen = None
            continue
        written = [path for (path, _, _), since in seen.items() if now - since >= SETTLED]
        if written:
            yield written


def _states(named: list[Path], done: Collection[str]) -> Iterator[State]:
    for path in find_images(named, aloud=False):
        if str(path) not in done:
            stat = path.stat()
            yield path, stat.st_size, stat.st_mtime_ns


def _folder(path: Path) -> Path:
    """Return the folder to watch for what was named."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())

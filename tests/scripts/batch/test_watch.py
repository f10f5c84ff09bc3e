"""Files that appear in a watched folder, whole or little by little."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Event

import pytest

from scripts.batch import watch
from scripts.batch.watch import State, arrivals, state_of
from tests.stack import wait_until
from training.outcome import Stopped


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 0.5)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.1)


@contextmanager
def watched(*named: Path, done: dict[str, State | None] | None = None) -> Iterator[dict[str, int]]:
    """Watch until the block ends; yields the size of each file, by name, when it was last taken as written."""
    stop, taken = Event(), dict[str, int]()
    done = {} if done is None else done

    def take() -> None:
        for states in arrivals(list(named), done, {}, stop):
            done.update({str(path): state for path, state in states.items()})
            taken.update({path.name: state.size for path, state in states.items()})

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def test_what_is_there_and_what_appears_each_once_and_whole(tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "there.png").touch()
    with watched(tmp_path / "drop", tmp_path / "drop" / "*" / "*.jpg") as taken:
        wait_until(lambda: "there.png" in taken, 10)
        with (tmp_path / "drop" / "slow.png").open("wb", buffering=0) as slow:
            for _ in range(8):
                slow.write(bytes(100))
                time.sleep(0.1)
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "in a folder.jpg").touch()
        (tmp_path / "new").rename(tmp_path / "drop" / "new")
        (tmp_path / "drop" / "notes.txt").touch()
        wait_until(lambda: len(taken) == 3, 10)
    assert taken == {"there.png": 0, "slow.png": 800, "in a folder.jpg": 0}


def test_a_glob_may_match_nothing_yet(tmp_path: Path) -> None:
    with watched(tmp_path / "later" / "*.png") as taken:
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "one.png").touch()
        wait_until(lambda: "one.png" in taken, 10)


def test_ends_where_the_folder_goes_away(tmp_path: Path) -> None:
    image = tmp_path / "drop" / "one.png"
    image.parent.mkdir()
    image.touch()
    looks = arrivals([image.parent], {str(image): state_of(image)}, {}, Event())
    threading.Timer(0.3, shutil.rmtree, [image.parent]).start()
    with pytest.raises(Stopped, match="There is no file or folder"):
        list(looks)


def test_a_copy_that_paused_comes_again_and_what_has_not_changed_does_not(tmp_path: Path) -> None:
    paths = [tmp_path / "half.png", tmp_path / "same.png"]
    for path in paths:
        path.write_bytes(bytes(10))
    done = {str(path): state_of(path) for path in paths}
    with watched(tmp_path, done=done) as taken:
        with paths[0].open("ab") as half:
            half.write(bytes(10))
        os.utime(paths[0], (1, 1))  # as `cp -p` does at its end
        wait_until(lambda: taken, 10)
    assert taken == {"half.png": 20}


def test_what_could_not_be_asked_comes_again_but_not_at_once(tmp_path: Path) -> None:
    (tmp_path / "one.png").touch()
    later: dict[str, float] = {}
    looks = arrivals([tmp_path], {}, later, Event())
    next(looks)
    next(looks)
    due = later[str(tmp_path / "one.png")] = time.monotonic() + 1
    next(looks)
    assert time.monotonic() >= due


def test_a_network_drive_may_be_away_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.png").touch()
    failures, stat = iter([OSError(errno.ESTALE, "Stale file handle", "/drive")] * 3), Path.stat

    def look(path: Path, **options: bool) -> os.stat_result:
        if path == tmp_path:
            for failure in failures:
                raise failure
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", look)
    assert list(next(arrivals([tmp_path], {}, {}, Event()))) == [tmp_path / "one.png"]
    assert capsys.readouterr().err == "/drive cannot be looked through now (Stale file handle); trying again.\n"


def inotify_handles_while_watching(folder: Path) -> int:
    with watched(folder) as taken:
        wait_until(lambda: "there.png" in taken, 10)
        handles = [handle for handle in Path("/proc/self/fd").iterdir() if handle.is_symlink()]
        return sum("inotify" in os.readlink(handle) for handle in handles)


def test_needs_no_inotify(tmp_path: Path) -> None:
    """As where its watches are used up, or on a network drive, where others write and it says nothing.

    In a process of its own, because a library that another test loaded may open some at any time.
    """
    (tmp_path / "there.png").touch()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(inotify_handles_while_watching, tmp_path).result() == 0

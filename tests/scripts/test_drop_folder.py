"""Files that appear in a watched folder, whole or little by little."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from scripts import drop_folder
from scripts.drop_folder import arrivals
from scripts.options import Stopped
from tests.stack import wait_until


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drop_folder, "SETTLED", 1.0)


@contextmanager
def watched(*named: Path) -> Iterator[dict[str, int]]:
    """Watch until the block ends; yields the size of each file, by name, when it was taken as written."""
    stop, done, taken = Event(), set[str](), dict[str, int]()

    def take() -> None:
        for images in arrivals(list(named), done, stop):
            assert not {image.name for image in images} & set(taken)
            done.update(map(str, images))
            taken.update({image.name: image.stat().st_size for image in images})

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
            for _ in range(10):
                slow.write(bytes(100))
                time.sleep(0.1)
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "in a folder.jpg").touch()
        (tmp_path / "new").rename(tmp_path / "drop" / "new")
        (tmp_path / "drop" / "notes.txt").touch()
        wait_until(lambda: len(taken) == 3, 10)
    assert taken == {"there.png": 0, "slow.png": 1000, "in a folder.jpg": 0}


def test_a_glob_may_match_nothing_yet(tmp_path: Path) -> None:
    with watched(tmp_path / "later" / "*.png") as taken:
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "one.png").touch()
        wait_until(lambda: "one.png" in taken, 10)


def test_ends_where_the_folder_goes_away(tmp_path: Path) -> None:
    image = tmp_path / "drop" / "one.png"
    image.parent.mkdir()
    image.touch()
    looks = arrivals([image.parent], {str(image)}, Event())
    threading.Timer(1, shutil.rmtree, [image.parent]).start()
    with pytest.raises(Stopped, match="There is no file or folder"):
        list(looks)

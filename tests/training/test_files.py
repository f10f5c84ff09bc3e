"""What is written whole, by the rooms that do so: killed at any moment, a file is the old one or the new one."""

import errno
import itertools
import os
import random
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import FORKS
from tests.stack import Record, times
from training.archive import archive as write_archive
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.files import write_whole, written_whole
from training.history import Row, write_history

KILLS = times(5, 100)
ROW: Row = dict.fromkeys(("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"), 1.0)


def checkpoint_in_version(version: int, checkpoint: Path, folder: Path) -> None:
    weights, card = load_checkpoint(checkpoint)
    save_checkpoint(Checkpoint(weights, card | {"name": f"version {version}"}), folder / "file.pth")


def archive_in_version(version: int, checkpoint: Path, folder: Path) -> None:
    write_archive(load_checkpoint(checkpoint), folder / "file.mar", f"{version}.0")


def history_in_version(version: int, checkpoint: Path, folder: Path) -> None:
    write_history([ROW] * version, folder)


Write = Callable[[int, Path, Path], None]


def write_for_ever(write: Write, checkpoint: Path, folder: Path) -> None:
    os.environ["TMPDIR"] = str(folder.parent)  # where an archive is built, which a kill leaves there
    for version in itertools.cycle((1, 2)):
        write(version, checkpoint, folder)


def contents(folder: Path) -> dict[str, object]:
    return {path.name: content(path) for path in folder.iterdir()}


def content(path: Path) -> object:
    """Return what tells versions of a file apart; raises where an archive is torn."""
    if path.suffix == ".sha256":
        return re.fullmatch(r"[0-9a-f]{64}  file\.mar\n", path.read_text()) is not None
    if path.suffix != ".mar":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    return entries | {"file.pt": None}  # a process names the types in its second TorchScript otherwise


def write_elsewhere(write: Write, *arguments: object) -> None:
    """Write in a process as those that are killed: what other tests draw with would change the bytes of a plot here."""
    process = FORKS.Process(target=write, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("write", [checkpoint_in_version, archive_in_version, history_in_version])
def test_killed_at_any_moment_a_file_is_whole(
    write: Write, checkpoint: Path, tmp_path: Path, record_property: Record
) -> None:
    started = time.monotonic()
    versions = []
    for version in (1, 2):
        write_elsewhere(write, version, checkpoint, tmp_path / str(version))
        versions.append(contents(tmp_path / str(version)))
    seconds = time.monotonic() - started

    folder, dice = tmp_path / "killed", random.Random(5)
    folder.mkdir()
    kills = times(1, KILLS) if write is archive_in_version else KILLS  # an archive takes seconds
    for kill in range(kills):
        process = FORKS.Process(target=write_for_ever, args=(write, checkpoint, folder))
        process.start()
        until = time.monotonic() + dice.uniform(0, seconds / 2)  # the time of one version
        # Every other kill falls into a write: its file is there, but not yet in place.
        while time.monotonic() < until or (kill % 2 and not list(folder.glob(".*.part"))):
            time.sleep(0.0005)
            assert process.is_alive()
        process.kill()
        process.join()
        left = contents(folder)
        whole = {name for name in left if not name.endswith(".part")}
        for name in whole:
            assert left[name] in [files[name] for files in versions], name
        assert len(left) <= 2 * len(versions[0])  # a file and what was to become of it

    write_elsewhere(write, 1, checkpoint, folder)
    assert contents(folder) == versions[0]
    record_property(f"{write.__name__.split('_')[0]} killed {kills} times while it is written", "the old or the new")


@pytest.mark.parametrize(("call", "code"), [("chmod", errno.EPERM), ("chmod", errno.ENOTSUP), ("fsync", errno.EINVAL)])
def test_a_file_system_without_permissions_or_fsync_keeps_what_was_trained(
    call: str, code: int, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    loaded = load_checkpoint(checkpoint)
    monkeypatch.setattr(os, call, refuse)
    save_checkpoint(loaded, tmp_path / "drawn.pth")
    write_history([ROW], tmp_path)
    assert load_checkpoint(tmp_path / "drawn.pth").card == loaded.card
    names = {"drawn.pth", "training_history.pth", "training_history.csv", "training_history.png"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_disk_that_fails_does_not_count_as_one_without_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as network drives say of a full disk

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

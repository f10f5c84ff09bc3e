"""Moves of photos to another class, or out of the data, as a person has confirmed them; each can be undone.

A CSV file has a row for each move: the file below the folder, the class it goes to (empty: out of the data), and why.
"""

import csv
import errno
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from training.files import write_whole
from training.outcome import Stopped
from training.split import as_csv

COLUMNS = ["file", "to", "why"]
TAKEN_OUT = ".taken_out"  # where photos lie that were taken out; names with a dot first are no classes
JOURNALS = ".moves"  # a file for each time that moves were made, with the old and new place of each photo
UNFINISHED = ".unfinished.csv"  # ends the name of one whose moves have not all been made
JOURNAL_COLUMNS = ["before", "after"]


class Move(NamedTuple):
    """A move of a file, by its path below the folder, to a class, or out of the data if that is empty."""

    file: str
    to: str
    why: str


def write_moves(path: Path, moves: Iterable[Move]) -> None:
    write_whole(path, as_csv([COLUMNS, *moves]))


def read_moves(path: Path) -> list[Move]:
    """Read moves. Raises Stopped if the file has none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            moves = [
                Move(row["file"].strip(), row["to"].strip(), row.get("why") or "") for row in csv.DictReader(lines)
            ]
    except FileNotFoundError:
        raise Stopped(f"There is no file {path}; save the moves that you confirm on the page there.") from None
    except (OSError, ValueError, KeyError, AttributeError, csv.Error):
        raise Stopped(f"{path} cannot be read as moves; it needs the columns {', '.join(COLUMNS)}.") from None
    if not moves:
        raise Stopped(f"{path} has no moves; confirm some on the page, and save them.")
    return moves


def make(root: Path, classes: list[str], moves: list[Move], splits: bool) -> Path:
    """Make moves, all or none, below a folder whose photos lie in classes, or if `splits` in train and test.

    Returns the journal that undoes them. Raises Stopped if a move cannot be made.
    """
    if [*(root / JOURNALS).glob(f"*{UNFINISHED}")]:
        raise Stopped(f"Earlier moves were cut short. First take them back: 'classifier check {root} --undo'.")
    planned = _planned(root, classes, moves, splits)
    number = len(list((root / JOURNALS).glob("*.csv"))) + 1
    unfinished = root / JOURNALS / f"{number:04}{UNFINISHED}"
    try:
        _write_journal(unfinished, planned)
    except OSError as error:
        raise Stopped(f"{root} cannot be written ({error.strerror}), so nothing was moved.") from None
    try:
        for before, after in planned:
            _move(root / before, root / after)
        return unfinished.replace(root / JOURNALS / f"{number:04}.csv")
    except OSError as error:
        undo(root)
        raise Stopped(f"{error.filename} cannot be moved ({error.strerror}), so nothing was moved.") from None


def undo(root: Path) -> int:
    """Undo the last moves that were made; returns how many. Raises Stopped if there are none, or if some cannot be.

    Those that cannot be undone stay in the journal.
    """
    journals = sorted((root / JOURNALS).glob("*.csv"))
    if not journals:
        raise Stopped(f"No moves were made in {root}, so there is nothing to undo.")
    with journals[-1].open(encoding="utf-8", newline="") as lines:
        rows = [(Path(row["before"]), Path(row["after"])) for row in csv.DictReader(lines)]
    made = [(before, after) for before, after in rows if os.path.lexists(root / after)]
    left, reason = [], ""
    for before, after in made:
        try:
            _move(root / after, root / before)
        except OSError as error:
            left.append((before, after))
            reason = reason or f"{error.filename}: {error.strerror}"
    if left:
        _write_journal(journals[-1], left)
        raise Stopped(
            f"Took back {len(made) - len(left):,} moves, and could not take back {len(left):,} ({reason}). Mend that, "
            "then run it again."
        )
    journals[-1].unlink()
    return len(made)


def _write_journal(path: Path, moved: Iterable[tuple[Path, Path]]) -> None:
    write_whole(path, as_csv([JOURNAL_COLUMNS, *((before.as_posix(), after.as_posix()) for before, after in moved)]))


def _move(old: Path, new: Path) -> None:
    """Move a photo, or a link to one. Raises OSError if that is not possible, or if another file is there."""
    new.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, "another file is there", str(new))
    if old.is_symlink() and not old.readlink().is_absolute():  # from elsewhere, it would lead elsewhere
        new.symlink_to(os.path.relpath(old.parent.resolve() / old.readlink(), new.parent.resolve()))
        old.unlink()
    else:
        old.rename(new)


def _planned(root: Path, classes: list[str], moves: list[Move], splits: bool) -> list[tuple[Path, Path]]:
    """Return the old and new place of each photo, below the folder."""
    taken: set[str] = set()
    moved: set[Path] = set()
    planned = []
    for move in moves:
        before = Path(move.file)
        parts = before.parts
        if before.is_absolute() or ".." in parts or len(parts) < 2 + splits or not (root / before).is_file():
            raise Stopped(f"{root} has no photo {move.file!r}, so nothing was moved. Run 'classifier check' again.")
        if move.to and move.to not in classes:
            raise Stopped(
                f"{move.to!r} is no class of {root}, so nothing was moved. Make its folder, or correct the row."
            )
        folder = Path(*parts[:splits], move.to) if move.to else Path(TAKEN_OUT, *parts[:-1])
        if folder == before.parent:
            continue
        if before in moved:
            raise Stopped(f"{move.file!r} stands in two rows, so nothing was moved. Keep one of them.")
        moved.add(before)
        after = _free(root, folder / before.name, taken)
        taken.add(_folded(after))
        planned.append((before, after))
    return planned


def _free(root: Path, wanted: Path, taken: set[str]) -> Path:
    """Return a path that no photo has, as near to the wanted one as possible."""
    path, number = wanted, 1
    while os.path.lexists(root / path) or _folded(path) in taken:
        number += 1
        path = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    return path


def _folded(path: Path) -> str:
    """Return what is equal for paths that are one on a disk which ignores case and the form of accents."""
    return unicodedata.normalize("NFC", str(path)).casefold()

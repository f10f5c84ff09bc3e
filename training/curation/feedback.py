"""Review feedback, which the gateway has kept: a page to decide on, and photos for training.

The gateway's folder has <class>/<sha256>.<ext>, or .unlabelled/… for images that nobody has given a class. Beside each
lies <sha256>.jsonl, with a line for each time that somebody spoke of it.
"""

import json
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from training.class_folders import has_splits
from training.curation.cards import Card, Section, write_page
from training.curation.moves import Move
from training.files import sha256, write_whole, written_whole
from training.folders import FEEDBACK_FILE, HEIC_EXTENSIONS, HOW_TO_READ_HEIC, READS_HEIC, find, is_image, is_leaving
from training.outcome import Stopped

UNLABELLED = ".unlabelled"
KEPT = re.compile(r"[^/]+/[0-9a-f]{64}\.\w+")  # a path of an image, as the gateway keeps it


class Proposal(NamedTuple):
    """An image of the folder: its path there, its class (empty if nobody gave one), and the lines on it."""

    path: Path
    class_name: str
    said: list[dict[str, Any]]


class Accepted(NamedTuple):
    """How many images went to the photos, were thrown away, were among the photos already, and had gone before."""

    accepted: int
    discarded: int
    copies: int
    gone: int


def proposals(folder: Path) -> list[Proposal]:
    """Return the images that wait for a review, in the order of their classes. Raises Stopped without a folder."""
    if not folder.is_dir():
        raise Stopped(f"There is no folder {folder}; name the one that GATEWAY_FEEDBACK_DIR names.")
    found = []
    for place in sorted(folder.iterdir()):
        if place.is_dir() and (place.name == UNLABELLED or not place.name.startswith(".")):
            class_name = "" if place.name == UNLABELLED else place.name
            images = sorted(path for path in place.iterdir() if _is_kept(path) and not is_leaving(path.name))
            found += [Proposal(path.relative_to(folder), class_name, _lines(path)) for path in images]
    return found


def write_review(folder: Path, classes: list[str], page: Path) -> int:
    """Write the page on which a person decides; `classes` are offered besides those of the folder. Returns how many."""
    waiting = proposals(folder)
    names = sorted({*classes, *(proposal.class_name for proposal in waiting if proposal.class_name)})
    cards = [
        Card(
            [folder / proposal.path],
            _in_words(proposal),
            Move(proposal.path.as_posix(), proposal.class_name, "feedback"),
            # The class that somebody gave comes first.
            sorted(names, key=lambda name: name != proposal.class_name),
        )
        for proposal in waiting
    ]
    note = "Nothing is learned from them before you decide. Discarded images are deleted."
    write_page(page, "Feedback", "", [Section("Images that wait for a review", note, cards)])
    return len(waiting)


def accept(folder: Path, moves: list[Move], photos: Path) -> Accepted:
    """Move accepted images to the folder of photos, and delete those whose class is empty.

    One that is among the photos already stays out, because a test photo would be learned. All are copied before the
    first is deleted, so that you can run it again if it stops. Raises Stopped if a row names no image of the folder, or
    no class, or if an image is among the photos with another class. So it does if one folder is in the other, or if a
    file cannot be written.
    """
    kept, trained = folder.resolve(), photos.resolve()
    if (
        kept == trained
        or kept in trained.parents
        or (trained in kept.parents and not any(map(is_leaving, kept.relative_to(trained).parts)))
    ):
        raise Stopped(f"{photos} and {folder} lie in each other, so nothing was moved. Name another folder with --to.")
    waiting = {proposal.path.as_posix(): proposal for proposal in proposals(folder)}
    _check(folder, moves, waiting)
    splits = photos.is_dir() and any(photos.iterdir()) and has_splits(photos)
    root = photos / "train" if splits else photos
    there = [move for move in moves if move.file in waiting]
    targets = {move.file: root / move.to / Path(move.file).name for move in there if move.to}
    copies = _copies(folder, targets, photos, splits)
    lines = []
    try:
        for file, target in targets.items():
            if file not in copies:
                with written_whole(target) as copy:  # it may be another disk
                    copy.write_bytes((folder / file).read_bytes())
                lines.append(json.dumps({"file": target.name, "class": target.parent.name, "said": waiting[file].said}))
        if lines:
            record = photos / FEEDBACK_FILE
            before = record.read_text(encoding="utf-8") if record.exists() else ""
            write_whole(record, "\n".join([before.rstrip("\n"), *lines, ""]).lstrip("\n"))
        for move in there:
            (folder / move.file).with_suffix(".jsonl").unlink(missing_ok=True)
            (folder / move.file).unlink(missing_ok=True)
    except OSError as error:
        place = error.filename or photos  # none if a disk is full
        raise Stopped(f"{place} cannot be written ({error.strerror}). Mend that, then run it again.") from None
    return Accepted(len(targets) - len(copies), len(there) - len(targets), len(copies), len(moves) - len(there))


def _check(folder: Path, moves: list[Move], waiting: Collection[str]) -> None:
    """Raise Stopped if a row names no image as the gateway keeps them, or no class, or if rows contradict each other.

    An image may have gone meanwhile: it was too old, or the moves were made before, until they stopped.
    """
    if len({move.file for move in moves}) < len(moves):
        raise Stopped("An image stands in two rows, so nothing was moved. Keep one of them.")
    classes: dict[str, str] = {}
    for move in moves:
        if move.to and (Path(move.to).name != move.to or is_leaving(move.to)):
            raise Stopped(f"{move.to!r} cannot be a class, so nothing was moved. Correct the row.")
        if move.file not in waiting and not KEPT.fullmatch(move.file):
            raise Stopped(
                f"{folder} has no image {move.file!r}, so nothing was moved. Run 'classifier feedback review' again."
            )
        if not move.to and not KEPT.fullmatch(move.file):
            raise Stopped(f"{move.file} is not the gateway's, so nothing was deleted or moved. Delete it yourself.")
        if move.to and classes.setdefault(Path(move.file).stem, move.to) != move.to:
            raise Stopped(
                f"{move.file} goes to two classes in two rows, because it was told twice, so nothing was moved. Keep "
                "one of them."
            )


def _copies(folder: Path, targets: dict[str, Path], photos: Path, splits: bool) -> set[str]:
    """Return the files that are among the photos elsewhere. Raises Stopped if one has another class there."""
    there = {sha256(path): path for path in find(photos).images} if photos.is_dir() else {}
    copies = set()
    for file, target in targets.items():
        place = there.get(sha256(folder / file), target)  # the target itself if this was run before, and stopped
        folders = place.relative_to(photos).parts[splits:-1]
        if folders[:1] != (target.parent.name,):
            raise Stopped(
                f"{file} is {place} too, which is no {target.parent.name!r}, so nothing was moved. Move that photo to "
                "the right class, or discard this one."
            )
        if place != target:
            copies.add(file)
    return copies


def _is_kept(path: Path) -> bool:
    return is_image(path) or path.suffix in HEIC_EXTENSIONS  # which may need a package that is not here


def _lines(image: Path) -> list[dict[str, Any]]:
    """Return what was said of an image. A line that a full disk has torn is left out."""
    try:
        lines = image.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    said = []
    for line in lines:
        with suppress(ValueError):
            said.append(json.loads(line))
    return said


def _in_words(proposal: Proposal) -> str:
    words = []
    if proposal.path.suffix in HEIC_EXTENSIONS and not READS_HEIC:
        words.append(f"It is a HEIC photo; {HOW_TO_READ_HEIC}.")
    for said in proposal.said:
        if "predicted_class" in said:
            words.append(
                f"Predicted as {said['predicted_class']} ({said['confidence']:.0%}, version {said['version']})."
            )
        if said.get("class"):
            words.append(f"{said.get('client') or 'Somebody'}: it is {said['class']}.")
        if said.get("note"):
            words.append(f"“{said['note']}”")
    return " ".join(dict.fromkeys(words)) or "Nobody said what it is."

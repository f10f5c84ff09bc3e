"""Photos in folders named as their classes: `<class>/*`, or all of a split in `train/<class>/*` or `test/<class>/*`."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import count, filterfalse
from pathlib import Path

from training.decoding import UNREADABLE
from training.folders import (
    FORMAT_NAMES,
    PLACES_FILE,
    Findings,
    counted,
    few,
    find,
    from_feedback,
    is_leaving,
)
from training.split import (
    ALWAYS_TRAIN,
    ALWAYS_VALIDATION,
    BY_CHANCE,
    DataError,
    Photos,
    by_content,
    is_for_test,
    validation_key,
)

VALIDATION_FOLDERS = ("val", "valid", "validation")  # beside train and test; nothing reads them
# Words in the names of splits, such as Training, testing_set or seg_train.
TRAIN = re.compile(r"(?<![a-z])train(ing)?(?![a-z])", re.IGNORECASE)
NOT_TRAIN = re.compile(r"(?<![a-z])(test(ing)?|val(id(ation)?)?|eval(uation)?)(?![a-z])", re.IGNORECASE)


def has_splits(root: Path) -> bool:
    """Return whether a folder has the folders train and test, or one of them and no classes. Raises DataError."""
    names = set(_folders_in(root))
    if {"train", "test"} <= {name.lower() for name in names} and not {"train", "test"} <= names:
        raise DataError(f"The folders in {root} have to be called train and test, in small letters. Rename them.")
    return {"train", "test"} <= names or (bool(names) and names <= {"train", "test", *VALIDATION_FOLDERS})


def splits_of(root: Path) -> list[str]:
    """Return which of train and test a folder has, or one empty name if its folders are classes. Raises DataError."""
    return [name for name in ("train", "test") if (root / name).is_dir()] if has_splits(root) else [""]


def classes_of(root: Path) -> list[str]:
    """Return the classes of a folder, in whichever split they are. Raises DataError if there are fewer than two."""
    return list(dict.fromkeys(name for split in splits_of(root) for name in classes_in(root / split)))


def of_folder(folder: Path, least: int = 2) -> Photos:
    """Return all photos of a folder of `least` classes or more, such as train or test."""
    classes, findings = _sorted_into_classes(folder, classes_in(folder, least))
    notes = _notes(folder, findings)
    if folder.name == "train":
        others = [name for name in _folders_in(folder.parent) if name not in ("train", "test")]
        notes += [f"{folder.parent / name}: {_why_not_read(name)}" for name in others]
    labels = [label for label, paths in enumerate(classes.values()) for _ in paths]
    paths = [path for paths in classes.values() for path in paths]
    keys = _validation_keys(paths, labels, from_feedback(folder.parent))
    return Photos(paths, labels, list(classes), _unreadable(findings), notes, keys)


def _why_not_read(name: str) -> str:
    if name in VALIDATION_FOLDERS:
        return "not read; the validation images are a part of train."
    return "not read; a class has to lie in train and in test."


def _validation_keys(paths: list[Path], labels: list[int], accepted: dict[str, int]) -> list[float] | None:
    """Keep the split of the photos that were there before feedback came, so that none changes its side.

    Photos from feedback are to train on, unless their class has no other photos. If it has one, that is for validation.
    """
    of_feedback = Counter(label for path, label in zip(paths, labels, strict=True) if path.name in accepted)
    if not of_feedback:
        return None
    others = Counter(label for path, label in zip(paths, labels, strict=True) if path.name not in accepted)
    places: dict[int, Iterator[int]] = defaultdict(lambda: filterfalse(is_for_test, count()))
    keys = {}
    # In the order they came in, so that another one takes a place behind them.
    for path, label in sorted(zip(paths, labels, strict=True), key=lambda photo: accepted.get(photo[0].name, -1)):
        if path.name not in accepted:
            keys[path] = ALWAYS_VALIDATION if others[label] == 1 and of_feedback[label] else BY_CHANCE
        else:
            keys[path] = ALWAYS_TRAIN if others[label] else validation_key(next(places[label]))
    return [keys[path] for path in paths]


def of_classes(root: Path, split: str) -> Photos:
    """Return the photos of a split that is made here, or all that are `unseen` if it was never made."""
    places_file = root / PLACES_FILE
    if split == "unseen" and not places_file.exists():
        return of_folder(root, least=1)
    classes, findings = _sorted_into_classes(root, classes_in(root))
    findings.others = [path for path in findings.others if path != places_file]
    rows = [(path, name) for name, paths in classes.items() for path in paths]
    made = by_content(rows, list(classes), split, places_file, _unreadable(findings))
    if (inside := _folders_in_each(root, list(classes))) and not any(path.parent.parent == root for path, _ in rows):
        note = f"{root}: each class has the folders {few(inside)}. If those are your classes, name a folder above them."
        made.notes.append(note)
    return made._replace(notes=[*_notes(root, findings), *made.notes] if split == "train" else [])


def _folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in one, in order. Raises DataError if it is missing or cannot be read."""
    try:
        return sorted(path.name for path in folder.iterdir() if not is_leaving(path.name) and os.path.isdir(path))
    except FileNotFoundError:
        raise DataError(f"There is no folder {folder}; name the one with your images.") from None
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); make it readable.") from None


def classes_in(folder: Path, least: int = 2) -> list[str]:
    """Return the classes of a folder, which are its folders. Raises DataError if there are fewer than `least`."""
    if folder.name in ("train", "test") and folder.parent.is_dir() and not folder.exists():
        beside = next((name for name in VALIDATION_FOLDERS if (folder.parent / name).is_dir()), None)
        rename = f"rename {folder.parent / beside} to it, or " if beside else ""
        raise DataError(
            f"{folder.parent} has no folder '{folder.name}' with classes; {rename}put images into {folder}/<class>/."
        )
    names = _folders_in(folder)
    if not names:
        if any(find(folder).images):
            raise DataError(
                f"{folder} has images, but no folders of classes; name the folder above it, or sort them into "
                f"{folder}/<class>/."
            )
        raise DataError(f"{folder} has no folders of classes; put images into {folder}/<class>/.")
    if len(names) < least:
        inside = folder / names[0]
        deeper = f" If the folders in {inside} are your classes, name that." if len(_folders_in(inside)) > 1 else ""
        raise DataError(f"Training needs at least two classes; {folder} has only '{names[0]}'.{deeper}")
    for name in names:
        if _is_no_utf8(name):
            raise DataError(f"{folder} has a folder whose name is not UTF-8: {few([name])}. Rename it.")
        if {"train", "test"} <= set(_folders_in(folder / name)):
            raise DataError(f"{folder / name} has folders train and test, so it is no class; name it with --data.")
    are_splits = any(map(TRAIN.search, names)) and any(map(NOT_TRAIN.search, names))
    if are_splits and (below := _folders_in_each(folder, names)):
        raise DataError(
            f"{few(names)} in {folder} all hold {few(below)}, as if they were splits of these classes. Rename them "
            "train and test."
        )
    return names


def _folders_in_each(folder: Path, names: list[str]) -> list[str]:
    """Return the two or more folders that each of the folders called `names` has, if they have the same ones."""
    first = _folders_in(folder / names[0])
    return first if len(first) > 1 and all(_folders_in(folder / name) == first for name in names[1:]) else []


def _is_no_utf8(name: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in name)  # a byte that Python could not decode


def _sorted_into_classes(folder: Path, names: list[str]) -> tuple[dict[str, list[Path]], Findings]:
    """Find the images of each class, in order. Raises DataError if a class has none."""
    findings = find(folder)
    classes: dict[str, list[Path]] = {name: [] for name in names}
    # A folder's own images come before those of folders in it, as in torchvision's ImageFolder.
    for path in sorted(findings.images, key=lambda path: (str(path.parent), path.name)):
        if path.parent != folder:
            classes[path.relative_to(folder).parts[0]].append(path)
    empty = [str(folder / name) for name, images in classes.items() if not images]
    if empty and not findings.unreadable:
        heic = "".join(f" {line[0].upper()}{line[1:]}" for line in findings.notes_of_heic())
        have = "has" if len(empty) == 1 else "have"
        raise DataError(f"{few(empty)} {have} no {FORMAT_NAMES} files; add some, or remove the folder.{heic}")
    return classes, findings


def _unreadable(findings: Findings) -> list[str]:
    return [f"{path}: {reason}. {UNREADABLE}" for path, reason in sorted(findings.unreadable.items())]


def _notes(folder: Path, findings: Findings) -> list[str]:
    """Return a line for each kind of file that is left out."""
    beside = [path for path in findings.images if path.parent == folder]
    notes = []
    if beside:
        notes.append(f"left out {counted(beside, 'image', 'images')} outside the folders of classes.")
    return [f"{folder}: {line}" for line in notes + findings.notes_of_others()]

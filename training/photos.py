"""The photos that you name with --data: where they are, the class of each, and what they are for.

They lie in one of three ways, which `photos_of` tells apart:

- `<class>/*`: every fifth photo of a class is for the test, and `validation_fraction` of the others for validation.
- `train/<class>/*` and `test/<class>/*`.
- A CSV file with the columns file and label, and perhaps split: train, validation or test.
"""

import csv
import io
import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from training import distributed
from training.decoding import UNREADABLE, digests_of
from training.files import write_whole
from training.folders import (
    FORMAT_NAMES,
    HEIC_EXTENSIONS,
    HOW_TO_READ_HEIC,
    PLACES_FILE,
    Findings,
    counted,
    extensions_of,
    few,
    find,
    is_leaving,
)
from training.outcome import Stopped

SPLITS = ("train", "validation", "test")
VALIDATION_FOLDERS = ("val", "valid", "validation")  # beside train and test; nothing reads them
PLACES_COLUMNS = ["class", "place", "sha256"]
TEST_EVERY, FIRST_TEST = 5, 2  # of the places in a class, numbered from 0
ALWAYS_TRAIN, ALWAYS_VALIDATION = 1.0, -1.0  # instead of a validation key
MAX_PROBLEMS = 20  # named in a message
MIN_PHOTOS = 3  # of a class: one to train on, one for validation, one for the test


class DataError(Stopped, ValueError):
    """Images cannot be trained on; the message says what to change."""


class Photos(NamedTuple):
    """The photos of a split in order, with the label of each, and the names of all classes.

    `problems` has a line for each one that cannot be used, and `notes` one for each kind of file that is left out.
    A photo is for validation if its key is below the recipe's `validation_fraction`. Without keys, chance decides.
    """

    paths: list[Path]
    labels: list[int]
    classes: list[str]
    problems: list[str]
    notes: list[str]
    validation_keys: list[float] | None = None
    digests: list[bytes] | None = None


def photos_of(root: Path, split: str) -> Photos:
    """Find the photos of a split, `train` (with those for validation) or `test`. Raises DataError."""
    if root.is_file():
        return _of_csv(root, split)
    if has_splits(root):
        return _of_folder(root / split)
    return _of_classes(root, split)


def has_splits(root: Path) -> bool:
    """Return whether a folder has the folders train and test, or one of them and no classes. Raises DataError."""
    names = set(_folders_in(root))
    return {"train", "test"} <= names or (bool(names) and names <= {"train", "test", *VALIDATION_FOLDERS})


def _folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in one, in order. Raises DataError if it is missing or cannot be read."""
    try:
        return sorted(path.name for path in folder.iterdir() if not is_leaving(path.name) and os.path.isdir(path))
    except FileNotFoundError:
        raise DataError(f"There is no folder {folder}; name the one with your images.") from None
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); make it readable.") from None


# Folders of classes


def _classes_in(folder: Path) -> list[str]:
    """Return the classes of a folder, which are its folders. Raises DataError if there are fewer than two."""
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
    if len(names) == 1:
        inside = folder / names[0]
        deeper = f" If the folders in {inside} are your classes, name that." if len(_folders_in(inside)) > 1 else ""
        raise DataError(f"Training needs at least two classes; {folder} has only '{names[0]}'.{deeper}")
    for name in names:
        if {"train", "test"} <= set(_folders_in(folder / name)):
            raise DataError(f"{folder / name} has folders train and test, so it is no class; name it with --data.")
    return names


def _sorted_into_classes(folder: Path, names: list[str]) -> tuple[dict[str, list[Path]], Findings]:
    """Find the images of each class, in order. Raises DataError if a class has none."""
    findings = find(folder)
    classes: dict[str, list[Path]] = {name: [] for name in names}
    # A folder's own images come before those of folders in it, as in torchvision's ImageFolder.
    for path in sorted(findings.images, key=lambda path: (str(path.parent), path.name)):
        if path.parent != folder:
            classes[path.relative_to(folder).parts[0]].append(path)
    empty = [name for name, images in classes.items() if not images]
    if empty and not findings.unreadable:
        heic = "".join(f" {line[0].upper()}{line[1:]}" for line in _note_of_heic(findings))
        raise DataError(f"{folder / empty[0]} has no {FORMAT_NAMES} files; add some, or remove the folder.{heic}")
    return classes, findings


def _of_folder(folder: Path) -> Photos:
    """Return all photos of a folder of classes."""
    classes, findings = _sorted_into_classes(folder, _classes_in(folder))
    notes = _notes(folder, findings)
    notes += [
        f"{folder.parent / name}: not read; the validation images are a part of {folder.parent / 'train'}."
        for name in VALIDATION_FOLDERS
        if folder.name == "train" and (folder.parent / name).is_dir()
    ]
    labels = [label for label, paths in enumerate(classes.values()) for _ in paths]
    paths = [path for paths in classes.values() for path in paths]
    return Photos(paths, labels, list(classes), _unreadable(findings), notes)


def _of_classes(root: Path, split: str) -> Photos:
    """Return the photos of a split that is made here."""
    classes, findings = _sorted_into_classes(root, _classes_in(root))
    places_file = root / PLACES_FILE
    findings.others = [path for path in findings.others if path != places_file]
    rows = [(path, name) for name, paths in classes.items() for path in paths]
    made = _splitted(rows, list(classes), split, places_file)
    notes = [*_notes(root, findings), *made.notes] if split == "train" else []
    return made._replace(problems=_unreadable(findings) + made.problems, notes=notes)


def _unreadable(findings: Findings) -> list[str]:
    return [f"{path}: {reason}. {UNREADABLE}" for path, reason in sorted(findings.unreadable.items())]


def _notes(folder: Path, findings: Findings) -> list[str]:
    """Return a line for each kind of file that is left out."""
    beside = [path for path in findings.images if path.parent == folder]
    heic = _note_of_heic(findings)
    others = [path for path in findings.others if not (heic and path.suffix.lower() in HEIC_EXTENSIONS)]
    kinds = [f"{suffix or 'no suffix'} {count:,}" for suffix, count in extensions_of(others).most_common()]
    notes = []
    if beside:
        notes.append(f"left out {counted(beside, 'image', 'images')} outside the folders of classes.")
    if kinds:
        notes.append(f"left out {counted(others, 'other file', 'other files')} ({few(kinds)}).")
    if line := findings.note_of_leavings():
        notes.append(f"{line}.")
    return [f"{folder}: {line}" for line in notes + heic]


def _note_of_heic(findings: Findings) -> list[str]:
    """Return a line on HEIC photos, if there are any and they cannot be read here."""
    names = [path.name for path in findings.others if path.suffix.lower() in HEIC_EXTENSIONS]
    if not names:
        return []
    return [f"left out {counted(names, 'HEIC photo', 'HEIC photos')}, {few(names)}; {HOW_TO_READ_HEIC}."]


# A CSV file


def _of_csv(table: Path, split: str) -> Photos:
    """Return the photos of a split that a CSV file lists. Raises DataError."""
    if table.suffix.lower() != ".csv":
        raise DataError(f"{table} is a file; name the folder of your photos, or a CSV file that lists them.")
    rows, splits = _rows_of(table)
    classes = sorted({label for _, label in rows})
    if len(classes) < 2:
        raise DataError(f"Training needs at least two classes; {table} has only {', '.join(classes) or 'none'}.")
    if splits is None:
        return _splitted(rows, classes, split, table.with_name(f"{table.stem}.{PLACES_FILE}"))
    for wanted in ("train", "test"):
        have = {label for (_, label), part in zip(rows, splits, strict=True) if part == wanted}
        if missing := [name for name in classes if name not in have]:
            raise DataError(f"{table} has no row of class '{missing[0]}' with the split {wanted}; add one.")
    wanted_splits = ("test",) if split == "test" else ("train", "validation")
    chosen = [(row, part) for row, part in zip(rows, splits, strict=True) if part in wanted_splits]
    keys = [ALWAYS_VALIDATION if part == "validation" else ALWAYS_TRAIN for _, part in chosen]
    return Photos(
        [path for (path, _), _ in chosen],
        [classes.index(label) for (_, label), _ in chosen],
        classes,
        [],
        [],
        keys if "validation" in splits and split == "train" else None,
    )


def _rows_of(table: Path) -> tuple[list[tuple[Path, str]], list[str] | None]:
    """Read file and label of each row, and its split if there is that column. Raises DataError."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read as text in UTF-8 ({error}); save it as that.") from None
    head = text.partition("\n")[0]
    delimiter = ";" if ";" in head and "," not in head else "\t" if "\t" in head and "," not in head else ","
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    if not {"file", "label"} <= set(columns):
        raise DataError(
            f"{table} must begin with a line that names its columns: file,label or file,label,split. "
            f"It begins with '{head.strip()}'."
        )
    reader.fieldnames = columns
    rows: dict[Path, tuple[str, str]] = {}
    problems = []
    for row in reader:
        values = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
        path, label, split = table.parent / values["file"], values["label"], values.get("split", "")
        line = f"{table}, line {reader.line_num}:"
        if not values["file"] or not label:
            problems.append(f"{line} it needs a file and a label.")
        elif "split" in columns and split not in SPLITS:
            problems.append(f"{line} the split is '{split}'; write one of {', '.join(SPLITS)}.")
        elif rows.setdefault(path, (label, split)) != (label, split):
            problems.append(f"{line} {values['file']} has another label or split in an earlier line; remove one.")
    raise_any(problems)
    splits = [split for _, split in rows.values()] if "split" in columns else None
    return [(path, label) for path, (label, _) in rows.items()], splits


# The split by content


def _splitted(rows: list[tuple[Path, str]], classes: list[str], split: str, places_file: Path) -> Photos:
    """Return the photos of a split that the content of the files decides, and the places of earlier photos."""
    digests = digests_of([path for path, _ in rows])
    problems = [f"{path}: {digest}" for (path, _), digest in zip(rows, digests, strict=True) if isinstance(digest, str)]
    found = [
        (path, label, digest) for (path, label), digest in zip(rows, digests, strict=True) if isinstance(digest, bytes)
    ]
    first: dict[bytes, tuple[Path, str]] = {}
    of_class: dict[str, set[str]] = defaultdict(set)
    copies = 0
    for path, label, digest in found:
        other, its_label = first.setdefault(digest, (path, label))
        copies += other != path
        if label != its_label:
            problems.append(f"{path}: it is a copy of {other}, which has another class. Remove one of them.")
        of_class[label].add(digest.hex())
    if problems:
        return Photos([], [], classes, problems, [])
    for name in classes:
        if len(of_class[name]) < MIN_PHOTOS:
            raise DataError(
                f"Class '{name}' has {counted(of_class[name], 'photo', 'different photos')}; give it {MIN_PHOTOS} or "
                "more: to train on, for validation and for the test."
            )
    kept = _kept_places(places_file)
    places = {name: assigned(of_class[name], kept.get(name, {})) for name in classes}
    for name in classes:
        if len({is_for_test(place) for place in places[name].values()}) == 1:
            raise DataError(
                f"Class '{name}' has no photo left to test on or to train on, because you removed those that were. "
                f"Add a photo, or delete {places_file} to split all photos again."
            )
    notes = _keep_places(places_file, kept, places)
    if copies:
        notes.append(f"{places_file.parent}: {copies:,} of the photos are copies of others; all are on the same side.")
    chosen = [
        (path, classes.index(label), digest, places[label][digest.hex()])
        for path, label, digest in found
        if is_for_test(places[label][digest.hex()]) == (split == "test")
    ]
    return Photos(
        [path for path, _, _, _ in chosen],
        [label for _, label, _, _ in chosen],
        classes,
        [],
        notes,
        [validation_key(place) for _, _, _, place in chosen] if split == "train" else None,
        [digest for _, _, digest, _ in chosen],
    )


def assigned(digests: Collection[str], kept: dict[str, int]) -> dict[str, int]:
    """Return the place of each photo of a class, by its digest.

    A photo keeps its place. New ones take the lowest free places; those of the lowest digests are for the test.
    """
    places = {digest: kept[digest] for digest in digests if digest in kept}
    new, taken = sorted(set(digests) - places.keys()), set(places.values())
    free = islice((place for place in count() if place not in taken), len(new))
    return places | dict(zip(new, sorted(free, key=_use), strict=True))


def _use(place: int) -> float:
    """Order places: for the test first, then by the fraction from which they are for validation."""
    return ALWAYS_VALIDATION if is_for_test(place) else validation_key(place)


def is_for_test(place: int) -> bool:
    return place % TEST_EVERY == FIRST_TEST


def validation_key(place: int) -> float:
    """Return the `validation_fraction` above which the photo at a place is for validation, 0 to 1.

    The first keys of any number of places lie evenly between 0 and 1 (van der Corput 1935). So every class keeps the
    fraction, and a photo never changes sides when others are added.
    """
    number = place - (place + TEST_EVERY - 1 - FIRST_TEST) // TEST_EVERY  # among those that are not for the test
    if number == 1:
        return ALWAYS_TRAIN
    return sum((number >> bit & 1) / 2 ** (bit + 1) for bit in range(number.bit_length()))


def _kept_places(file: Path) -> dict[str, dict[str, int]]:
    """Read the places of each class, by digest. Raises DataError if the file is damaged."""
    kept: dict[str, dict[str, int]] = defaultdict(dict)
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                kept[row["class"]][row["sha256"]] = int(row["place"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{file}, which keeps the split of your photos, cannot be read. Restore it, or delete it to split all "
            "photos again."
        ) from None
    return kept


def _keep_places(file: Path, kept: dict[str, dict[str, int]], places: dict[str, dict[str, int]]) -> list[str]:
    """Write the places, if there are new ones. Returns a note if the folder cannot be written.

    A photo that was removed keeps its place, in case it returns, until another takes it.
    """
    rows = []
    for name in sorted(kept.keys() | places.keys()):
        present = places.get(name, {})
        taken = set(present.values())
        absent = {digest: place for digest, place in kept.get(name, {}).items() if place not in taken}
        in_order = sorted((absent | present).items(), key=lambda item: item[1])
        rows += [(name, place, digest) for digest, place in in_order]
    if rows == [(name, place, digest) for name in sorted(kept) for digest, place in kept[name].items()]:
        return []
    if distributed.rank() > 0:
        return []
    try:
        write_whole(file, _as_csv([PLACES_COLUMNS, *rows]))
    except OSError as error:
        return [
            f"{file} cannot be written ({error.strerror}), so the split is not kept: if you add photos later, a few "
            "others may change sides."
        ]
    return []


def _as_csv(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def raise_any(problems: list[str]) -> None:
    """Raise DataError if there are problems; it names the first of them."""
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS:,} more"] if len(problems) > MAX_PROBLEMS else []
        total = counted(problems, "file or folder", "files and folders")
        raise DataError("\n".join([f"{total} cannot be trained on:", *problems[:MAX_PROBLEMS], *more]))

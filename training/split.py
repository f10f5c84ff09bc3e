"""The photos of a split, and a split by their content that stays as it is when you add photos.

Every photo of a class has a place, a number from 0, which a file keeps. The place decides what the photo is for.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Collection, Iterable
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from training import distributed
from training.decoding import digests_of
from training.files import write_whole
from training.folders import counted, few
from training.outcome import Stopped

PLACES_COLUMNS = ["class", "place", "sha256"]
TEST_EVERY, FIRST_TEST = 5, 2  # of the places in a class, numbered from 0
ALWAYS_TRAIN, ALWAYS_VALIDATION, BY_CHANCE = 1.0, -1.0, float("nan")  # instead of a validation key
MAX_PROBLEMS = 20  # named in a message
MIN_PHOTOS = 3  # of a class: one to train on, one for validation, one for the test


class DataError(Stopped, ValueError):
    """Images cannot be trained on; the message says what to change."""


class Photos(NamedTuple):
    """The photos of a split in order, with the label of each, and the names of all classes.

    `problems` has a line for each one that cannot be used, and `notes` one for each kind of file that is left out.
    A photo is for validation if its key is below the recipe's `validation_fraction`. Without keys, or if a key is
    BY_CHANCE, chance decides.
    """

    paths: list[Path]
    labels: list[int]
    classes: list[str]
    problems: list[str]
    notes: list[str]
    validation_keys: list[float] | None = None
    digests: list[bytes] | None = None


def raise_any(problems: list[str]) -> None:
    """Raise DataError if there are problems; it names the first of them."""
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS:,} more"] if len(problems) > MAX_PROBLEMS else []
        total = counted(problems, "file or folder", "files and folders")
        raise DataError("\n".join([f"{total} cannot be trained on:", *problems[:MAX_PROBLEMS], *more]))


def by_content(
    rows: list[tuple[Path, str]], classes: list[str], split: str, places_file: Path, unreadable: Collection[str] = ()
) -> Photos:
    """Return the photos of a split that the content of the files decides, and the places of earlier photos.

    `unreadable` has a line for each photo that is known to be so, which the result has among its problems.
    """
    digests = digests_of([path for path, _ in rows])
    read = list(zip(rows, digests, strict=True))
    problems = [f"{path}: {digest}" for (path, _), digest in read if isinstance(digest, str)]
    found = [(path, label, digest) for (path, label), digest in read if isinstance(digest, bytes)]
    first: dict[bytes, tuple[Path, str]] = {}
    of_class: dict[str, set[str]] = defaultdict(set)
    copies = 0
    for path, label, digest in found:
        other, its_label = first.setdefault(digest, (path, label))
        copies += other != path
        if label != its_label:
            problems.append(f"{path}: it is a copy of {other}, which has another class. Remove one of them.")
        of_class[label].add(digest.hex())
    small = [name for name in classes if len(of_class[name]) < MIN_PHOTOS]
    if problems or (small and unreadable):
        return Photos([], [], classes, [*unreadable, *problems], [])
    if small:
        which = [f"'{name}' has {counted(of_class[name], 'photo', 'different photos')}" for name in small]
        raise DataError(
            f"{'Class' if len(small) == 1 else f'{len(small):,} classes have too few photos:'} {few(which)}; give "
            f"{'it' if len(small) == 1 else 'each'} {MIN_PHOTOS} or more: to train on, for validation and for the test."
        )
    kept = kept_places(places_file)
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
        if is_for_test(places[label][digest.hex()]) != (split == "train")
    ]
    return Photos(
        [path for path, _, _, _ in chosen],
        [label for _, label, _, _ in chosen],
        classes,
        [*unreadable],
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


def kept_places(file: Path) -> dict[str, dict[str, int]]:
    """Read the places of each class, by digest. Raises DataError if the file is damaged."""
    kept: dict[str, dict[str, int]] = defaultdict(dict)
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                kept[row["class"]][row["sha256"]] = int(row["place"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
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
        write_whole(file, as_csv([PLACES_COLUMNS, *rows]))
    except OSError as error:
        return [
            f"{file} cannot be written ({error.strerror}), so the split is not kept: if you add photos later, a few "
            "others may change sides, and 'classifier evaluate' measures all photos, those that were trained on too."
        ]
    return []


def as_csv(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()

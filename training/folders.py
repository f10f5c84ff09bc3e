"""Find images in folders, for every command: which files are images, which are left out, and the label of each.

It imports the standard library only, because some commands work without PyTorch.
"""

import glob
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from errno import ENOENT
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path, PurePath
from stat import S_ISDIR, S_ISREG

from training.outcome import Stopped

# Those of handler.transforms, which needs NumPy and Pillow.
EXTENSIONS = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp"))
FORMAT_NAMES = "JPEG, PNG, GIF or WebP"
PLACES_FILE = "split.csv"  # beside the classes of a folder that training has split
FEEDBACK_FILE = ".feedback.jsonl"  # in a folder of photos: a line for each that came from feedback, and its class
HEIC_EXTENSIONS = frozenset((".heic", ".heif"))
READS_HEIC = find_spec("pillow_heif") is not None
HOW_TO_READ_HEIC = "to read them, run: pip install pillow-heif"
# Files that Windows, macOS, network drives and archives leave in folders of photos, besides names with a dot first.
LEAVINGS = frozenset(
    (
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "__macosx",
        "icon\r",
        "network trash folder",
        "temporary items",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "@__thumb",
        "#recycle",
        "#snapshot",
        "lost+found",
        "__pycache__",
    )
)
MAX_NAMES = 3  # listed in a line
Identity = tuple[int, int]  # of a folder: its device and its number there


@dataclass
class Findings:
    """The files in a folder: images in order, others, leavings of the system, and unreadable ones with the reason."""

    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    leavings: list[Path] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)

    def add(self, more: "Findings") -> None:
        self.images += more.images
        self.others += more.others
        self.leavings += more.leavings
        self.unreadable |= more.unreadable

    def notes(self) -> list[str]:
        """Return a line on the leavings of the system, and one on unreadable files, if there are any."""
        reasons = few([f"{path} ({reason})" for path, reason in sorted(self.unreadable.items())])
        count = counted(self.unreadable, "file or folder", "files and folders")
        unreadable = f"left out {count} that cannot be read: {reasons}" if reasons else ""
        return [line for line in (self.note_of_leavings(), unreadable) if line]

    def note_of_leavings(self) -> str:
        """Return a line on the leavings of the system, or an empty one."""
        names = few(sorted({path.name for path in self.leavings}))
        count = counted(self.leavings, "file or folder", "files and folders")
        return f"left out {count} that systems leave behind: {names}" if names else ""

    def notes_of_others(self) -> list[str]:
        """Return a line for each kind of file that is left out and can be read."""
        heic = self.notes_of_heic()
        others = [path for path in self.others if not (heic and path.suffix.lower() in HEIC_EXTENSIONS)]
        kinds = [f"{suffix or 'no suffix'} {count:,}" for suffix, count in extensions_of(others).most_common()]
        notes = [f"left out {counted(others, 'other file', 'other files')} ({few(kinds)})."] if kinds else []
        if line := self.note_of_leavings():
            notes.append(f"{line}.")
        return notes + heic

    def notes_of_heic(self) -> list[str]:
        """Return a line on HEIC photos, if there are any and they cannot be read here."""
        names = [path.name for path in self.others if path.suffix.lower() in HEIC_EXTENSIONS]
        if not names:
            return []
        return [f"left out {counted(names, 'HEIC photo', 'HEIC photos')}, {few(names)}; {HOW_TO_READ_HEIC}."]


def find(folder: Path) -> Findings:
    """Find the images in and below a folder.

    Links to files and folders are followed. Links in a circle end, because every real folder is entered only once
    below each subfolder of `folder`, and `folder` itself never again.
    """
    findings = Findings()
    waiting: list[tuple[Path, set[Identity]]] = [(folder, set())]
    while waiting:
        place, entered = waiting.pop()
        try:
            entered.add(_identity(place.stat()))
            names = sorted(os.listdir(place))
        except OSError as error:
            findings.unreadable[place] = _reason(error)
            continue
        for path in (place / name for name in names):
            stat = _sorted_in(path, findings)
            if stat and S_ISDIR(stat.st_mode):
                below = set(entered) if place == folder else entered
                if _identity(stat) not in below:
                    below.add(_identity(stat))
                    waiting.append((path, below))
    findings.images.sort()
    return findings


def match(pattern: Path) -> Findings:
    """Find the images that a glob matches. Below `**` it follows links as `find` does, so that circles end."""
    findings, root = Findings(), _before_wildcards(pattern)
    depth = pattern.parts.index("**") if "**" in pattern.parts else len(pattern.parts)
    for path in sorted(map(Path, glob.iglob(str(Path(*pattern.parts[:depth]))))):
        below = path.relative_to(root).parts
        if left := next((depth for depth, name in enumerate(below, 1) if is_leaving(name)), 0):
            findings.leavings.append(root.joinpath(*below[:left]))
        elif depth == len(pattern.parts):
            _sorted_in(path, findings)
        elif os.path.isdir(path):
            inside = find(path)
            for files in (inside.images, inside.others):
                files[:] = [file for file in files if _fits(file.relative_to(path).parts, pattern.parts[depth:])]
            findings.add(inside)
    return findings


def _fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a glob; `**` matches any number of folders."""
    if not patterns or not parts:
        return not parts and all(pattern == "**" for pattern in patterns)
    if patterns[0] == "**":
        return _fits(parts, patterns[1:]) or _fits(parts[1:], patterns)
    return fnmatchcase(parts[0], patterns[0]) and _fits(parts[1:], patterns[1:])


def _sorted_in(path: Path, findings: Findings) -> os.stat_result | None:
    """Add a path to the right list of `findings`. Returns its status, or None if it is left out."""
    if is_leaving(path.name):
        findings.leavings.append(path)
        return None
    try:
        stat = path.stat()
    except OSError as error:
        findings.unreadable[path] = _reason(error)
        return None
    if S_ISREG(stat.st_mode):
        (findings.images if is_image(path) else findings.others).append(path)
    return stat


def _reason(error: OSError) -> str:
    return "it links to nothing" if error.errno == ENOENT else error.strerror or type(error).__name__


def _identity(stat: os.stat_result) -> Identity:
    """Return the numbers that only a folder and its links have in common."""
    return stat.st_dev, stat.st_ino


def from_feedback(photos: Path) -> dict[str, int]:
    """Return the names of a folder's photos that came from feedback, and the place of each in the order they came in.

    Raises Stopped if the folder's file is damaged.
    """
    try:
        lines = (photos / FEEDBACK_FILE).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        return {json.loads(line)["file"]: place for place, line in enumerate(lines)}
    except (ValueError, KeyError, TypeError):
        raise Stopped(f"{photos / FEEDBACK_FILE} is damaged. Restore it, or remove what is no JSON.") from None


def is_image(path: PurePath) -> bool:
    suffix = path.suffix.lower()
    return suffix in EXTENSIONS or (READS_HEIC and suffix in HEIC_EXTENSIONS)


def is_leaving(name: str) -> bool:
    """Return whether a system left a file or folder of this name, and no photographer did."""
    return name.startswith(".") or name.lower() in LEAVINGS


def roots_of(named: Iterable[PurePath | str]) -> frozenset[PurePath]:
    """Return the folders among these names, for `label_of`; a glob's folder is the last before its wildcards."""
    paths = [PurePath(name) for name in named]
    return frozenset(paths) | frozenset(map(_before_wildcards, paths))


def _before_wildcards(pattern: PurePath) -> Path:
    parts: list[str] = []
    for part in pattern.parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def label_of(image: PurePath | str, roots: Collection[PurePath], classes: Collection[str]) -> str:
    """Return the class of an image: the name of its first folder, below the one in `roots`, that is a class.

    So `test/cat/2024/1.jpg` is a cat if you named `test`. If no folder below is a class, the named one may be. For a
    single file, the nearest folder that is a class counts. If no folder is a class, this returns the first folder's
    name, or "" if the image is in no folder.
    """
    path = PurePath(image)
    root = next((folder for folder in path.parents if folder in roots), None)
    if root is None:
        folders = [folder.name for folder in path.parents]
    else:
        folders = [*path.relative_to(root).parts[:-1], root.name]
    return next((name for name in folders if name in classes), folders[0])


def extensions_of(files: Iterable[Path]) -> Counter[str]:
    return Counter(file.suffix.lower() for file in files)


def few(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(os.fsencode(name).decode(errors="backslashreplace") for name in names[:most]) + more


def counted(things: Collection[object], one: str, many: str) -> str:
    return f"{len(things):,} {one if len(things) == 1 else many}"

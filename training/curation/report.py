"""The report of `classifier check`: its findings as lines, as a page with pictures, and as moves to propose."""

from collections import Counter
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.curation.cards import MOST_SHOWN, Card, Section, write_page
from training.curation.copies import Copy
from training.curation.examine import Examined, Photo
from training.curation.labels import WrongLabel
from training.curation.moves import Move
from training.curation.outstanding import Outstanding


class Findings(NamedTuple):
    """The findings in a folder of photos. Their numbers are those of `examined.photos`."""

    examined: Examined
    copies: list[Copy]
    outstanding: list[Outstanding]
    wrong: list[WrongLabel]


def proposed(findings: Findings) -> list[Move]:
    """Return the moves to propose: wrong labels go to the likely class, and copies of the same bytes are taken out."""
    moves = [card.move for card in (*_wrong(findings), *_copies(findings, exact=True))]
    return [*{move.file: move for move in moves}.values()]  # the last of a file counts


def write_report(findings: Findings, path: Path) -> None:
    """Write the page, which holds its pictures."""
    examined = findings.examined
    sections = [
        Section(
            "Likely wrong labels",
            "A classifier that was fitted without a photo expects another class for it. proposed.csv names them all.",
            _wrong(findings),
        ),
        Section("Copies of the same bytes", _note_of(findings, exact=True), _copies(findings, exact=True)),
        Section("Pictures that look the same", _note_of(findings, exact=False), _copies(findings, exact=False)),
        Section("Pictures that stand out", "Look whether they belong here.", _outstanding(findings)),
    ]
    title = f"{examined.root.resolve().name}: {len(examined.photos):,} photos"
    write_page(path, title, _classes(examined) + _left_out(examined), sections)


def summary(findings: Findings) -> list[str]:
    """Return a line on each kind of finding."""
    examined = findings.examined
    counts = Counter(dict.fromkeys(examined.classes, 0))
    counts.update(photo.label for photo in examined.photos)
    (commonest, most), *_, (rarest, fewest) = counts.most_common()
    across = sum(_across(examined.photos, pair) for pair in findings.copies)
    kinds = Counter(finding.why for finding in findings.outstanding)
    exact = sum(pair.exact for pair in findings.copies)
    lines = [
        f"{len(examined.photos):,} photos of {len(counts)} classes, {fewest:,} ({rarest}) to {most:,} ({commonest})",
        f"{len(examined.unreadable):,} cannot be read, and {len(examined.skipped):,} other files are left out",
        f"{exact:,} copies of the same bytes, and {len(findings.copies) - exact:,} pictures that look like another; "
        f"{across:,} of these pairs are on both sides of the split",
        f"{len(findings.outstanding):,} stand out"
        + "".join(f", {count:,} {why}" for why, count in kinds.most_common()),
        f"{len(findings.wrong):,} labels are likely wrong",
    ]
    return lines


def _wrong(findings: Findings) -> list[Card]:
    root, photos, classes = findings.examined.root, findings.examined.photos, findings.examined.classes
    cards = []
    for at, likely, probability, own in findings.wrong:
        text = f"{photos[at].path}: {photos[at].label} ({own:.0%}), or {classes[likely]} ({probability:.0%})?"
        cards.append(
            Card(
                [root / photos[at].path], text, Move(photos[at].path.as_posix(), classes[likely], "likely wrong label")
            )
        )
    return cards


def _copies(findings: Findings, exact: bool) -> list[Card]:
    root, photos = findings.examined.root, findings.examined.photos
    cards = []
    for pair in findings.copies:
        if pair.exact == exact:
            first, second = photos[pair.first], photos[pair.second]
            text = f"{second.path} ({second.label}, {second.split}) is {'' if exact else 'nearly '}{first.path} "
            text += f"({first.label}, {first.split})"
            pictures = [root / first.path, root / second.path]
            cards.append((first.split == second.split, Card(pictures, text, Move(second.path.as_posix(), "", "copy"))))
    return [card for _, card in sorted(cards, key=lambda pair: pair[0])]


def _outstanding(findings: Findings) -> list[Card]:
    root, photos = findings.examined.root, findings.examined.photos
    return [
        Card([root / photos[at].path], f"{photos[at].path}: {why}", Move(photos[at].path.as_posix(), "", why))
        for at, why in sorted(findings.outstanding, key=lambda finding: finding.why)
    ]


def _across(photos: list[Photo], pair: Copy) -> bool:
    return photos[pair.first].split != photos[pair.second].split


def _note_of(findings: Findings, exact: bool) -> str:
    across = sum(_across(findings.examined.photos, pair) for pair in findings.copies if pair.exact == exact)
    if not across:
        return "None of these pairs is on both sides of the split."
    return f"{across:,} of these pairs are on both sides of the split, so the test would flatter the network."


def _classes(examined: Examined) -> str:
    rows = []
    for name in examined.classes:
        own = [photo for photo in examined.photos if photo.label == name]
        tests = sum(photo.split == "test" for photo in own)
        sides = [min(photo.size) for photo in own] or [0]
        rows.append(
            f"<tr><td>{escape(name)}</td><td>{len(own) - tests:,}</td><td>{tests:,}</td>"
            f"<td>{min(sides)} to {max(sides)}, median {np.median(sides):.0f}</td></tr>"
        )
    head = "<tr><th>class</th><th>to train on</th><th>for the test</th><th>shorter side in pixels</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _left_out(examined: Examined) -> str:
    unreadable = [f"{path}: {reason}" for path, reason in sorted(examined.unreadable.items())]
    lists = []
    for title, lines in (("Cannot be read", unreadable), ("Left out", sorted(examined.skipped))):
        if lines:
            items = "".join(f"<li>{escape(line)}</li>" for line in lines[:MOST_SHOWN])
            lists.append(f"<h2>{title} ({len(lines):,})</h2><ul>{items}</ul>")
    return "".join(lists)

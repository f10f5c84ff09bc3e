"""The page of `classifier check`: what was found, with the pictures, and boxes for the moves that you confirm."""

import base64
import io
from collections import Counter
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np

from handler.transforms import ImageError, decode_image
from training.curation.copies import Copy
from training.curation.examine import Examined, Photo
from training.curation.labels import WrongLabel
from training.curation.moves import Move
from training.curation.outstanding import Outstanding
from training.files import write_whole

THUMBNAIL = 120  # pixels
MOST_SHOWN = 200  # of each kind of finding
TEMPLATE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


class Findings(NamedTuple):
    """The findings in a folder of photos. Their numbers are those of `examined.photos`."""

    examined: Examined
    copies: list[Copy]
    outstanding: list[Outstanding]
    wrong: list[WrongLabel]


class Card(NamedTuple):
    """A finding to show: its photos, what is said of it, and the move that it offers."""

    photos: list[Photo]
    text: str
    move: Move


def proposed(findings: Findings) -> list[Move]:
    """Return the moves to propose: wrong labels go to the likely class, and copies of the same bytes are taken out."""
    return [card.move for card in (*_wrong(findings), *_copies(findings, exact=True))]


def write_page(findings: Findings, path: Path) -> None:
    """Write the page, which holds its pictures."""
    examined = findings.examined
    across = [pair for pair in findings.copies if _across(examined.photos, pair)]
    sections = [
        Section(
            "Likely wrong labels",
            "A classifier that was fitted without a photo expects another class for it.",
            _wrong(findings),
        ),
        Section("Copies of the same bytes", "Training keeps them on one side of the split.", _copies(findings, True)),
        Section("Pictures that look the same", _note_of(across), _copies(findings, exact=False)),
        Section("Pictures that stand out", "Look whether they belong here.", _outstanding(findings)),
    ]
    found = "".join(section.as_html(examined.root) for section in sections)
    title = escape(f"{examined.root.resolve().name}: {len(examined.photos):,} photos")
    write_whole(path, TEMPLATE.substitute(title=title, body=_classes(examined) + _left_out(examined) + found))


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


class Section(NamedTuple):
    title: str
    note: str
    cards: list[Card]

    def as_html(self, root: Path) -> str:
        if not self.cards:
            return ""
        more = len(self.cards) - MOST_SHOWN
        hidden = (
            f"<p>{more:,} more are not shown. Apply these moves, then run the command again.</p>" if more > 0 else ""
        )
        shown = "".join(_as_html(root, card) for card in self.cards[:MOST_SHOWN])
        return f'<h2>{self.title} ({len(self.cards):,})</h2><p>{self.note}</p><ul class="cards">{shown}</ul>{hidden}'


def _as_html(root: Path, card: Card) -> str:
    pictures = "".join(f'<img src="{_thumbnail(root / photo.path)}" alt="">' for photo in card.photos)
    file, to, why = map(escape, card.move)
    action = f"Move to {to}" if to else "Take out"
    return (
        f"<li>{pictures}<br>{escape(card.text)}<br><label>"
        f'<input type="checkbox" data-file="{file}" data-to="{to}" data-why="{why}"> {action}</label></li>'
    )


def _thumbnail(path: Path) -> str:
    """Return a small JPEG as a data URL; empty if the file has gone meanwhile."""
    try:
        image = decode_image(path.read_bytes(), THUMBNAIL)
    except (OSError, ImageError):
        return ""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def _wrong(findings: Findings) -> list[Card]:
    photos, classes = findings.examined.photos, findings.examined.classes
    cards = []
    for at, likely, probability, own in findings.wrong:
        text = f"{photos[at].path}: {photos[at].label} ({own:.0%}), or {classes[likely]} ({probability:.0%})?"
        cards.append(Card([photos[at]], text, Move(photos[at].path.as_posix(), classes[likely], "likely wrong label")))
    return cards


def _copies(findings: Findings, exact: bool) -> list[Card]:
    photos = findings.examined.photos
    cards = []
    for pair in findings.copies:
        if pair.exact == exact:
            first, second = photos[pair.first], photos[pair.second]
            text = f"{second.path} ({second.label}, {second.split}) is {'' if exact else 'nearly '}{first.path} "
            text += f"({first.label}, {first.split})"
            cards.append(Card([first, second], text, Move(second.path.as_posix(), "", "copy")))
    return sorted(cards, key=lambda card: card.photos[0].split == card.photos[1].split)


def _outstanding(findings: Findings) -> list[Card]:
    photos = findings.examined.photos
    return [
        Card([photos[at]], f"{photos[at].path}: {why}", Move(photos[at].path.as_posix(), "", why))
        for at, why in sorted(findings.outstanding, key=lambda finding: finding.why)
    ]


def _across(photos: list[Photo], pair: Copy) -> bool:
    return photos[pair.first].split != photos[pair.second].split


def _note_of(across: list[Copy]) -> str:
    near = sum(not pair.exact for pair in across)
    return f"{near:,} of these pairs are on both sides of the split, so the test would flatter the network."


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
    head = "<tr><th>class</th><th>to train on</th><th>for the test</th><th>shorter side, pixels as decoded</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _left_out(examined: Examined) -> str:
    unreadable = [f"{path}: {reason}" for path, reason in sorted(examined.unreadable.items())]
    lists = []
    for title, lines in (("Cannot be read", unreadable), ("Left out", [*map(str, sorted(examined.skipped))])):
        if lines:
            items = "".join(f"<li>{escape(line)}</li>" for line in lines[:MOST_SHOWN])
            lists.append(f"<h2>{title} ({len(lines):,})</h2><ul>{items}</ul>")
    return "".join(lists)

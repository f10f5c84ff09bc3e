"""A page of pictures on which a person confirms moves, and saves them as a CSV file."""

import base64
import io
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from handler.transforms import ImageError, decode_image
from training.curation.moves import Move
from training.files import write_whole

THUMBNAIL = 120  # pixels
MOST_SHOWN = 1000  # of each kind; a browser still shows them at once
TEMPLATE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


class Card(NamedTuple):
    """Pictures with a text, and the move that may be confirmed; with `classes`, a choice of those or of none."""

    pictures: list[Path]
    text: str
    move: Move
    classes: list[str] | None = None


class Section(NamedTuple):
    """Cards of one kind below a title and a note."""

    title: str
    note: str
    cards: list[Card]


def write_page(path: Path, title: str, introduction: str, sections: list[Section]) -> None:
    """Write a page that holds its pictures; `introduction` is HTML."""
    body = introduction + "".join(map(_section, sections))
    write_whole(path, TEMPLATE.substitute(title=escape(title), body=body))


def _section(section: Section) -> str:
    if not section.cards:
        return ""
    more = len(section.cards) - MOST_SHOWN
    hidden = f"<p>{more:,} more are not shown. Make these moves, then run the command again.</p>" if more > 0 else ""
    shown = "".join(map(_card, section.cards[:MOST_SHOWN]))
    heading = f"<h2>{escape(section.title)} ({len(section.cards):,})</h2><p>{escape(section.note)}</p>"
    return f'{heading}<ul class="cards">{shown}</ul>{hidden}'


def _card(card: Card) -> str:
    pictures = "".join(f'<img src="{_thumbnail(path)}" alt="">' for path in card.pictures)
    file, to, why = map(escape, card.move)
    data = f'data-file="{file}" data-to="{to}" data-why="{why}"'
    if card.classes is None:
        control = f'<label><input type="checkbox" {data}> {f"Move to {to}" if to else "Take out"}</label>'
    else:
        # A class begins with "=", so that none can be taken for the other choices.
        choices = [("", "Decide later"), *((f"={name}", f"It is {name}") for name in card.classes), ("-", "Discard")]
        options = "".join(f'<option value="{escape(value)}">{escape(words)}</option>' for value, words in choices)
        control = f'<select aria-label="{escape(card.text)}" {data}>{options}</select>'
    return f"<li>{pictures}<br>{escape(card.text)}<br>{control}</li>"


def _thumbnail(path: Path) -> str:
    """Return a small JPEG as a data URL; empty if the file is no image, or has gone meanwhile."""
    try:
        image = decode_image(path.read_bytes(), THUMBNAIL)
    except (OSError, ImageError):
        return ""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"

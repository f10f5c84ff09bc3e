"""The summary of many predictions: their number, accuracy and confusion, and the least certain images."""

import shutil
from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.batch.rows import Row
from training.folders import few, label_of, roots_of

WIDTH = 100  # characters of a line where no terminal tells
UNCERTAIN = 36  # images that are kept for a contact sheet


@dataclass
class Summary:
    """Counts of images, and the least certain of them as (confidence, file, class), the lowest confidence first.

    `labelled` counts images in folders named as classes, `confusion` those of them that were predicted, by true and
    predicted class; `strangers` names the other folders.
    """

    images: int = 0
    failed: int = 0
    labelled: int = 0
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    strangers: set[str] = field(default_factory=set)
    uncertain: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def right(self) -> int:
        return sum(count for (true, predicted), count in self.confusion.items() if true == predicted)

    @property
    def accuracy(self) -> float | None:
        return self.right / self.confusion.total() if self.confusion else None


def summarise(rows: Iterable[Row], classes: list[str], named: Iterable[Path | str] = ()) -> Summary:
    """Sum up the rows of the images; `named` are the places that you named."""
    summary, known, roots = Summary(), set(classes), roots_of(named)
    for file, predicted, confidence, _, error, *_ in rows:
        label = label_of(file, roots, known)
        summary.images += 1
        summary.failed += bool(error)
        summary.labelled += label in known
        if label and label not in known:
            summary.strangers.add(label)
        if error:
            continue
        if label in known:
            summary.confusion[label, predicted] += 1
        insort(summary.uncertain, (confidence, file, predicted))
        del summary.uncertain[UNCERTAIN:]
    return summary


def as_document(summary: Summary, classes: list[str]) -> dict[str, Any]:
    """Return a summary as JSON; figures that need labels are null if no labelled image was predicted."""
    confusion = {true: {predicted: summary.confusion[true, predicted] for predicted in classes} for true in classes}
    return {
        "images": summary.images,
        "classified": summary.images - summary.failed,
        "failed": summary.failed,
        "labelled": summary.labelled,
        "right": summary.right,
        "labelled_failed": summary.labelled - summary.confusion.total(),
        "accuracy": summary.accuracy,
        "confusion": confusion if summary.confusion else None,
        "folders_without_class": sorted(summary.strangers),
    }


def as_text(summary: Summary, classes: list[str]) -> list[str]:
    """Return lines with the accuracy, the images that are not in it, and the confusion, as wide as the terminal."""
    predicted = summary.confusion.total()
    failed, strangers = summary.labelled - predicted, _strangers(summary)
    if summary.accuracy is None:
        lines = [f"no accuracy: {failed:,} images in folders named as classes, none predicted"] if failed else []
        return lines + [f"no accuracy: {note}" for note in strangers]
    return [
        f"accuracy {summary.accuracy:.2%} ({summary.right:,} of {predicted:,} in folders named as classes"
        f"{f'; {failed:,} not predicted' if failed else ''})",
        *(f"not in accuracy: {note}" for note in strangers),
        *confusion_table(summary, classes, shutil.get_terminal_size((WIDTH, 0)).columns),
    ]


def _strangers(summary: Summary) -> list[str]:
    names = few(sorted(summary.strangers))
    match len(summary.strangers):
        case 0:
            return []
        case 1:
            return [f"the folder {names} is no class of the model"]
        case _:
            return [f"the folders {names} are no classes of the model"]


def confusion_table(summary: Summary, classes: list[str], width: int) -> list[str]:
    """Return a line for each class that images are of, a column for each class.

    Where the names do not fit beside each other into `width`, the columns are numbered, and every class has a line.
    """
    digits = max(map(len, map(str, summary.confusion.values())))
    numbers = list(map(str, range(1, len(classes) + 1)))
    numbered = [f"{number:>{len(numbers[-1])}} {name}" for number, name in zip(numbers, classes, strict=True)]
    for heads, names in ((classes, classes), (numbers, numbered)):
        margin, columns = max(map(len, names)), [max(digits, len(head)) for head in heads]
        if margin + sum(columns) + len(columns) <= width:
            break
    else:
        return [f"{len(classes)} classes make the table of confused classes too wide for this terminal; --json has it."]

    def line(name: str, cells: Iterable[object]) -> str:
        return " ".join(
            [f"{name:{margin}}", *(f"{cell:>{column}}" for cell, column in zip(cells, columns, strict=True))]
        )

    lines = ["rows: true class, columns: predicted class", line("", heads)]
    for name, true in zip(names, classes, strict=True):
        counts = [summary.confusion[true, predicted] for predicted in classes]
        if any(counts) or heads is numbers:
            lines += [line(name, (count or "." for count in counts))]
    return lines

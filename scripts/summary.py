"""What many predictions come to: how many are there and right, what is confused, and what is least certain."""

import shutil
from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.predictions import Row

NARROWEST = 3  # characters of a class name at the head of a column
UNCERTAIN = 36  # images that are kept for a contact sheet


@dataclass
class Summary:
    """Counts of images, and the least certain of them as (confidence, file, class), the lowest confidence first.

    `confusion` counts, by true and predicted class, the classified images in folders named as classes.
    """

    images: int = 0
    failed: int = 0
    labelled: int = 0
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    uncertain: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def right(self) -> int:
        return sum(count for (true, predicted), count in self.confusion.items() if true == predicted)


def summarise(rows: Iterable[Row], classes: list[str]) -> Summary:
    summary = Summary()
    for file, predicted, confidence, _, error, *_ in rows:
        folder = Path(file).parent.name
        summary.images += 1
        summary.failed += bool(error)
        summary.labelled += folder in classes
        if error:
            continue
        if folder in classes:
            summary.confusion[folder, predicted] += 1
        insort(summary.uncertain, (confidence, file, predicted))
        del summary.uncertain[UNCERTAIN:]
    return summary


def as_document(summary: Summary, classes: list[str]) -> dict[str, Any]:
    """Return a summary as JSON has it; what needs labels is null without any."""
    confusion = {true: {predicted: summary.confusion[true, predicted] for predicted in classes} for true in classes}
    return {
        "images": summary.images,
        "classified": summary.images - summary.failed,
        "failed": summary.failed,
        "labelled": summary.labelled,
        "right": summary.right,
        "accuracy": summary.right / summary.labelled if summary.labelled else None,
        "confusion": confusion if summary.labelled else None,
    }


def as_text(summary: Summary, classes: list[str]) -> list[str]:
    """Return lines with the accuracy and the confusion of classes, as wide as the terminal; none without labels."""
    if not summary.labelled:
        return []
    right, labelled = summary.right, summary.labelled
    return [
        f"accuracy {right / labelled:.2%} ({right:,} of {labelled:,} in folders named as classes)",
        *confusion_table(summary, classes, shutil.get_terminal_size().columns),
    ]


def confusion_table(summary: Summary, classes: list[str], width: int) -> list[str]:
    """Return a line for each class that images are of, a column for each class; names are cut to fit into `width`."""
    margin = max(map(len, classes))
    digits = max(len(str(count)) for count in [0, *summary.confusion.values()])
    column = (width - margin) // len(classes) - 1
    if column < max(digits, NARROWEST):
        return [f"{len(classes)} classes make too wide a table of what is confused for this terminal; --json has it."]
    column = min(column, max(margin, digits))
    lines = ["rows: true class, columns: predicted class"]
    lines += [" ".join([" " * margin, *(f"{name[:column]:>{column}}" for name in classes)])]
    for true in classes:
        counts = [summary.confusion[true, predicted] for predicted in classes]
        if any(counts):
            lines += [" ".join([f"{true:{margin}}", *(f"{count or '.':>{column}}" for count in counts)])]
    return lines

"""Photos that a CSV file lists, with the columns file and label, and perhaps split: train, validation or test."""

import csv
from pathlib import Path

from training.folders import PLACES_FILE
from training.split import ALWAYS_TRAIN, ALWAYS_VALIDATION, DataError, Photos, by_content, raise_any

SPLITS = ("train", "validation", "test")


def of_table(table: Path, split: str) -> Photos:
    """Return the photos of a split that a CSV file lists. Raises DataError."""
    if table.suffix.lower() != ".csv":
        raise DataError(f"{table} is a file; name the folder of your photos, or a CSV file that lists them.")
    rows, splits = _rows_of(table)
    classes = sorted({label for _, label in rows})
    if len(classes) < (1 if split == "unseen" else 2):
        raise DataError(f"Training needs at least two classes; {table} has only {', '.join(classes) or 'none'}.")
    if splits is None:
        places_file = table.with_name(f"{table.stem}.{PLACES_FILE}")
        if split == "unseen" and not places_file.exists():
            return Photos([path for path, _ in rows], [classes.index(label) for _, label in rows], classes, [], [])
        return by_content(rows, classes, split, places_file)
    for wanted in SPLITS if "validation" in splits else ("train", "test"):
        have = {label for (_, label), part in zip(rows, splits, strict=True) if part == wanted}
        if missing := [name for name in classes if name not in have]:
            raise DataError(f"{table} has no row of class '{missing[0]}' with the split {wanted}; add one.")
    wanted_splits = ("train", "validation") if split == "train" else ("test",)
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

#!/usr/bin/env python3
"""Classify many images through the gateway and write one row each, in order, to a CSV file.

    scripts/batch_predict.py my-images/test -o predictions.csv

Folders are searched for JPEG, PNG and GIF files. Where the folders that hold the images are named as classes are,
the accuracy is printed. Rows are gathered in <output>.part, which becomes the output when it is whole; where a run was
killed, or the gateway went away, the same command goes on after them. Exit status: 0 all classified, 1 some not (see
the column `error`), 2 stopped before the end.
"""

import argparse
import csv
import io
import os
import sys
from bisect import bisect
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif"}
BUSY = (429, 503)
TRIES = 5
TIMEOUT = 60  # seconds
FILES_AT_ONCE = 32  # in a request; the gateway takes no more,
BYTES_AT_ONCE = 4 * 1024 * 1024  # nor more than 10 MB together
FIGURES = ("predicted_class", "confidence", "in_distribution", "error")
Row = list[Any]  # the file, FIGURES, every probability


class PartError(ValueError):
    """What a run before has left does not belong to this one; the message says what to do."""


class Gateway:
    """The gateway as a client sees it; `connections` requests can be under way at once."""

    def __init__(self, url: str, connections: int) -> None:
        self.url = url.rstrip("/")
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy for the web does not lead to a gateway on this machine
        busy = Retry(
            TRIES, connect=0, status_forcelist=BUSY, allowed_methods=None, backoff_factor=0.5, raise_on_status=False
        )
        self.session.mount(self.url, HTTPAdapter(pool_maxsize=connections, max_retries=busy))

    def classes(self) -> list[str]:
        """Return the class names. Raises requests.RequestException where the gateway or the model is not there."""
        response = self.session.get(f"{self.url}/classes", timeout=TIMEOUT)
        response.raise_for_status()
        return response.json()["classes"]

    def predict(self, paths: list[Path]) -> list[dict[str, Any]]:
        """Return the gateway's answer for each file, or {"error": …} with the reason why there is none.

        Raises requests.RequestException where the reason is that the gateway or the model has gone away.
        """
        answers = self._ask(paths)
        if isinstance(answers, list):
            return answers
        if len(paths) > 1:
            return [answer for path in paths for answer in self.predict([path])]  # whichever failed then fails alone
        if "error" in answers:
            self.classes()
        return [answers]

    def _ask(self, paths: list[Path]) -> Any:
        try:
            files = [("file", ("image", path.read_bytes())) for path in paths]
            return self.session.post(f"{self.url}/predict", files=files, timeout=TIMEOUT).json()
        except OSError as error:  # of a file or, as requests' errors are OSErrors too, of the connection
            return {"error": f"{type(error).__name__}: {error}"}


def find_images(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield each file, and the images below each folder in order. Raises FileNotFoundError."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
        elif path.is_file():
            yield path
        else:
            raise FileNotFoundError(path)


def grouped(images: Iterable[Path]) -> Iterator[list[Path]]:
    """Yield the images, in order, in groups for one request each."""
    group: list[Path] = []
    size = 0
    for image in images:
        size += image.stat().st_size
        if group and (len(group) == FILES_AT_ONCE or size > BYTES_AT_ONCE):
            yield group
            group, size = [], image.stat().st_size
        group.append(image)
    if group:
        yield group


def predict_all(
    gateway: Gateway, groups: list[list[Path]], classes: list[str], connections: int, done: int
) -> Iterator[list[Row]]:
    """Yield the rows of each group, in order; `done` rows are there already."""
    with (
        ThreadPoolExecutor(connections) as pool,
        tqdm(initial=done, total=done + sum(map(len, groups)), unit="image", disable=None) as bar,
    ):
        for paths, answers in zip(groups, pool.map(gateway.predict, groups), strict=True):
            bar.update(len(paths))
            yield [_row(path, answer, classes) for path, answer in zip(paths, answers, strict=True)]


def _row(path: Path, answer: dict[str, Any], classes: list[str]) -> Row:
    probabilities = answer.get("class_probabilities", {})
    return [str(path), *map(answer.get, FIGURES), *map(probabilities.get, classes)]


def as_csv(rows: Iterable[Row]) -> bytes:
    """Return rows as they stand in the file, which names files by the bytes that the file system has."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return os.fsencode(text.getvalue())


def take_up(part: Path, header: Row, groups: list[list[Path]]) -> tuple[list[Row], list[list[Path]]]:
    """Return the rows of whole groups that a run before has left, and the groups that are still to be asked.

    The file is cut after these rows, or begun. A group is asked as a whole, as the last digits depend on which images
    the network sees together. Raises PartError where the rows are not the first of these groups.
    """
    content = part.read_bytes() if part.exists() else b""
    whole = os.fsdecode(b"".join(content.rpartition(b"\r\n")[:2]))  # a kill may have torn the last row
    found, *rows = list(csv.reader(io.StringIO(whole, newline=""))) or [header]
    files = [str(path) for group in groups for path in group]
    if found != header or [row[0] for row in rows] != files[: len(rows)]:
        raise PartError(f"{part} holds rows of other images or classes; remove it to begin anew.")
    ends = list(accumulate(map(len, groups), initial=0))
    done = bisect(ends, len(rows)) - 1
    kept = rows[: ends[done]]
    if whole:
        os.truncate(part, len(as_csv([header, *kept])))
    else:
        part.write_bytes(as_csv([header]))
    return kept, groups[done:]


def append(part: Path, groups: Iterable[list[Row]]) -> Iterator[Row]:
    """Yield each row once it is in the file."""
    with part.open("ab") as file:
        for rows in groups:
            file.write(as_csv(rows))
            file.flush()
            yield from rows


def tally(rows: Iterable[Row], classes: list[str]) -> tuple[int, ...]:
    """Return how many rows have an error, how many are of a folder named as a class, how many are right."""
    failed = labelled = right = 0
    for file, predicted, _, _, error, *_ in rows:
        folder = Path(file).parent.name
        failed += bool(error)
        labelled += folder in classes
        right += predicted == folder
    return failed, labelled, right


def add_gateway_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command has that sends images: `paths`, `url`, `connections`."""
    parser.add_argument("paths", type=Path, nargs="+", metavar="FOLDER|FILE")
    parser.add_argument("--url", default="http://127.0.0.1:5001", help="the gateway (%(default)s)")
    parser.add_argument("--connections", type=int, default=4, help="requests under way at once (%(default)s)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_gateway_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the CSV file to write")
    arguments = parser.parse_args()
    gateway = Gateway(arguments.url, arguments.connections)
    try:
        images = list(find_images(arguments.paths))
        classes = gateway.classes()
    except FileNotFoundError as error:
        return stopped(f"There is no file or folder {error}.")
    except requests.RequestException:
        return stopped(f"There is no model to ask at {arguments.url}; start one with 'make serve' or name its --url.")
    if not arguments.output.parent.is_dir():
        return stopped(f"There is no folder {arguments.output.parent} to write to.")
    if not images:
        return stopped("There are no JPEG, PNG or GIF files in what was named.")
    part = arguments.output.with_name(f"{arguments.output.name}.part")
    header = ["file", *FIGURES, *(f"probability_{name}" for name in classes)]
    try:
        kept, groups = take_up(part, header, list(grouped(images)))
        if kept:
            print(f"Going on after the {len(kept):,} images in {part}; remove it to begin anew.")
        asked = predict_all(gateway, groups, classes, arguments.connections, done=len(kept))
        failed, labelled, right = tally(chain(kept, append(part, asked)), classes)
    except PartError as error:
        return stopped(str(error))
    except requests.RequestException:
        return stopped(
            f"There is no model to ask at {arguments.url} any more; once there is, the same command goes on."
        )
    part.replace(arguments.output)
    print(f"{len(images) - failed:,} of {len(images):,} images classified; wrote {arguments.output}")
    if labelled:
        print(f"accuracy {right / labelled:.2%} ({right:,} of {labelled:,} in folders named as classes)")
    return 1 if failed else 0


def stopped(reason: str) -> int:
    """Say why a command ends before its end; returns its exit status."""
    print(reason, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

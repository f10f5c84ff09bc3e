#!/usr/bin/env python3
"""Classify many images through the gateway and write one row each, in order, to a CSV file.

    scripts/batch_predict.py my-images/test -o predictions.csv

Folders are searched for JPEG, PNG and GIF files. Where the folders that hold the images are named as classes are,
the accuracy is printed. Exit status: 0 all classified, 1 some not (see the column `error`), 2 nothing was done.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif"}
BUSY = (429, 503)
TRIES = 5
TIMEOUT = 60  # seconds
FILES_AT_ONCE = 16  # in a request; the gateway takes 32,
BYTES_AT_ONCE = 4 * 1024 * 1024  # and 10 MB together


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
        """Return the gateway's answer for each file, or {"error": …} with the reason why there is none."""
        answers = self._ask(paths)
        if isinstance(answers, list):
            return answers
        if len(paths) == 1:
            return [answers]
        return [answer for path in paths for answer in self.predict([path])]  # whichever failed then fails alone

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


def predict_all(gateway: Gateway, images: list[Path], connections: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each image and its answer, in the order of `images`."""
    with ThreadPoolExecutor(connections) as pool:
        answers = chain.from_iterable(pool.map(gateway.predict, grouped(images)))
        yield from zip(images, tqdm(answers, total=len(images), unit="image", disable=None), strict=True)


def write_rows(output: TextIO, classes: list[str], answers: Iterable[tuple[Path, dict[str, Any]]]) -> tuple[int, ...]:
    """Write a row an answer; returns how many failed, how many have a class, how many are right."""
    writer = csv.writer(output)
    writer.writerow(
        [
            "file",
            "predicted_class",
            "confidence",
            "in_distribution",
            "error",
            *(f"probability_{name}" for name in classes),
        ]
    )
    failed = labelled = right = 0
    for path, answer in answers:
        probabilities = answer.get("class_probabilities", {})
        row = [answer.get(key) for key in ("predicted_class", "confidence", "in_distribution", "error")]
        writer.writerow([path, *row] + [probabilities.get(name) for name in classes])
        failed += "error" in answer
        labelled += path.parent.name in classes
        right += answer.get("predicted_class") == path.parent.name
    return failed, labelled, right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="FOLDER|FILE")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--url", default="http://127.0.0.1:5001", help="the gateway (%(default)s)")
    parser.add_argument("--connections", type=int, default=4, help="requests under way at once (%(default)s)")
    arguments = parser.parse_args()
    gateway = Gateway(arguments.url, arguments.connections)
    try:
        images = list(find_images(arguments.paths))
        classes = gateway.classes()
    except FileNotFoundError as error:
        return _nothing_done(f"There is no file or folder {error}.")
    except requests.RequestException:
        return _nothing_done(
            f"There is no model to ask at {arguments.url}; start one with 'make serve' or name its --url."
        )
    if not arguments.output.parent.is_dir():
        return _nothing_done(f"There is no folder {arguments.output.parent} to write to.")
    if not images:
        return _nothing_done("There are no JPEG, PNG or GIF files in what was named.")
    with arguments.output.open("w", newline="") as output:
        failed, labelled, right = write_rows(output, classes, predict_all(gateway, images, arguments.connections))
    print(f"{len(images) - failed:,} of {len(images):,} images classified; wrote {arguments.output}")
    if labelled:
        print(f"accuracy {right / labelled:.2%} ({right:,} of {labelled:,} in folders named as classes)")
    return 1 if failed else 0


def _nothing_done(reason: str) -> int:
    print(reason, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

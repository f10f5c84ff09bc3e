#!/usr/bin/env python3
"""Classify many images through the gateway and write one row each, in order, to a CSV, JSON Lines or Parquet file.

    scripts/batch_predict.py my-images/test -o predictions.csv
    scripts/batch_predict.py 'photos/**/*.jpg' -o predictions.parquet --contact-sheet uncertain.png
    find photos -name '*.jpg' -mtime -1 | scripts/batch_predict.py --list - -o predictions.jsonl --json
    scripts/batch_predict.py drop-folder --watch -o predictions.csv
    scripts/batch_predict.py --engine ray --archive my.mar s3://bucket/photos photos.parquet -o predictions

Folders and globs are searched for JPEG, PNG and GIF files; other files are skipped, and counted. Where the first
folders below what was named are classes, the accuracy is printed, and which classes are confused. Rows are gathered in
<output>.part, which becomes the output when it is whole; where a run was killed, or the gateway went away, the same
command goes on after them. With --watch they are appended to the output itself, for files that appear as well, until
Ctrl-C or SIGTERM.

With --engine ray an archive's own code classifies, on all cores of a Ray cluster or of this machine, without a gateway.
Images may then also lie below URLs of object stores, or in Parquet files with their names (`path` or `file`) and
contents (`bytes` or `image`). The output is a folder, or URL, of Parquet files with the same columns; run again, the
command asks only for images that have no row there.

Exit status: 0 all classified, 1 some not (see the column `error`), 2 stopped before the end.
"""

import argparse
import signal
import sys
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import accumulate, chain
from pathlib import Path
from threading import Event
from typing import NamedTuple

from scripts import options
from scripts.contact_sheet import draw_sheet
from scripts.drop_folder import arrivals
from scripts.gateway_client import Gateway, GatewayGone
from scripts.images import count_others, grouped, list_images, names_of, paths_of
from scripts.options import Outcome, Stopped
from scripts.predictions import FORMS, Journal, Row, columns, legible, rows_of, write_parquet
from scripts.summary import Summary, as_document, as_text, summarise
from training.folders import few

AWAY_INTERVAL = 5  # seconds


class Done(NamedTuple):
    """What the images come to, the classes, and the other files by extension."""

    summary: Summary
    classes: list[str]
    others: Counter[str]


def predict_all(gateway: Gateway, groups: list[list[Path]], classes: list[str], done: int = 0) -> Iterator[list[Row]]:
    """Yield the rows of each group, in order; `done` rows are there already."""
    for paths, answers in zip(groups, gateway.predict_all(groups, done), strict=True):
        yield rows_of(paths, answers, classes)


def take_up(journal: Journal, groups: list[list[Path]]) -> tuple[list[Row], list[list[Path]]]:
    """Return the rows of whole groups that a run before has left, and the groups that are still to be asked.

    The journal is cut after these rows, or begun. A group is asked as a whole, as the last digits depend on which
    images the network sees together. Raises Stopped where the rows are not the first of these groups.
    """
    rows = journal.read()
    files = [str(path) for group in groups for path in group]
    if [row[0] for row in rows] != files[: len(rows)]:
        raise journal.other()
    ends = list(accumulate(map(len, groups), initial=0))
    done = bisect(ends, len(rows)) - 1
    kept = rows[: ends[done]]
    journal.keep(kept)
    return kept, groups[done:]


def classify(paths: list[Path], gateway: Gateway, classes: list[str], output: Path) -> Summary:
    """Write the predictions of all images in `paths` to the output. Raises Stopped."""
    names = columns(classes)
    journal = Journal(output.with_name(f"{output.name}.part"), FORMS[output.suffix](names))
    kept, groups = take_up(journal, list(grouped(list_images(paths))))
    if kept:
        say(f"Going on after the {len(kept):,} images in {journal.path}; remove it to begin anew.")
    asked = predict_all(gateway, groups, classes, done=len(kept))
    summary = summarise(chain(kept, journal.append(asked)), classes, paths)
    if output.suffix == ".parquet":
        write_parquet(output, journal.read(), names)
        journal.path.unlink()
    else:
        journal.path.replace(output)
    return summary


def follow(paths: list[Path], gateway: Gateway, classes: list[str], output: Path) -> Summary:
    """Append to the output the predictions of images in `paths` that are not in it, until a signal. Raises Stopped."""
    stop = Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    journal = Journal(output, FORMS[output.suffix](columns(classes)))
    rows = journal.read()
    journal.keep(rows)
    done = {row[0] for row in rows}

    def appearing() -> Iterator[list[Row]]:
        for images in arrivals(paths, done, stop):
            try:
                for group in predict_all(gateway, list(grouped(images)), classes):
                    done.update(row[0] for row in group)
                    yield group
                    if stop.is_set():
                        return
            except GatewayGone:  # these images are found again at the next look
                say(f"There is no model to ask at {gateway.url}; trying again in {AWAY_INTERVAL} s.")
                stop.wait(AWAY_INTERVAL)

    say(f"Watching; {len(done):,} images are in {output} already. Ctrl-C ends it.")
    return summarise(chain(rows, journal.append(appearing())), classes, paths)


def ask_gateway(arguments: argparse.Namespace) -> Done:
    """Have the gateway classify the images. Raises Stopped."""
    output = Path(arguments.output)
    options.check_output("--output", output, FORMS)
    if arguments.watch and output.suffix == ".parquet":
        raise Stopped(
            "With --watch rows are appended, which Parquet does not allow; name a .csv or .jsonl as --output."
        )
    paths = paths_of(arguments)
    gateway = Gateway(arguments.url, arguments.connections)
    classes = gateway.classes()
    summary = (follow if arguments.watch else classify)(paths, gateway, classes, output)
    return Done(summary, classes, count_others(paths, but={output, arguments.contact_sheet}))


def ask_ray(arguments: argparse.Namespace) -> Done:
    """Have an archive classify the images on all machines of a Ray cluster; what is skipped is not counted there."""
    if arguments.watch or not arguments.archive:
        raise Stopped(
            "--engine ray takes an --archive, such as model_store/cifar10_whitened_resnet.mar, and no --watch."
        )
    if not find_spec("ray"):
        raise Stopped("Ray is not installed; install it with '.venv/bin/pip install \"ray[data]\"'.")
    from scripts import ray_engine

    names = names_of(arguments)
    rows, classes = ray_engine.classify(names, arguments.archive, arguments.output, arguments.address)
    return Done(summarise(rows, classes, names), classes, Counter())


ENGINES = {"gateway": ask_gateway, "ray": ask_ray}


def batch_predict(arguments: argparse.Namespace) -> Outcome:
    """Carry out the command. Raises Stopped."""
    output, sheet = arguments.output, arguments.contact_sheet
    if sheet:
        options.check_output("--contact-sheet", sheet, [".png"])
    summary, classes, others = ENGINES[arguments.engine](arguments)
    text = f"{summary.images - summary.failed:,} of {summary.images:,} images classified; wrote {output}"
    if sheet and summary.uncertain:
        draw_sheet(sheet, summary.uncertain)
        text += f" and {sheet}"
    lines = [text, *skipped(others), *as_text(summary, classes)]
    document = as_document(summary, classes) | {"skipped": others, "output": output}
    return Outcome(1 if summary.failed else 0, "\n".join(lines), document)


def skipped(others: Counter[str]) -> list[str]:
    """Return a line with the number of files that are no images by their names, the most frequent extensions first."""
    kinds = [f"{legible(extension) or 'without extension'} {count:,}" for extension, count in others.most_common()]
    files = "file" if others.total() == 1 else "files"
    return [f"{others.total():,} other {files} skipped ({few(kinds)})"] if kinds else []


def say(note: str) -> None:
    print(note, file=sys.stderr)


def main() -> int:
    parser = options.new_parser(__doc__)
    options.add_images(parser)
    options.add_gateway(parser)
    options.add_connections(parser)
    parser.add_argument(
        "-o", "--output", required=True, help=f"the file to write: {', '.join(FORMS)}; Ray's is a folder"
    )
    parser.add_argument("--engine", choices=ENGINES, default="gateway", help="who classifies (%(default)s)")
    parser.add_argument("--archive", type=Path, metavar="MAR", help="with Ray: what classifies")
    parser.add_argument("--address", help="with Ray: its cluster; RAY_ADDRESS, or else this machine, without it")
    parser.add_argument("--watch", action="store_true", help="go on with files that appear, until Ctrl-C")
    parser.add_argument("--contact-sheet", type=Path, metavar="PNG", help="draw the least certain images")
    return options.execute(batch_predict, parser.parse_intermixed_args())


if __name__ == "__main__":
    sys.exit(main())

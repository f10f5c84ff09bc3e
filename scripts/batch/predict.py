"""Many images predicted through the gateway, or by Ray, with a row each in the output.

Rows are gathered in <output>.part, which becomes the output at the end; a run that was killed continues after them.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from scripts.batch.client import Gateway, GatewayGone, may_pass
from scripts.batch.images import absent_of, count_others, grouped, list_once, names_of
from scripts.batch.output import alone_with, check_output, writing
from scripts.batch.rows import ERROR, FORMS, NUMBER_OF_FIGURES, Journal, OtherRows, Row, Rows, columns, legible, rows_of
from scripts.batch.summary import Summary, as_document, as_text, summarise
from scripts.batch.watch import SETTLED_SECONDS, State, arrivals, state_of
from training import signals
from training.folders import PLACES_FILE, few
from training.outcome import Outcome, Stopped, say

AWAY_SECONDS = 5  # seconds until a gateway that went away is tried again,
RETRY_SECONDS = 60  # or an image that could not be read or predicted
MAX_LOOKS = 4  # at images that are written to meanwhile, SETTLED_SECONDS apart


@dataclass(frozen=True)
class Options:
    """The options of `classifier predict`; with Ray, `output` may be the URL of a folder."""

    paths: tuple[str, ...]
    listed: str | None
    output: str
    engine: str
    url: str
    token_file: Path | None
    key_file: Path | None
    connections: int
    top_k: int | None
    archive: Path | None
    address: str | None
    watch: bool
    contact_sheet: Path | None

    def names(self) -> list[str]:
        """Return all that you named, as written, because a URL is no path. Raises Stopped without any."""
        return names_of(self.paths, self.listed)


class Done(NamedTuple):
    """The result: a summary, the classes, other files by extension, and the number of images to predict again."""

    summary: Summary
    classes: list[str]
    others: Counter[str]
    again: int


def predict_all(
    gateway: Gateway, groups: list[list[Path]], classes: list[str], top_k: int | None, done: int = 0
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Yield the rows of each group: the final ones, and those of images to predict again; `done` rows exist already."""
    for paths, answers in zip(groups, gateway.predict_all(groups, done), strict=True):
        if any(answer["success"] and answer["class_probabilities"].keys() != set(classes) for answer in answers):
            raise Stopped("The served model has other classes now; run the command again with another --output.")
        rows: tuple[list[Row], list[Row]] = ([], [])
        for row, answer in zip(rows_of(paths, answers, classes, top_k), answers, strict=True):
            rows[may_pass(answer)].append(row)
        yield rows


def take_up(journal: Journal, groups: list[list[Path]], classes: list[str], output: Path) -> Rows:
    """Return the rows of an earlier run that are still valid; the journal is cut to these, or started.

    A group that a kill has cut is predicted again completely, because the last digits depend on the images that the
    network sees together. Rows of images that are gone since stay. Raises Stopped if there are rows of other images,
    unless that run has written its output.
    """
    try:
        rows = journal.read_valid(classes)
        files, named = {row[0] for row in rows}, {str(path) for group in groups for path in group}
        gone = files - named
        if any(map(state_of, map(Path, gone))):
            raise journal.other()
    except OtherRows:
        if not journal.is_older_than(output):
            raise
        rows, files, gone = [], set(), set()
    last = {str(path) for group in groups if rows and Path(rows[-1][0]) in group for path in group if state_of(path)}
    kept = rows if last <= files else [row for row in rows if row[0] not in last]
    journal.keep(kept)
    return Rows(journal, kept)


def predict_images(images: list[Path], gateway: Gateway, classes: list[str], output: Path, top_k: int | None) -> Rows:
    """Write the predictions of all images to the output. Raises Stopped."""
    names = columns(classes, top_k)
    journal = Journal(output.with_name(f"{output.name}.part"), FORMS[output.suffix](names))
    groups = list(grouped(images))
    rows = take_up(journal, groups, classes, output)
    if rows.final:
        say(f"Continuing after the {len(rows.final):,} images in {journal.path}; remove it to start over.")
    states = {image: state_of(image) for image in images}
    groups = [left for group in groups if (left := [path for path in group if str(path) not in rows.final])]
    try:
        for _ in range(MAX_LOOKS):
            for final, again in predict_all(gateway, groups, classes, top_k, done=len(rows.final)):
                rows.add(final, again)
            if not any(is_unsettled(image, state, rows) for image, state in states.items()):
                break
            time.sleep(SETTLED_SECONDS)
            changed = changed_since(states)
            states |= changed
            rows.reopen(set(map(str, changed)))
            groups = list(grouped(changed))
    except BaseException:  # the next run could not tell which files changed before the last row was written
        with suppress(Stopped):  # from a full disk, which has been said
            rows.reopen(set(map(str, changed_since(states))))
        raise
    gone = rows.final.keys() - set(map(str, images))
    rows.write(output, [*(file for file in rows.final if file in gone), *map(str, images)], names)
    return rows


def changed_since(states: Mapping[Path, State | None]) -> dict[Path, State]:
    """Return the states of the images that have others now; what was predicted of one that is gone stays true."""
    now = {image: state_of(image) for image in states}
    return {image: state for image, state in now.items() if state and state != states[image]}


def is_unsettled(image: Path, state: State | None, rows: Rows) -> bool:
    """Return whether an image was written to since it had this state, or was refused soon after it was written to."""
    row = rows.final.get(str(image))
    refused_when_new = row and row[ERROR] and state and abs(time.time() - state.changed / 1e9) < SETTLED_SECONDS
    return bool(refused_when_new) or bool(changed_since({image: state}))


def follow(named: list[Path], gateway: Gateway, classes: list[str], output: Path, top_k: int | None = None) -> Rows:
    """Append the predictions of images in the `named` places that the output lacks, until a signal. Raises Stopped."""
    form = FORMS[output.suffix](columns(classes, top_k))
    journal, before = Journal(output, form), Journal(output.with_name(f"{output.name}.part"), form)
    kept = journal.read_valid(classes)
    if before.path.exists() and before.is_older_than(output):  # a run has left images to ask again
        asked = {row[0] for row in before.read()}
        kept = [row for row in kept if not row[ERROR] or row[0] in asked]
        before.path.unlink()
    journal.keep(kept)
    rows = Rows(journal, kept)
    done = {file: state_of(Path(file)) for file in rows.final}
    later: dict[str, float] = {}  # when to try again each image that could not be predicted
    why = ""
    say(f"Watching; {len(done):,} images are in {output} already. Press Ctrl-C to stop.")
    for states in arrivals(named, done, later, gateway.stop):
        rows.reopen(set(map(str, states)))
        try:
            for final, again in predict_all(gateway, list(grouped(states)), classes, top_k):
                rows.add(final, again)
                done |= {row[0]: states[Path(row[0])] for row in final}
                for file, *_, error in (row[:NUMBER_OF_FIGURES] for row in again):
                    if file not in later:
                        say(f"{legible(file)}: {error} It is tried again every {RETRY_SECONDS} s.")
                    later[file] = time.monotonic() + RETRY_SECONDS
                why = ""
                if gateway.stop.is_set():
                    break
        except GatewayGone as error:  # the next look finds these images again
            if str(error) != why and not gateway.stop.is_set():
                why = str(error)
                say(f"{why} Trying again every {AWAY_SECONDS} s.")
            gateway.stop.wait(AWAY_SECONDS)
    rows.reopen(set(map(str, changed_since({Path(file): state for file, state in done.items()}))))
    return rows


def predict_by_gateway(options: Options) -> Done:
    """Have the gateway predict the images. Raises Stopped."""
    output = Path(options.output)
    check_output("--output", output, FORMS)
    if options.watch and output.suffix == ".parquet":
        raise Stopped(
            "With --watch rows are appended, which Parquet does not allow; name a .csv or .jsonl as --output."
        )
    if output.suffix == ".parquet" and not find_spec("pyarrow"):
        raise Stopped(
            "Parquet needs the package pyarrow, which 'make install' installs; or name a .csv or .jsonl file."
        )
    names = options.names()
    paths, absent = list(map(Path, names)), set(map(Path, absent_of(names, options.paths)))
    gateway = Gateway(options.url, options.connections, options.token_file, options.key_file)
    classes = gateway.classes()
    if options.watch:
        if absent:
            say(f"Left out, because they are not there: {few(sorted(legible(str(path)) for path in absent))}.")
        named = [path for path in paths if path not in absent]
    else:
        named = list_once(paths, absent)
    interrupt = (lambda *_: gateway.stop.set()) if options.watch else signals.interrupt
    try:
        with alone_with(output), signals.handling(interrupt):
            work = follow if options.watch else predict_images
            rows = work(named, gateway, classes, output, options.top_k)
    except GatewayGone as error:
        raise Stopped(f"{error} Run the same command again to continue.") from None
    others = count_others(paths, but={output, options.contact_sheet})
    return Done(summarise(rows.all(), classes, paths), classes, others, len(rows.again))


def predict_by_ray(options: Options) -> Done:
    """Have an archive predict the images on all machines of a Ray cluster, where skipped files are not counted."""
    if options.watch or not options.archive:
        raise Stopped(
            "--engine ray takes an --archive, such as model_store/cifar10_whitened_resnet.onnx.zip, and no --watch."
        )
    if not find_spec("ray"):
        raise Stopped("Ray is not installed; install it with '.venv/bin/pip install \"ray[data]\"'.")
    from scripts.batch.ray import engine

    names = options.names()
    with nullcontext() if "://" in options.output else alone_with(Path(options.output).absolute()):
        rows, again, classes = engine.predict(
            names, absent_of(names, options.paths), options.archive, options.output, options.address, options.top_k
        )
    return Done(summarise(chain(rows, again), classes, names), classes, Counter(), len(again))


ENGINES = {"gateway": predict_by_gateway, "ray": predict_by_ray}


def predict(options: Options) -> Outcome:
    """Predict the images and write the output. Raises Stopped."""
    output, sheet = options.output, options.contact_sheet
    if sheet:
        check_output("--contact-sheet", sheet, [".png"])
    summary, classes, others, again = ENGINES[options.engine](options)
    text = f"{summary.images - summary.failed:,} of {summary.images:,} images predicted; wrote {output}"
    if sheet and summary.uncertain:
        from scripts.batch.contact_sheet import draw_sheet  # which imports NumPy and Pillow: two fifths of the start

        with writing(sheet, f" The rows are in {output}."):
            draw_sheet(sheet, summary.uncertain)
        text += f" and {sheet}"
    lines = [text, *to_repeat(again), *skipped(others), *as_text(summary, classes)]
    if summary.accuracy is not None:
        lines += [_flattered(name) for name in options.paths if holds_training_photos(Path(name))]
    document = as_document(summary, classes) | {"ask_again": again, "skipped": others, "output": output}
    return Outcome(1 if summary.failed or again else 0, "\n".join(lines), document)


def holds_training_photos(folder: Path) -> bool:
    """Return whether a training has split the photos of a folder, or found them split."""
    # Path's own methods raise an error for a folder that cannot be entered.
    return os.path.isfile(folder / PLACES_FILE) or all(os.path.isdir(folder / split) for split in ("train", "test"))


def _flattered(name: str) -> str:
    return (
        f"{legible(name)} holds photos for training. If this model learned from them, the accuracy flatters: "
        "'classifier evaluate' measures the others."
    )


def to_repeat(again: int) -> list[str]:
    """Return a line with the number of images to predict again."""
    what, them = ("image", "it") if again == 1 else ("images", "them")
    return [f"{again:,} {what} could not be read or predicted; run the same command again for {them}"] if again else []


def skipped(others: Counter[str]) -> list[str]:
    """Return a line with the number of files whose names are not of images, by extension, the most frequent first."""
    kinds = [f"{legible(extension) or 'without extension'} {count:,}" for extension, count in others.most_common()]
    files = "file" if others.total() == 1 else "files"
    return [f"{others.total():,} other {files} skipped ({few(kinds)})"] if kinds else []

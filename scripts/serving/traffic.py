"""Let a new version meet live requests beside the served one, and refuse it if it does worse than that."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, quantiles, variance
from typing import BinaryIO

from gateway.traffic import LOOK_SECONDS, TOGETHER_SECONDS, Compared, Split, seen_file
from scripts.serving.deployment import Limits, Refused
from training.files import write_whole
from training.outcome import say

FILE = "traffic.json"  # in the run folder; gateway.traffic reads it
LEAST = 20  # answers of each version, without which nothing can be said
POLL_SECONDS = 0.5
NOTES = 10  # notes in the whole time
CERTAINTY = 2.0  # standard errors, by which a difference between two means may be chance


@dataclass(frozen=True)
class Live:
    """A roll on live traffic: as a canary or else as a shadow, for which share (0 to 0.5), for how many seconds."""

    canary: bool
    share: float
    seconds: float


@dataclass
class Answers:
    """The answers of a version, and the reasons of its failures; `classes` has the ids of the requests as keys."""

    classes: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    skipped: int = 0  # for which there was no time

    def add(self, compared: Compared) -> None:
        if "failed" not in compared:
            self.classes[compared["id"]] = compared["predicted_class"]
            self.seconds.append(compared["seconds"])
            self.confidences.append(compared["confidence"])
        elif compared["failed"] is None:
            self.skipped += 1
        else:
            self.failures.append(compared["failed"])


def meet(live: Live, old: str, new: str, run: Path, limits: Limits, measured: bool = False) -> str:
    """Give `new` its share of the traffic; returns a sentence. Raises Refused, and at once if it fails too often.

    If the accuracy of both was `measured`, what they think of themselves does not count.
    """
    file = run / FILE
    seen = seen_file(file)
    seen.unlink(missing_ok=True)
    answers = {old: Answers(), new: Answers()}
    split: Split = {
        "version": new,
        "canary": live.canary,
        "share": live.share,
        "until": time.time() + live.seconds,
    }
    with seen.open("x+b") as lines:
        try:
            write_whole(file, json.dumps(split))
            _follow(live, new, lines, answers, limits)
        finally:
            file.unlink(missing_ok=True)
            last = 0 if live.canary else TOGETHER_SECONDS
            time.sleep(2 * LOOK_SECONDS + last)  # until no process of the gateway asks it any more
        _read(lines, answers)
    _judge(old, new, answers, limits, measured)
    return _report(old, new, answers)


def _follow(live: Live, new: str, lines: BinaryIO, answers: dict[str, Answers], limits: Limits) -> None:
    started = time.monotonic()
    noted = 0
    say(f"Version {new} {'answers' if live.canary else 'is asked for'} {live.share:.0%} of the requests now.")
    while (passed := time.monotonic() - started) < live.seconds:
        time.sleep(min(POLL_SECONDS, live.seconds - passed))
        _read(lines, answers)
        _check_failures(new, answers[new], limits)
        if passed * NOTES > live.seconds * (noted + 1):
            noted += 1
            counts = ", ".join(f"{len(its.seconds)} answers by {version}" for version, its in answers.items())
            say(f"{passed / live.seconds:.0%} of the time: {counts}.")


def _read(lines: BinaryIO, answers: dict[str, Answers]) -> None:
    for line in _whole_lines(lines):
        compared: Compared = json.loads(line)
        if compared["version"] in answers:
            answers[compared["version"]].add(compared)


def _whole_lines(lines: BinaryIO) -> Iterator[bytes]:
    while (line := lines.readline()).endswith(b"\n"):
        yield line
    lines.seek(-len(line), os.SEEK_CUR)  # the rest of it comes later


def _check_failures(new: str, its: Answers, limits: Limits) -> None:
    asked = len(its.seconds) + len(its.failures)
    if asked >= LEAST and len(its.failures) > limits.tolerance * asked:
        raise Refused(
            f"version {new} fails on {len(its.failures)} of {asked} live requests that the served one answers, "
            f"first with: {its.failures[0]}"
        )


def _judge(old: str, new: str, answers: dict[str, Answers], limits: Limits, measured: bool) -> None:
    """Raise Refused if `new` was asked too seldom, fails, is slower, or less sure and so less accurate."""
    its, before = answers[new], answers[old]
    _check_failures(new, its, limits)
    for version, each in answers.items():
        if len(each.seconds) < LEAST:
            why = f", and had no time for {each.skipped}" if each.skipped else ""
            raise Refused(
                f"version {version} answered {len(each.seconds)} live requests{why}, and {LEAST} are needed. "
                "Take a longer time, or a larger share."
            )
    if median(its.seconds) > limits.slowest(not limits.new_classes) * median(before.seconds):
        raise Refused(
            f"version {new} takes {1000 * median(its.seconds):.1f} ms for a live request and {old} "
            f"{1000 * median(before.seconds):.1f} ms, in the median; --slower allows more."
        )
    lost = fmean(before.confidences) - fmean(its.confidences)
    by_chance = CERTAINTY * sum(variance(each.confidences) / len(each.confidences) for each in (its, before)) ** 0.5
    if not measured and not limits.new_classes and lost > limits.tolerance + by_chance:
        raise Refused(
            f"version {new} is {fmean(its.confidences):.1%} sure of its answers to live requests, in the mean, and "
            f"{old} {fmean(before.confidences):.1%}, so it is probably less accurate. With --sample the accuracy is "
            f"measured instead; --tolerance allows more than {limits.tolerance:g}."
        )


def _report(old: str, new: str, answers: dict[str, Answers]) -> str:
    its, before = answers[new], answers[old]
    compared = [(name, before.classes[request]) for request, name in its.classes.items() if request in before.classes]
    agreed = f" Both agree on {sum(a == b for a, b in compared) / len(compared):.1%}." if compared else ""
    return (
        f"It answered {len(its.seconds)} live requests, and failed on {len(its.failures)}. "
        f"It took {_times(its)}; {old} took {_times(before)}. "
        f"It was {fmean(its.confidences):.1%} sure, in the mean, and {old} {fmean(before.confidences):.1%}.{agreed}"
    )


def _times(answers: Answers) -> str:
    return f"{1000 * median(answers.seconds):.1f} ms in the median and {1000 * _percentile_99(answers):.1f} at p99"


def _percentile_99(answers: Answers) -> float:
    return quantiles(answers.seconds, n=100, method="inclusive")[-1]

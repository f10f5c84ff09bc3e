"""Let a new version meet live requests beside the served one, and refuse it if it does worse than that."""

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, quantiles, variance
from typing import BinaryIO
from uuid import uuid4

from gateway.traffic import LOOK_SECONDS, MAX_SEEN_BYTES, Compared, Split, seen_file
from scripts.serving.deployment import Limits, Refused
from training.files import write_whole
from training.outcome import say

FILE = "traffic.json"  # in the run folder; gateway.traffic reads it
LEAST = 20  # answers of each version, without which nothing can be said
LEASE_SECONDS = 30.0  # after which the share ends, unless the command is still there
POLL_SECONDS = 0.5
NOTES = 10  # notes in the whole time
CERTAINTY = 2.0  # standard errors, by which a difference may be chance


@dataclass(frozen=True)
class Live:
    """A roll on live traffic: as a canary or else as a shadow, for which share (0 to 0.5), for how many seconds."""

    canary: bool
    share: float
    seconds: float


@dataclass
class Answers:
    """The answers of a version: their times and confidences, whether they agree, and the reasons of its failures."""

    seconds: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    agreed: list[bool] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    failed: deque[bool] = field(default_factory=lambda: deque(maxlen=LEAST))  # whether the last ones did
    skipped: int = 0  # for which there was no time

    def add(self, compared: Compared) -> None:
        if "failed" not in compared:
            self.seconds.append(compared["seconds"])
            self.confidences.append(compared["confidence"])
            if "agrees" in compared:
                self.agreed.append(compared["agrees"])
        elif compared["failed"] is None:
            self.skipped += 1
            return
        else:
            self.failures.append(compared["failed"])
        self.failed.append("failed" in compared)


def meet(live: Live, old: str, new: str, run: Path, limits: Limits, same_classes: bool, measured: bool = False) -> str:
    """Give `new` its share of the traffic; returns a sentence. Raises Refused, and at once if it fails too often.

    If the accuracy of both was `measured`, what they think of themselves does not count.
    """
    file = run / FILE
    seen = seen_file(file)
    seen.unlink(missing_ok=True)
    answers = {old: Answers(), new: Answers()}
    split: Split = {"roll": uuid4().hex, "version": new, "canary": live.canary, "share": live.share, "until": 0}
    with seen.open("x+b") as lines:
        try:
            _give_share(split, file)
            _follow(live, split, file, lines, answers, limits)
        finally:
            file.unlink(missing_ok=True)
            time.sleep(2 * LOOK_SECONDS)  # until no process of the gateway asks it any more
        _read(lines, split, answers)
    _judge(live, old, new, answers, limits, same_classes, measured)
    return _report(old, new, answers)


def _give_share(split: Split, file: Path) -> None:
    split["until"] = time.time() + LEASE_SECONDS
    write_whole(file, json.dumps(split))


def _follow(live: Live, split: Split, file: Path, lines: BinaryIO, answers: dict[str, Answers], limits: Limits) -> None:
    new, started = split["version"], time.monotonic()
    noted, given = 0, 0.0
    say(f"Version {new} {'answers' if live.canary else 'is asked for'} {100 * live.share:g}% of the requests now.")
    while (passed := time.monotonic() - started) < live.seconds:
        time.sleep(min(POLL_SECONDS, live.seconds - passed))
        if not file.exists():
            raise Refused("the server was started again meanwhile, and so ended it. Roll again.")
        if passed > given + LEASE_SECONDS / 3:
            _give_share(split, file)
            given = passed
        _read(lines, split, answers)
        _stop_early(new, answers[new], limits)
        if lines.tell() >= MAX_SEEN_BYTES:
            say("No more answers can be written down, so those that are there have to do.")
            return
        if passed * NOTES > live.seconds * (noted + 1):
            noted += 1
            counts = ", ".join(f"{len(its.seconds)} answers by {version}" for version, its in answers.items())
            say(f"{passed / live.seconds:.0%} of the time: {counts}.")


def _read(lines: BinaryIO, split: Split, answers: dict[str, Answers]) -> None:
    for line in _whole_lines(lines):
        try:
            compared: Compared = json.loads(line)
        except ValueError:  # torn, on a disk that was full
            continue
        if compared.get("roll") == split["roll"] and compared["version"] in answers:
            answers[compared["version"]].add(compared)


def _whole_lines(lines: BinaryIO) -> Iterator[bytes]:
    while (line := lines.readline()).endswith(b"\n"):
        yield line
    lines.seek(-len(line), os.SEEK_CUR)  # the rest of it comes later


def _stop_early(new: str, its: Answers, limits: Limits) -> None:
    """Raise Refused if `new` fails more often than chance explains, or again and again in the end."""
    allowed = limits.tolerance * _asked(its)
    if _asked(its) < LEAST:
        return
    if len(its.failures) > allowed + CERTAINTY * allowed**0.5 or all(its.failed):
        raise Refused(_failing(new, its))


def _asked(its: Answers) -> int:
    return len(its.seconds) + len(its.failures)


def _failing(new: str, its: Answers) -> str:
    return (
        f"version {new} fails on {len(its.failures)} of {_asked(its)} live requests that the served one answers, "
        f"first with: {its.failures[0]}"
    )


def _judge(
    live: Live, old: str, new: str, answers: dict[str, Answers], limits: Limits, same_classes: bool, measured: bool
) -> None:
    """Raise Refused if `new` was asked too seldom, fails, is slower, or less sure and so less accurate.

    A shadow's time is not judged, because its images share calls at moments in which nobody else waits.
    """
    its, before = answers[new], answers[old]
    _stop_early(new, its, limits)
    if len(its.failures) > max(1, limits.tolerance * _asked(its)):
        raise Refused(_failing(new, its))
    for version, each in answers.items():
        if len(each.seconds) < LEAST:
            why = f", and had no time for {each.skipped}" if each.skipped else ""
            raise Refused(
                f"version {version} answered {len(each.seconds)} live requests{why}, and {LEAST} are needed. "
                "Take a longer time, or a larger share."
            )
    if live.canary and median(its.seconds) > limits.slowest(same_classes) * median(before.seconds):
        raise Refused(
            f"version {new} takes {1000 * median(its.seconds):.1f} ms for a live request and {old} "
            f"{1000 * median(before.seconds):.1f} ms, in the median; --slower allows more."
        )
    lost = fmean(before.confidences) - fmean(its.confidences)
    by_chance = CERTAINTY * sum(variance(each.confidences) / len(each.confidences) for each in (its, before)) ** 0.5
    if same_classes and not measured and not lost <= limits.tolerance + by_chance:  # nor is it, if it is no number
        raise Refused(
            f"version {new} is {fmean(its.confidences):.1%} sure of its answers to live requests, in the mean, and "
            f"{old} {fmean(before.confidences):.1%}, so it is probably less accurate. With --sample the accuracy is "
            f"measured instead; --tolerance allows more than {limits.tolerance:g}."
        )


def _report(old: str, new: str, answers: dict[str, Answers]) -> str:
    its, before = answers[new], answers[old]
    agreed = f" Both agree on {fmean(its.agreed):.1%}." if its.agreed else ""
    return (
        f"It answered {len(its.seconds)} live requests, and failed on {len(its.failures)}. "
        f"It took {_times(its)}; {old} took {_times(before)}. "
        f"It was {fmean(its.confidences):.1%} sure, in the mean, and {old} {fmean(before.confidences):.1%}.{agreed}"
    )


def _times(answers: Answers) -> str:
    return f"{1000 * median(answers.seconds):.1f} ms in the median and {1000 * _percentile_99(answers):.1f} at p99"


def _percentile_99(answers: Answers) -> float:
    return quantiles(answers.seconds, n=100, method="inclusive")[-1]

"""Predictions in the gateway's log beside the validation images of the version that made them."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.batch.client import Gateway
from scripts.serving.defaults import GATEWAY_LOG, RUN
from training.outcome import Outcome, Stopped

LOGS = (f"{GATEWAY_LOG}.1", GATEWAY_LOG)  # in the run folder; the first is the older one
LESS_RIGHT = 0.1  # of the expected accuracy below that of validation
MORE_OUTLIERS = 3.0  # times as many as among the validation images
OTHER_SHARES = 0.3  # of the distance between the shares of the classes and those in training
FEW = 50  # predictions tell too little
FEW_A_CLASS = 20  # tell too little of the shares, because chance alone makes them differ
MOST_CLASSES = 3  # named in a line


@dataclass
class Seen:
    """The predictions of a version: how many, from when to when, and the sums of their fields."""

    first: str = ""
    last: str = ""
    count: int = 0
    confidence: float = 0.0
    inside: int = 0
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, time: str, prediction: dict[str, Any]) -> None:
        self.first, self.last = min(self.first or time, time), max(self.last, time)
        self.count += 1
        self.confidence += prediction["confidence"]
        self.inside += prediction["in_distribution"]
        self.classes[prediction["predicted_class"]] += 1


def drift(logs: tuple[Path, ...], url: str, **reach: Any) -> Outcome:
    """Compare the logged predictions with the card of the served version. Raises Stopped without predictions."""
    files = logs or tuple(file for name in LOGS if (file := RUN / name).exists())
    seen: dict[str, Seen] = {}
    for time, prediction in _predictions(files):
        seen.setdefault(prediction["version"], Seen()).add(time, prediction)
    if not seen:
        raise Stopped(
            "The log has no predictions; start the gateway with GATEWAY_LOG_PREDICTIONS=1, or name other logs."
        )
    card = Gateway(url, **reach).card()
    versions = {version: compare(found, card if card["version"] == version else {}) for version, found in seen.items()}
    drifted = any(compared["drifted"] for compared in versions.values())
    text = [line for version, compared in versions.items() for line in in_words(version, compared)]
    return Outcome(int(drifted), "\n".join(text), {"drifted": drifted, "versions": versions})


def compare(seen: Seen, card: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a version and, if its card has them, those of validation. `drifted` compares them."""
    validation = card.get("metrics", {}).get("validation", {}).get("accuracy")
    accepted = card.get("calibration", {}).get("in_distribution", {}).get("accepted")
    counts = card.get("data", {}).get("class_counts")
    expected, inside = seen.confidence / seen.count, seen.inside / seen.count
    shares = {name: count / seen.count for name, count in seen.classes.most_common()}
    trained = dict(zip(card["classes"], (count / sum(counts) for count in counts), strict=True)) if counts else {}
    less_right = validation is not None and expected < validation - LESS_RIGHT
    more_outliers = accepted is not None and 1 - inside > MORE_OUTLIERS * (1 - accepted)
    apart = distance(shares, trained) if trained else None
    other_shares = apart is not None and apart > OTHER_SHARES and seen.count >= FEW_A_CLASS * len(trained)
    return {
        "predictions": seen.count,
        "first": seen.first,
        "last": seen.last,
        "expected_accuracy": expected,
        "validation_accuracy": validation,
        "in_distribution": inside,
        "in_distribution_in_validation": accepted,
        "class_shares": shares,
        "class_shares_in_training": trained,
        "class_distance": apart,
        "drifted": seen.count >= FEW and (less_right or more_outliers or other_shares),
    }


def distance(one: dict[str, float], other: dict[str, float]) -> float:
    """Return the total variation distance of two distributions, 0 to 1."""
    return sum(abs(one.get(name, 0) - other.get(name, 0)) for name in one.keys() | other.keys()) / 2


def in_words(version: str, compared: dict[str, Any]) -> Iterator[str]:
    def beside(value: float | None) -> str:
        return "" if value is None else f" (validation: {value:.1%})"

    yield f"Version {version}: {compared['predictions']:,} predictions, {compared['first']} to {compared['last']}"
    yield f"  expected accuracy {compared['expected_accuracy']:.1%}{beside(compared['validation_accuracy'])}"
    yield f"  in distribution {compared['in_distribution']:.1%}{beside(compared['in_distribution_in_validation'])}"
    if compared["class_distance"] is not None:
        shares, trained = compared["class_shares"], compared["class_shares_in_training"]
        furthest = sorted(trained, key=lambda name: -abs(shares.get(name, 0) - trained[name]))[:MOST_CLASSES]
        named = ", ".join(f"{name} {shares.get(name, 0):.0%} instead of {trained[name]:.0%}" for name in furthest)
        yield f"  classes differ from training by {compared['class_distance']:.2f}: {named}"
    if compared["drifted"]:
        yield "  This has drifted. Look at the images, keep feedback, and learn from it with 'classifier learn'."
    elif compared["predictions"] < FEW:
        yield f"  Fewer than {FEW} predictions tell too little."


def _predictions(files: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the time and each prediction of the lines that have some. Other lines of the log are passed over."""
    for file in files:
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if '"predictions": [' in line and line.startswith("{"):
                        try:
                            entry = json.loads(line)
                        except ValueError:  # it was cut when the disk was full
                            continue
                        for prediction in entry["predictions"]:
                            yield entry["time"], prediction
        except OSError as error:
            raise Stopped(f"{file} cannot be read ({error.strerror}); name the gateway's log.") from None

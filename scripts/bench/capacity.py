"""Compute the capacity and cost of pods of two cores from measured rates, as the tables of docs/scaling.md.

The tables mark which figures are measured. The others are computed from these and from the assumptions.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any

from gateway.limits import MAX_IMAGE_BYTES
from training.project import ROOT

BENCHMARK = json.loads((ROOT / "docs" / "benchmark.json").read_text())["product"]
VCPUS = 2  # in a pod, as in the benchmark's machine
DAY = 24 * 3600  # seconds
REFERENCE, FAST = "cnn", "whitened_resnet"  # the two networks whose rates are measured
MFLOP = {REFERENCE: 23, "whitened_cnn": 236, FAST: 544, "resnet18": 1110}  # an image; docs/training.md
FAST_RATE = 496  # measured images a second on two cores; docs/performance.md
MEASURED, COMPUTED = "measured", "computed"
STAGES = {  # measured milliseconds of a core for a small image on 32 connections, or for a photo; docs/performance.md
    "gateway": 0.37,
    "TorchServe's Java": 0.08,
    "the workers, `cnn`": 0.36,
    "the workers, `whitened_resnet`": 3.10,
    "gateway, for a photo of 12 megapixels": 4.37,
    "TorchServe's Java, for such a photo": 4.32,
    "the workers, for such a photo": 25.28,
}


def assume(value: float, words: str) -> Any:
    return field(default=value, metadata={"words": words})


@dataclass(frozen=True)
class Assumptions:
    """Figures that nobody measured. Change them with the options of `scripts.bench.scaling`."""

    peak: float = assume(10_000, "requests a second in the evening")
    trough: float = assume(0.2, "of the peak, twelve hours later")
    flash: float = assume(5, "times the usual traffic, in a flash crowd at noon")
    headroom: float = assume(0.7, "use of a pod that is planned for")
    vcpu_price: float = assume(0.04, "$ a vCPU-hour, on demand")
    spot: float = assume(0.35, "of that price, where pods may be taken away")
    gpu_price: float = assume(0.75, "$ an hour, for a small GPU")
    scheduling: float = assume(10, "seconds until a pod's command starts, on a node that is there and has the image")
    node: float = assume(110, "seconds more, where a node has to be got first")


def measured(cell: str, figure: str = "rate") -> float:
    """Return the median of a measured figure over the benchmark's rounds."""
    return median(measurement[figure] for measurement in BENCHMARK[cell])


def cost_line() -> tuple[float, float]:
    """Return milliseconds of a core for a small image without a network, and for each MFLOP of a network.

    Both are computed: they are the line through the two networks whose rates are measured.
    """
    reference, fast = VCPUS * 1000 / measured("small 32"), VCPUS * 1000 / FAST_RATE
    slope = (fast - reference) / (MFLOP[FAST] - MFLOP[REFERENCE])
    return reference - slope * MFLOP[REFERENCE], slope


def capacity(network: str, large: float = 0.0) -> float:
    """Return the images that a pod answers in a second if the share `large` of them are photos of 12 megapixels."""
    base, slope = cost_line()
    photo = VCPUS * 1000 * (1 / measured("large 8") - 1 / measured("small 32"))
    return VCPUS * 1000 / (base + slope * MFLOP[network] + large * photo)


def pods_for(rate: float, assumed: Assumptions, network: str = FAST, large: float = 0.0) -> int:
    """Return how many pods answer `rate` images a second, and keep their headroom."""
    return math.ceil(rate / capacity(network, large) / assumed.headroom)


def dollars(pods: float, assumed: Assumptions) -> float:
    """Return the cost of pods in dollars a day, on demand."""
    return pods * VCPUS * assumed.vcpu_price * 24


def table(heads: str, rows: Iterable[list[str]]) -> str:
    return "\n".join(
        [f"| {heads} |", "|---" * (heads.count("|") + 1) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def tables(assumed: Assumptions) -> Iterator[str]:
    """Yield tables of the assumptions, and of capacity by network, by mixture of images, and by stage."""
    yield table("option | assumed | what it is", _assumptions(assumed))
    yield table(
        "network | images/s of a pod | this rate is | the network's share of the CPU | pods for the peak | $ a day "
        "| on spot | $ a million images | images/s from which a GPU is cheaper",
        _networks(assumed),
    )
    yield table(
        "photos | images/s of a pod | this rate is | pods for the peak | Gbit/s of them, at most | for each pod",
        _mixtures(assumed),
    )
    yield table("stage | ms of a core, measured | images/s of two cores that do nothing else, computed", _stages())


def _assumptions(assumed: Assumptions) -> Iterator[list[str]]:
    for option in fields(assumed):
        value = getattr(assumed, option.name)
        yield [f"`--{option.name.replace('_', '-')}`", f"{value:,g}", option.metadata["words"]]


def _networks(assumed: Assumptions) -> Iterator[list[str]]:
    for network, operations in MFLOP.items():
        spent = cost_line()[1] * operations  # milliseconds of a core in the network
        answered, pods = capacity(network), pods_for(assumed.peak, assumed, network)
        price = dollars(pods, assumed)
        yield [
            f"`{network}`",
            f"{answered:,.0f}",
            MEASURED if network in (REFERENCE, FAST) else COMPUTED,
            f"{spent * answered / VCPUS / 1000:.0%}",
            f"{pods}",
            f"{price:,.0f}",
            f"{price * assumed.spot:,.0f}",
            f"{price * 1e6 / (assumed.peak * DAY):.2f}",
            f"{assumed.gpu_price / assumed.vcpu_price / spent * 1000:,.0f}",
        ]


def _mixtures(assumed: Assumptions) -> Iterator[list[str]]:
    for large in (0, 0.01, 0.1, 1):
        pods, gigabits = pods_for(assumed.peak, assumed, large=large), assumed.peak * large * MAX_IMAGE_BYTES * 8 / 1e9
        rate = capacity(FAST, large)
        kind = COMPUTED if large else MEASURED
        yield [f"{large:.0%}", f"{rate:,.0f}", kind, f"{pods:,}", f"{gigabits:,.1f}", f"{gigabits / pods:.2f}"]


def _stages() -> Iterator[list[str]]:
    for stage, spent in STAGES.items():
        yield [stage, f"{spent:.2f}", f"{VCPUS * 1000 / spent:,.0f}"]

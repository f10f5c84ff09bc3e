"""Compute the pods for many requests a second, and simulate a day of autoscaling, from rates measured on two cores.

    classifier bench scaling
    classifier bench scaling --peak 2000 --output runs/busy
    classifier bench scaling --output docs/scaling

prints the tables and writes runs/scaling.json and .png. The last example renews those of docs/scaling.md. The
tables say which figures are measured, assumed, computed or simulated. Every assumption is an option, so that you can
plan with your prices, your peak and your start times.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gateway.limits import MAX_IMAGES_OF_SLOW_LINE, MAX_WAITING_IMAGES, SLOW_LINE_SECONDS
from scripts.bench.capacity import DAY, FAST, Assumptions, capacity, dollars, measured, pods_for, table, tables
from training.commands import command, output
from training.files import save_figure, write_whole

GATEWAYS = 2  # processes in a pod; `workers` in gateway/gunicorn.conf.py
LATE_SECONDS = 1.0  # of waiting, as in the alert in deploy/monitoring
MIN_PODS = 4  # because some may be lost
# Kubernetes' HorizontalPodAutoscaler with its documented defaults.
SYNC_SECONDS = 15  # between its decisions, and over which it measures the use
TOLERANCE = 0.1  # of the wanted number of pods
STABILISATION_SECONDS = 300  # for which fewer pods must have been enough
MAX_GROWTH = (2, 4)  # times the pods in 15 seconds, or this many more

DRAWN = ("fixed, for the evening", "autoscaled to 50%, nodes that are there", "autoscaled to 50%, nodes to be got")
Series = NDArray[np.float64]  # a figure for each second of the day


@dataclass(frozen=True)
class Strategy:
    """A number of pods: `least`, or more if the autoscaler wants more."""

    name: str
    least: int
    target: float | None = None  # use of the pods that the autoscaler aims at; None without one
    start: float = 0  # seconds until a new pod answers


@dataclass
class Day:
    """The simulated seconds of a day: paid pods, and the images they can answer, refuse, and answer late."""

    pods: Series
    limit: Series
    refused: Series
    late: Series


def rates(assumed: Assumptions) -> Series:
    """Return the expected requests in each second of a day: a wave, and a flash crowd at noon on top of it."""
    seconds = np.arange(DAY)
    middle, swing = (1 + assumed.trough) / 2, (1 - assumed.trough) / 2
    wave = middle + swing * np.cos(2 * np.pi * (seconds / DAY - 20 / 24))
    since = seconds - DAY / 2
    crowd = np.clip(since / 60, 0, 1) * np.exp(-np.clip(since - 600, 0, None) / 600)  # in a minute; halves in seven
    return assumed.peak * wave * (1 + (assumed.flash - 1) * crowd)


def desired(ready: int, starting: int, use: float, target: float) -> int:
    """Return how many pods the autoscaler wants; when it wants more, starting pods count as idle."""
    pods, ratio = ready + starting, use / target
    if ratio > 1:
        ratio = max(1, ratio * ready / pods)
    return pods if abs(ratio - 1) <= TOLERANCE else math.ceil(pods * ratio)


def places(pod_rate: float) -> float:
    """Return how many images may wait in a pod that answers `pod_rate` images a second."""
    slow = max(MAX_IMAGES_OF_SLOW_LINE, SLOW_LINE_SECONDS * pod_rate / GATEWAYS)
    return GATEWAYS * min(slow, MAX_WAITING_IMAGES)


def simulate(strategy: Strategy, arrivals: Series, pod_rate: float) -> Day:
    """Simulate the seconds of a day with pods that answer `pod_rate` images a second.

    The pods share waiting images evenly, like a fluid. If there is no place for an image, it is refused, as the gateway
    does.
    """
    ready, waiting, answered, limits = strategy.least, 0.0, 0.0, 0.0
    most = places(pod_rate)
    if strategy.target:
        ready = max(ready, math.ceil(arrivals[0] / pod_rate / strategy.target))
    starting: deque[tuple[float, int]] = deque()  # when they will answer, and how many
    wanted = deque([ready], maxlen=STABILISATION_SECONDS // SYNC_SECONDS)
    day = Day(*np.zeros((4, len(arrivals))))
    for second, arriving in enumerate(arrivals.tolist()):
        while starting and starting[0][0] <= second:
            ready += starting.popleft()[1]
        limit, coming = ready * pod_rate, sum(count for _, count in starting)
        now = min(waiting + arriving, limit)
        refused = max(0.0, waiting + arriving - now - ready * most)
        waiting += arriving - now - refused
        day.pods[second], day.limit[second], day.refused[second] = ready + coming, limit, refused
        is_late = waiting > LATE_SECONDS * limit * (1 + 1e-9)  # not by rounding alone, as the line may be just as long
        day.late[second] = max(0.0, arriving - refused) if is_late else 0
        answered, limits = answered + now, limits + limit
        if strategy.target and second % SYNC_SECONDS == SYNC_SECONDS - 1:
            wanted.append(max(strategy.least, desired(ready, coming, answered / limits, strategy.target)))
            answered = limits = 0.0
            pods, (times, more) = ready + coming, MAX_GROWTH
            if wanted[-1] > pods:
                starting.append((second + strategy.start, min(wanted[-1], max(pods * times, pods + more)) - pods))
            elif not starting:
                ready = min(ready, max(wanted))
    return day


def strategies(assumed: Assumptions) -> list[Strategy]:
    """Return the strategies to compare: fixed numbers of pods, and autoscaling with nodes ready or to be added."""
    there = measured("process", "start") + assumed.scheduling
    starts = {"nodes that are there": there, "nodes to be got": there + assumed.node}
    return [
        Strategy("fixed, for the evening", pods_for(assumed.peak, assumed)),
        Strategy("fixed, for the flash crowd", pods_for(rates(assumed).max(), assumed)),
        *(
            Strategy(f"autoscaled to {target:.0%}, {nodes}", MIN_PODS, target, start)
            for nodes, start in starts.items()
            for target in (0.7, 0.5, 0.3)
        ),
    ]


def summary(day: Day, arrivals: Series, assumed: Assumptions) -> dict[str, float]:
    """Return the shares of refused and late requests, and the pods and dollars of a day."""
    return {
        "refused": day.refused.sum() / arrivals.sum(),
        "late": day.late.sum() / arrivals.sum(),
        "mean_pods": day.pods.mean(),
        "most_pods": day.pods.max(),
        "dollars": dollars(day.pods.mean(), assumed),
    }


def rows(results: dict[str, dict[str, float]]) -> Iterator[list[str]]:
    for name, figures in results.items():
        shares = [f"{figures[share]:.2%}" for share in ("refused", "late")]
        yield [name, *shares, *(f"{figures[figure]:,.0f}" for figure in ("mean_pods", "most_pods", "dollars"))]


def draw(arrivals: Series, days: dict[str, Day]) -> Figure:
    """Draw the requests and the capacity of the pods: all day, and around the flash crowd."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    hours = np.arange(DAY) / 3600
    for panel, (begin, end) in zip(figure.subplots(1, 2), ((0, 24), (11.8, 13)), strict=True):
        shown = slice(round(begin * 3600), round(end * 3600), max(1, round(end - begin)))
        panel.fill_between(hours[shown], arrivals[shown] / 1000, color="0.85", label="requests")
        for name, day in days.items():
            panel.plot(hours[shown], day.limit[shown] / 1000, linewidth=1.2, label=name)
        panel.set(xlabel="hour of the day", xlim=(begin, end), ylim=(0, None))
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("thousands a second")
    figure.axes[0].set_title("Requests, and the capacity of the pods")
    figure.axes[1].set_title("The flash crowd")
    figure.axes[1].legend(fontsize="small", loc="upper right")
    return figure


def assumptions(function: Callable[..., None]) -> Callable[..., None]:
    """Add an option for every assumption."""
    for assumption in reversed(fields(Assumptions)):
        name, words = f"--{assumption.name.replace('_', '-')}", assumption.metadata["words"]
        words += f" (default: {assumption.default:,g})"
        function = click.option(name, type=float, metavar="X", help=words)(function)
    return function


@command("scaling", help=__doc__)
@assumptions
@click.option("--seed", type=int, default=1, metavar="N", help="seed of the random requests (default: 1)")
@output("path of the results, without suffix (default: runs/scaling)", "PATH", default="runs/scaling")
def main(seed: int, output: Path, **assumed: float | None) -> None:
    plan = Assumptions(**{name: value for name, value in assumed.items() if value is not None})
    arrivals = np.random.default_rng(seed).poisson(rates(plan)).astype(float)
    days = {strategy.name: simulate(strategy, arrivals, capacity(FAST)) for strategy in strategies(plan)}
    results = {name: summary(day, arrivals, plan) for name, day in days.items()}
    write_whole(output.with_suffix(".json"), json.dumps({"assumed": asdict(plan), "simulated": results}, indent=1))
    save_figure(draw(arrivals, {name: days[name] for name in DRAWN}), output.with_suffix(".png"), dpi=110)
    heads = (
        "pods | refused, simulated | late, simulated | pods, simulated mean | at most, simulated | $ a day, computed"
    )
    simulated = table(heads, rows(results))
    print(*tables(plan), simulated, sep="\n\n")


if __name__ == "__main__":
    main()

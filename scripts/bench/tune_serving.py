"""Find the workers, the batch size and the delay that serve an archive fastest on this machine.

    classifier bench tune-serving cifar10_cnn
    classifier bench tune-serving my.mar --workers 1 2 --batch-sizes 8 16

Starts the product with each combination, checks that TorchServe has it in force, and loads it with wrk in turns. The
settings of the fastest belong in handler/model-config.yaml; nothing else should run meanwhile.
"""

import itertools
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import yaml
from tqdm import tqdm

from gateway.torchserve.management import Management
from scripts.bench.benchmark import (
    IMAGES,
    PRODUCT,
    WARMING_SECONDS,
    Figures,
    load,
    need,
    photograph,
    running,
    systems,
    torchserve_config,
    whole_archive_of,
)
from training.commands import COUNT, command, model
from training.files import write_digest
from training.outcome import Stopped
from training.signals import handling, interrupt

SETTINGS = "model-config.yaml"  # its name in an archive


class Setting(NamedTuple):
    """One combination; `delay` is in milliseconds, at least 1, as TorchServe takes 0 for 100."""

    workers: int
    batch_size: int
    delay: int

    def in_yaml(self) -> dict[str, int]:
        """Return the lines of model-config.yaml that say so; TorchServe describes itself with the same names."""
        return {
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.delay,
        }


def with_setting(archive: Path, setting: Setting, path: Path) -> None:
    """Write the archive to `path` with other settings."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == SETTINGS:
                content = yaml.safe_dump(yaml.safe_load(content) | setting.in_yaml()).encode()
            target.writestr(entry, content)
    write_digest(path, path)


def measure(
    archive: Path, setting: Setting, config: Path, folder: Path, connections: Sequence[int], seconds: int
) -> list[Figures]:
    """Serve the archive so, and load it. Raises Stopped if TorchServe has something else in force."""
    with_setting(archive, setting, folder / "network.mar")
    (product,) = (system for system in systems(folder, config) if system.name == PRODUCT)
    image = folder / "small.jpg"
    image.write_bytes(photograph(IMAGES["small"], seed=0))
    with running(product, image.read_bytes()):
        client = Management(config, folder / "run" / "key_file.json", timeout=10)
        (described,) = client.describe()
        in_force = {name: described[name] for name in setting.in_yaml()} | {"ready": len(described["workers"])}
        if in_force != setting.in_yaml() | {"ready": setting.workers}:
            raise Stopped(f"TorchServe was to run with {setting.in_yaml()}, but has {in_force} in force.")
        load(f"{product.url}/predict", image, max(connections), WARMING_SECONDS, "file")
        return [load(f"{product.url}/predict", image, count, seconds, "file") for count in connections]


def table(measured: dict[Setting, list[list[Figures]]], connections: Sequence[int]) -> str:
    """Return the medians over the rounds as a Markdown table, the most answers a second on top."""
    heads = ["workers", "batch", "delay", *(f"{count} connections: answers/s (p50, p99 ms)" for count in connections)]
    rows = []
    for setting, rounds in measured.items():
        medians = [
            {figure: median(figures[place][figure] for figures in rounds) for figure in ("rate", "p50", "p99")}
            for place in range(len(connections))
        ]
        cells = [f"{cell['rate']:,.0f} ({cell['p50']:.1f}, {cell['p99']:.1f})" for cell in medians]
        rows.append((medians[-1]["rate"], [*map(str, setting), *cells]))
    rows.sort(reverse=True)
    lines = [heads, ["---"] * len(heads), *(cells for _, cells in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def several(name: str, words: str, *default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    words += f" (default: {' '.join(map(str, default))})"
    return click.option(name, type=COUNT, multiple=True, default=default, metavar="N...", help=words)


@command("tune-serving", help=__doc__)
@model
@several("--workers", "processes that run the network", 1, 2)
@several("--batch-sizes", "requests that a worker takes at once, at most", 1, 4, 16)
@several("--delays", "milliseconds that an image may wait for others, from 1 because TorchServe takes 0 for 100", 1, 5)
@several("--connections", "requests under way at once; settings are ranked by the last value", 1, 32)
@torchserve_config
@click.option("--rounds", type=COUNT, default=3, metavar="N", help="how often all measurements are made (default: 3)")
@click.option("--seconds", type=COUNT, default=5, metavar="N", help="seconds of load in each measurement (default: 5)")
def main(
    model: Path,
    workers: tuple[int, ...],
    batch_sizes: tuple[int, ...],
    delays: tuple[int, ...],
    connections: tuple[int, ...],
    config: Path,
    rounds: int,
    seconds: int,
) -> None:
    need("wrk", "wrk")
    archive = whole_archive_of(model)
    settings = list(itertools.starmap(Setting, itertools.product(workers, batch_sizes, delays)))
    measured: dict[Setting, list[list[Figures]]] = defaultdict(list)
    with handling(interrupt), tempfile.TemporaryDirectory() as folder:
        for setting in tqdm(settings * rounds):
            measured[setting].append(measure(archive, setting, config, Path(folder), connections, seconds))
    print(table(measured, connections))


if __name__ == "__main__":
    main()

"""Find how many workers, images a batch and milliseconds of waiting serve an archive fastest on this machine.

    .venv/bin/python -m scripts.bench.tune_serving model_store/cifar10_cnn.mar --workers 1 2 --batch-sizes 8 16

Starts the product with each combination, checks that TorchServe has it in force, and loads it with wrk in turns. The
fastest belongs into handler/model-config.yaml; nothing else should run meanwhile.
"""

import argparse
import itertools
import shutil
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import yaml
from tqdm import tqdm

from gateway.torchserve.management import Management
from scripts.bench.benchmark import IMAGES, PRODUCT, ROOT, WARMING, Figures, load, photograph, running, systems
from training.files import write_digest

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
    """Serve the archive so, and load it. Raises SystemExit where TorchServe has something else in force."""
    with_setting(archive, setting, folder / "network.mar")
    (product,) = (system for system in systems(folder) if system.name == PRODUCT)
    product.command += ["--config", str(config)]
    image = folder / "small.jpg"
    image.write_bytes(photograph(IMAGES["small"], seed=0))
    with running(product, image.read_bytes()):
        client = Management(config, folder / "run" / "key_file.json", timeout=10)
        (described,) = client.describe()
        in_force = {name: described[name] for name in setting.in_yaml()} | {"ready": len(described["workers"])}
        if in_force != setting.in_yaml() | {"ready": setting.workers}:
            raise SystemExit(f"TorchServe was to run with {setting.in_yaml()}, but has {in_force} in force.")
        load(f"{product.url}/predict", image, max(connections), WARMING, "file")
        return [load(f"{product.url}/predict", image, count, seconds, "file") for count in connections]


def table(measured: dict[Setting, list[list[Figures]]], connections: Sequence[int]) -> str:
    """Return the medians over the rounds as a Markdown table, the most answers a second on top."""
    heads = ["workers", "batch", "delay", *(f"{count} connections: answers/s (p50, p99 ms)" for count in connections)]
    rows = []
    for setting, rounds in measured.items():
        medians = [
            {figure: median(each[place][figure] for each in rounds) for figure in ("rate", "p50", "p99")}
            for place in range(len(connections))
        ]
        cells = [f"{each['rate']:,.0f} ({each['p50']:.1f}, {each['p99']:.1f})" for each in medians]
        rows.append((medians[-1]["rate"], [*map(str, setting), *cells]))
    rows.sort(reverse=True)
    lines = [heads, ["---"] * len(heads), *(cells for _, cells in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--delays", type=int, nargs="+", default=[1, 5], help="milliseconds, from 1")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32], help="the last decides")
    parser.add_argument("--config", type=Path, default=ROOT / "config.properties")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of load in each measurement")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed; on Debian, apt-get install wrk.")
    if min(arguments.delays) < 1:
        raise SystemExit("TorchServe takes a delay of 0 for 100 milliseconds; name delays from 1.")
    settings = list(
        itertools.starmap(Setting, itertools.product(arguments.workers, arguments.batch_sizes, arguments.delays))
    )
    measured: dict[Setting, list[list[Figures]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        for setting in tqdm(settings * arguments.rounds):
            figures = measure(
                arguments.archive, setting, arguments.config, Path(name), arguments.connections, arguments.seconds
            )
            measured[setting].append(figures)
    print(table(measured, arguments.connections))


if __name__ == "__main__":
    main()

"""Compare the product with the servers that you might build instead, each alone on the machine, in turns.

    classifier bench serving cifar10_cnn --output docs/benchmark
    classifier bench serving my.mar --rounds 2 --systems product embedded
    classifier bench serving my.mar --minutes 10

A checkpoint is packed first. All serve the network of the archive: the product and fastapi_onnx as ONNX, the other
peers as TorchScript. Writes <output>.json and .png, and prints the medians over the rounds. With --minutes it
loads the product alone for so long, and prints the figures of each minute. It needs wrk and the extra `bench`; nothing
else should run meanwhile.
"""

import contextlib
import io
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import matplotlib
import numpy as np
import psutil
import requests
from matplotlib import pyplot
from PIL import Image
from skimage import data
from tqdm import tqdm

from gateway.torchserve.properties import MODEL, read_properties
from training.archive import archive_of
from training.commands import COUNT, PATH, command, model, output
from training.files import check_digest, save_figure, write_digest, write_whole
from training.outcome import Stopped
from training.project import ONNX_ZIP, ROOT
from training.signals import handling, interrupt

IMAGES = {"small": (32, 32), "medium": (640, 480), "large": (4000, 3000)}  # pixels
CONNECTIONS = {"small": (1, 32, 128), "medium": (1, 32, 128), "large": (1, 8, 32)}  # of 128 large ones it refuses some
CELLS = [(image, count) for image, counts in CONNECTIONS.items() for count in counts]
FILES = 10_000  # of the batch prediction
PRODUCT, EMBEDDED = "product", "embedded"
PEERS = ("flask", "fastapi", "litserve")  # with TorchScript; the fastest of them is compared with
OTHERS = ("bentoml", "fastapi_onnx")
SYSTEMS = (PRODUCT, EMBEDDED, *PEERS, *OTHERS)
START_TIMEOUT = 60  # seconds
STOP_TIMEOUT = 15  # seconds
WARMING_SECONDS = 4
TIMES_AS_LONG = {"large": 2}  # because only a few large images are answered a second
CONFIG = ROOT / "config.properties"
IDLE_CORES = 0.3  # of a core; LitServe looks for work all the time
PARTS = {"gunicorn": "gateway", "ModelServer": "Java", "model_service_worker": "workers"}  # of the product, by command
OTHER = "other"  # processes: those of a peer, for instance
Figures = dict[str, float]


@dataclass
class System:
    """One way of serving: the command that starts it, and where it then answers."""

    name: str
    command: list[str]
    url: str


def systems(folder: Path, config: Path = CONFIG, draft: bool = False) -> list[System]:
    """Return the product and its peers, which serve what `prepare` has laid out in a folder, on a port that is free.

    `config` is the TorchServe configuration of the product, and has its other ports. With `draft` the peers decode as
    the product does: a JPEG at the size that the network needs.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    product = ["scripts.serve", str(folder / "network.mar"), "--run", str(folder / "run")]
    product += ["--config", str(config.resolve())]
    modules = {PRODUCT: product, EMBEDDED: [*product, "--backend", EMBEDDED]}
    options = ["--draft"] if draft else []
    modules |= {name: ["scripts.bench.peers", name, str(folder), *options] for name in (*PEERS, *OTHERS)}
    url = f"http://127.0.0.1:{port}"
    return [System(name, [sys.executable, "-m", *rest, "--port", port], url) for name, rest in modules.items()]


def prepare(archive: Path, folder: Path) -> None:
    """Lay out everything that is served or sent: the archive, and what the peers need of it; images."""
    shutil.copy(archive, folder / "network.mar")
    write_digest(folder / "network.mar", archive)
    with zipfile.ZipFile(archive) as packed:
        (network,) = (name for name in packed.namelist() if name.endswith(".pt"))
        (folder / "network.pt").write_bytes(packed.read(network))
        for name in ("network.onnx", "model_card.json"):
            (folder / name).write_bytes(packed.read(name))
    for name, size in IMAGES.items():
        (folder / f"{name}.jpg").write_bytes(photograph(size, seed=0))
    (folder / "files").mkdir()
    for number in range(FILES):
        (folder / "files" / f"{number:05}.jpg").write_bytes(photograph(IMAGES["small"], seed=number))


def photograph(size: tuple[int, int], seed: int) -> bytes:
    """Return a JPEG of a photograph with the grain of a camera, without which a large one would be too easy."""
    random = np.random.default_rng(seed)
    pixels = np.asarray(Image.fromarray(data.astronaut()).resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    grainy = (pixels + random.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grainy).save(file, "JPEG", quality=90)
    return file.getvalue()


@contextlib.contextmanager
def running(system: System, image: bytes) -> Iterator[tuple[psutil.Process, float]]:
    """Start a system; yields its process and the seconds until it had predicted an image."""
    started = time.monotonic()
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(system.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        watched = psutil.Process(process.pid)
        try:
            while not _predicts(system.url, image):
                if process.poll() is not None or time.monotonic() - started > START_TIMEOUT:
                    log.seek(0)
                    raise Stopped(f"{system.name} did not start:\n{log.read().decode()}")
                time.sleep(0.02)
            yield watched, time.monotonic() - started
        finally:
            if process.poll() is None:
                stop(watched)


def stop(process: psutil.Process) -> None:
    """Ask a system to end, and kill what is left of it after a while."""
    family = process.children(recursive=True)
    process.terminate()
    _, left = psutil.wait_procs([process, *family], timeout=STOP_TIMEOUT)
    for process in left:
        process.kill()


def _predicts(url: str, image: bytes) -> bool:
    with requests.Session() as session:
        session.trust_env = False  # a proxy for the web does not lead to this machine
        try:
            return session.post(f"{url}/predict", files={"file": image}, timeout=60).ok
        except requests.RequestException:
            return False


def load(url: str, image: Path, connections: int, seconds: int, *arguments: str) -> Figures:
    """Send an image over and over; returns answers a second and latencies in milliseconds."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", "60s", "--script", "scripts/bench/predict.lua", url, "--", str(image), *arguments]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    figures = json.loads(printed.splitlines()[-1])
    if figures["failed"]:
        raise Stopped(
            f"{figures['failed']} requests to {url} failed, of {image.name} on {connections} connections. "
            "Stop other programs that use the processor or the ports, and run the command again."
        )
    return figures


def settle(process: psutil.Process) -> None:
    """Wait until a system has finished the work of one load, so that it does not slow the next one."""
    busy = 1.0
    while busy > IDLE_CORES:
        before = sum(cpu_seconds(process).values())
        time.sleep(0.5)
        busy = (sum(cpu_seconds(process).values()) - before) / 0.5


def cpu_seconds(process: psutil.Process) -> dict[str, float]:
    """Return the CPU time that a process and its children have taken, by PARTS."""
    taken: dict[str, float] = defaultdict(float)
    for member in [process, *process.children(recursive=True)]:
        command = " ".join(member.cmdline())
        part = next((part for word, part in PARTS.items() if word in command), OTHER)
        taken[part] += sum(member.cpu_times()[:2])
    return taken


def memory(process: psutil.Process) -> float:
    """Return what a process and its children take, in MiB, pages they share counted once."""
    return sum(member.memory_full_info().pss for member in [process, *process.children(recursive=True)]) / 2**20


def measure(system: System, folder: Path, seconds: int, config: Path = CONFIG) -> dict[str, Figures]:
    """Start a system, load it in every way, and return its figures."""
    url, small = f"{system.url}/predict", folder / "small.jpg"
    with running(system, small.read_bytes()) as (process, start):
        load(url, small, 32, WARMING_SECONDS, "file")
        figures = {}
        if system.name == PRODUCT:
            figures["files"] = {"rate": batch_prediction(folder, system.url)}
            figures["torchserve small 32"] = load(*_torchserve(folder / "run", config, small, seconds))
        for image, connections in CELLS:
            settle(process)
            duration, before = seconds * TIMES_AS_LONG.get(image, 1), cpu_seconds(process)
            loaded = load(url, folder / f"{image}.jpg", connections, duration, "file")
            for part, taken in cpu_seconds(process).items():
                loaded[f"cpu {part}"] = 1000 * (taken - before[part]) / (loaded["rate"] * duration)
            figures[f"{image} {connections}"] = loaded
        figures["process"] = {"start": start, "memory": memory(process)}
    return figures


def _torchserve(run: Path, config: Path, image: Path, seconds: int) -> tuple[Any, ...]:
    """Return the arguments of `load` for the TorchServe of the running product."""
    address = read_properties(config)["inference_address"]
    key = json.loads((run / "key_file.json").read_text())["inference"]["key"]
    return f"{address}/predictions/{MODEL}", image, 32, seconds, "data", key


def batch_prediction(folder: Path, url: str) -> float:
    """Return how many files a second the product's command predicts."""
    command = [sys.executable, "-m", "scripts.batch_predict", str(folder / "files")]
    command += ["-o", str(folder / "predictions.csv"), "--url", url]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return FILES / (time.monotonic() - started)


def plain_loop(folder: Path) -> float:
    """Return how many files a second a loop of PyTorch predicts, in batches of 64 on two threads."""
    command = [sys.executable, "-m", "scripts.bench.peers", "loop", str(folder)]
    return float(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def by_minute(folder: Path, minutes: int, seconds: int = 60, config: Path = CONFIG) -> Iterator[Figures]:
    """Load the product with small images on 32 connections; yields the figures of each minute."""
    product = systems(folder, config)[0]
    small = folder / "small.jpg"
    with running(product, small.read_bytes()):
        for _ in range(minutes):
            yield load(f"{product.url}/predict", small, 32, seconds, "file")


Rounds = dict[str, dict[str, list[Figures]]]  # of a system, of a cell: one entry a round


def run(folder: Path, rounds: int, seconds: int, contenders: list[System], config: Path = CONFIG) -> Rounds:
    """Measure every system once a round, in an order that turns."""
    measured: Rounds = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        turned = contenders[number % len(contenders) :] + contenders[: number % len(contenders)]
        for system in tqdm(turned, desc=f"round {number + 1} of {rounds}", leave=False):
            for cell, figures in measure(system, folder, seconds, config).items():
                measured[system.name][cell].append(figures)
        measured["loop"]["files"].append({"rate": plain_loop(folder)})
    return measured


def verdicts(measured: Rounds) -> list[tuple[str, float, str]]:
    """Return what was aimed at: its name, the median over the rounds of a ratio or of seconds, and the aim."""

    def ratios(
        cell: str, figure: str, best: Callable[[Iterable[float]], float], names: Iterable[str], of: str = PRODUCT
    ) -> float:
        ours = measured[of][cell]
        theirs = [best(measured[name][cell][number][figure] for name in names) for number in range(len(ours))]
        return median(mine[figure] / other for mine, other in zip(ours, theirs, strict=True))

    product, embedded = measured[PRODUCT], measured[EMBEDDED]
    direct = zip(product["small 32"], product["torchserve small 32"], strict=True)
    rows = []
    for image, connections, rate, embedded_rate in (
        ("small", 32, "≥ 2", "≥ 3"),
        ("small", 128, "≥ 2.2", "≥ 3"),
        ("medium", 32, "≥ 1.6", "≥ 2.3"),
        ("large", 8, "≥ 4", "≥ 4"),
    ):
        cell, named = f"{image} {connections}", f"{image}, {connections} connections"
        rows.append((f"{named}, rate to the fastest peer's", ratios(cell, "rate", max, PEERS), rate))
        rows.append((f"{named}, embedded, the same", ratios(cell, "rate", max, PEERS, EMBEDDED), embedded_rate))
        if image != "large":
            to_onnx = ratios(cell, "rate", max, ["fastapi_onnx"], EMBEDDED)
            rows.append((f"{named}, embedded, rate to that of FastAPI with ONNX", to_onnx, "≥ 1.3"))
        if image == "small":
            rows.append((f"{named}, p99 to the best peer's", ratios(cell, "p99", min, PEERS), "≤ 0.6"))
    rows += [
        ("small, 1 connection, p50 to FastAPI's", ratios("small 1", "p50", min, ["fastapi"]), "≤ 2"),
        ("small, 1 connection, embedded, the same", ratios("small 1", "p50", min, ["fastapi"], EMBEDDED), "≤ 0.65"),
        ("rate to that of TorchServe alone", median(ours["rate"] / alone["rate"] for ours, alone in direct), "≥ 0.7"),
        ("files a second to a plain loop's", ratios("files", "rate", max, ["loop"]), "≥ 1.2"),
        ("memory to that of the Flask process", ratios("process", "memory", min, ["flask"]), "< 2"),
        ("memory of the embedded backend, MiB", median(figures["memory"] for figures in embedded["process"]), "≤ 350"),
        ("seconds from start to first prediction", median(figures["start"] for figures in product["process"]), "≤ 12"),
        ("the same of the embedded backend", median(figures["start"] for figures in embedded["process"]), "≤ 3"),
    ]
    return rows


def table(measured: Rounds) -> str:
    """Return the medians as a Markdown table: answers a second, and the 50th and 99th percentile of milliseconds."""
    names = [name for name in SYSTEMS if name in measured]
    lines = ["| image, connections | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for image, connections in CELLS:
        cells = []
        for name in names:
            rounds = measured[name][f"{image} {connections}"]
            rate, p50, p99 = (median(figures[figure] for figures in rounds) for figure in ("rate", "p50", "p99"))
            cells.append(f"{rate:,.0f} ({p50:,.1f}, {p99:,.1f})")
        lines.append(f"| {image}, {connections} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cpu_table(measured: Rounds) -> str:
    """Return the milliseconds of a core for an answer as a Markdown table, medians; of the product by its parts."""
    names = [name for name in SYSTEMS if name in measured]
    parts = [(name, part) for name in names for part in (PARTS.values() if name == PRODUCT else [""])]
    heads = [part if name == PRODUCT else name for name, part in parts]
    lines = ["| image, connections | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for image, connections in CELLS:
        cells = []
        for name, part in parts:
            rounds = measured[name][f"{image} {connections}"]
            taken = (sum(value for key, value in each.items() if key.startswith(f"cpu {part}")) for each in rounds)
            cells.append(f"{median(taken):.2f}")
        lines.append(f"| {image}, {connections} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(measured: Rounds, path: Path) -> None:
    """Draw answers a second, a group of bars for each image and number of connections."""
    names = [name for name in SYSTEMS if name in measured]
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(1, len(IMAGES), figsize=(11, 3.2), layout="constrained")
    for axis, image in zip(axes, IMAGES, strict=True):
        counts = [connections for name, connections in CELLS if name == image]
        for place, name in enumerate(names):
            heights = [median(figures["rate"] for figures in measured[name][f"{image} {count}"]) for count in counts]
            axis.bar(np.arange(len(counts)) + place * 0.8 / len(names), heights, 0.8 / len(names), label=name)
        width, height = IMAGES[image]
        axis.set_title(f"JPEG of {width} × {height} pixels")
        axis.set_xticks(np.arange(len(counts)) + 0.3, [f"{count}" for count in counts])
        axis.set_xlabel("connections")
    axes[0].set_ylabel("answers a second")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    save_figure(figure, path, dpi=110)


def need(program: str, package: str) -> None:
    """Raise Stopped if a program is not installed."""
    if not shutil.which(program):
        raise Stopped(f"{program} is not installed; on Debian, apt-get install {package}.")


def whole_archive_of(model: Path) -> Path:
    """Return the archive of a checkpoint, which is packed first, or an archive for TorchServe. Raises Stopped.

    It must not have changed.
    """
    if model.name.endswith(ONNX_ZIP):
        raise Stopped(f"{model} has no TorchScript, which the others run; name the checkpoint or a .mar file.")
    archive = archive_of(model)
    check_digest(archive)
    return archive


torchserve_config = click.option(
    "--config",
    type=PATH,
    default=CONFIG,
    metavar="FILE",
    help="TorchServe's configuration (default: config.properties)",
)


@command("serving", help=__doc__)
@model
@click.option("--rounds", type=COUNT, default=5, metavar="N", help="how often all measurements are made (default: 5)")
@click.option("--seconds", type=COUNT, default=6, metavar="N", help="seconds of load in each measurement (default: 6)")
@output("path of the results, without suffix (default: runs/benchmark)", "PATH", default="runs/benchmark")
@click.option(
    "--systems",
    "names",
    type=click.Choice(SYSTEMS),
    multiple=True,
    default=SYSTEMS,
    metavar="NAME...",
    help="systems to measure (default: all)",
)
@torchserve_config
@click.option("--draft", is_flag=True, help="let the peers, too, decode JPEG at the size that the network needs")
@click.option("--minutes", type=COUNT, metavar="N", help="load the product alone, and measure minute by minute")
def main(
    model: Path,
    rounds: int,
    seconds: int,
    output: Path,
    names: tuple[str, ...],
    config: Path,
    draft: bool,
    minutes: int | None,
) -> None:
    need("wrk", "wrk")
    archive = whole_archive_of(model)
    with handling(interrupt), tempfile.TemporaryDirectory() as folder:  # so that no server is left behind
        prepare(archive, Path(folder))
        if minutes:
            for number, figures in enumerate(by_minute(Path(folder), minutes, config=config), start=1):
                rate, p50, p99 = (figures[figure] for figure in ("rate", "p50", "p99"))
                print(f"minute {number}: {rate:.0f} answers/s, p50 {p50:.1f}, p99 {p99:.1f} ms", flush=True)
            return
        contenders = [system for system in systems(Path(folder), config, draft) if system.name in names]
        measured = run(Path(folder), rounds, seconds, contenders, config)
    write_whole(output.with_suffix(".json"), json.dumps(measured, indent=1))
    draw(measured, output.with_suffix(".png"))
    print(table(measured), "milliseconds of a core for an answer:", cpu_table(measured), sep="\n\n")
    if set(SYSTEMS) <= measured.keys():
        print("", *(f"{name}: {value:.2f} (aim {aim})" for name, value, aim in verdicts(measured)), sep="\n")


if __name__ == "__main__":
    main()

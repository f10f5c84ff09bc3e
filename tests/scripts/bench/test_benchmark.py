"""The benchmark's peers answer as the product does, and its figures are worked out as it says."""

import io
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
import pytest
import requests
import torch
from PIL import Image

from handler.transforms import Preprocessing, read_pixels
from scripts.bench import benchmark
from scripts.bench.benchmark import CELLS, EMBEDDED, PEERS, PRODUCT, System, load, measure, photograph, prepare, systems
from scripts.bench.peers import Model
from tests.conftest import CommandFailed, run_module
from tests.drawing import draw, encode
from tests.stack import ROOT, Stack, wait_until, write_config
from training.outcome import Stopped


@pytest.fixture(scope="module")
def folder(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "FILES", 70)
        prepare(archive, folder)
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    """Ports on which no other TorchServe of this machine listens."""
    return write_config(folder / "config.properties")


@pytest.mark.parametrize("module", ["benchmark", "tune_serving"])
def test_a_missing_archive_is_named(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"scripts.bench.{module}.need", lambda *program: None)
    with pytest.raises(CommandFailed, match=rf"^There is no archive {tmp_path}/none.mar; build it with 'classifier"):
        run_module(f"scripts.bench.{module}", tmp_path / "none.mar")
    with pytest.raises(CommandFailed, match=r"^There is no checkpoint 'none'; name a file, or one of: cifar10_cnn, "):
        run_module(f"scripts.bench.{module}", "none")


@pytest.mark.parametrize("name", ["embedded", "flask", "fastapi", "litserve", "bentoml", "fastapi_onnx"])
def test_peers_answer_as_the_product_does(name: str, folder: Path, config: Path, stack: Stack) -> None:
    image = encode(draw("red", 3))
    expected = requests.post(f"{stack.url}/predict", files={"file": image}).json()
    (system,) = (each for each in systems(folder, config) if each.name == name)
    with benchmark.running(system, image):
        answer = requests.post(f"{system.url}/predict", files={"file": image}).json()
        figures = load(f"{system.url}/predict", folder / "medium.jpg", 2, 1, "file")
    assert answer["class_probabilities"] == pytest.approx(expected["class_probabilities"], abs=1e-5)
    assert answer["predicted_class"] == "red"
    assert figures["rate"] > 1
    assert 0 < figures["p50"] <= figures["p99"]


def test_peers_may_decode_as_the_product_does(folder: Path) -> None:
    whole, reduced = (Model(folder, draft) for draft in (False, True))
    photo = photograph((640, 480), seed=1)
    (ours,) = read_pixels(photo, reduced.inputs)
    assert (reduced.decode(photo)[0] == ours).all()
    assert (whole.decode(photo)[0] != ours).any()
    assert reduced.predict(photo)["predicted_class"] == whole.predict(photo)["predicted_class"]


class SizeOfInputs(torch.nn.Module):
    """A network with two inputs, which answers how large they are."""

    def forward(self, images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        sides = torch.stack([each.mean(dim=[1, 2, 3]) * 0 + each.shape[3] for each in images], dim=1)
        return sides, sides[:, 0]


def test_peers_take_a_network_with_several_inputs(tmp_path: Path) -> None:
    inputs = [Preprocessing(size)._asdict() for size in (32, 64)]
    (tmp_path / "model_card.json").write_text(json.dumps({"classes": ["small", "large"], "preprocessing": inputs}))
    torch.jit.script(SizeOfInputs()).save(str(tmp_path / "network.pt"))
    answer = Model(tmp_path, draft=True).predict(photograph((640, 480), seed=1))
    assert answer["predicted_class"] == "large"


def test_a_system_that_fails_is_not_measured(folder: Path) -> None:
    with pytest.raises(Stopped, match=r"(?s)lost did not start.*No module named"):
        measure(System("lost", ["python3", "-m", "scripts.no_such_peer"], "http://127.0.0.1:9"), folder, 1)


@pytest.mark.parametrize(("module", "step"), [("benchmark", "prepare"), ("tune_serving", "measure")])
def test_sigterm_ends_it_as_ctrl_c_does(module: str, step: str, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no server is left behind."""
    monkeypatch.setattr(f"scripts.bench.{module}.{step}", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(CommandFailed, match="Interrupted"):
        run_module(f"scripts.bench.{module}", archive)


def test_requests_that_fail_end_the_benchmark(folder: Path, stack: Stack) -> None:
    with pytest.raises(Stopped, match="failed"):
        load(f"{stack.url}/predict", folder / "small.jpg", 1, 1, "other")


def test_what_a_load_left_behind_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter([0.0, 0.5, 0.5, 0.9, 0.9, 0.91])  # seconds of CPU, before and after each look
    monkeypatch.setattr(benchmark, "cpu_seconds", lambda process: {"gateway": next(busy)})
    benchmark.settle(psutil.Process())
    assert list(busy) == []


def test_the_cpu_of_all_processes_of_a_system_counts() -> None:
    counting = "(while ((number++ < 300000)); do :; done; read); :"  # in a child of the system
    with subprocess.Popen(["bash", "-c", counting, "gunicorn"], stdin=subprocess.PIPE) as system:
        wait_until(lambda: benchmark.cpu_seconds(psutil.Process(system.pid))["gateway"] > 0.1)
        system.communicate(b"\n")


def test_each_minute_is_measured(folder: Path, config: Path) -> None:
    (minute,) = benchmark.by_minute(folder, 1, seconds=1, config=config)
    assert minute["rate"] > 1
    assert minute["p99"] > 0


def test_plain_loop_classifies_every_file(folder: Path) -> None:
    assert len(list((folder / "files").iterdir())) == 70
    assert benchmark.plain_loop(folder) > 1


def test_photographs_are_as_large_as_said_and_alike_for_a_seed() -> None:
    image = photograph((640, 480), seed=1)
    assert Image.open(io.BytesIO(image)).size == (640, 480)
    assert image == photograph((640, 480), seed=1) != photograph((640, 480), seed=2)


def test_verdicts_are_medians_over_the_rounds_of_ratios_to_the_best_peer(tmp_path: Path) -> None:
    cpu = {"cpu gateway": 0.5, "cpu Java": 0.25}
    measured: benchmark.Rounds = {
        name: {
            cell: [
                {"rate": rate * slow, "p50": 10 / rate, "p99": 20 / rate, "start": 5, "memory": 100, **cpu}
                for slow in (1, 2, 3)
            ]
            for cell in [*(f"{image} {count}" for image, count in CELLS), "process", "files", "torchserve small 32"]
        }
        for name, rate in (
            (PRODUCT, 800),
            (EMBEDDED, 900),
            ("flask", 100),
            ("fastapi", 400),
            ("litserve", 200),
            ("bentoml", 150),
            ("fastapi_onnx", 450),
            ("loop", 1000),
        )
    }
    values = {name: value for name, value, _ in benchmark.verdicts(measured)}
    assert values["small, 32 connections, rate to the fastest peer's"] == 2
    assert values["small, 32 connections, p99 to the best peer's"] == 0.5
    assert values["files a second to a plain loop's"] == 0.8
    assert values["rate to that of TorchServe alone"] == 1
    assert values["medium, 32 connections, embedded, the same"] == 2.25
    assert values["small, 32 connections, embedded, rate to that of FastAPI with ONNX"] == 2
    assert "| large, 8 | 1,600 (0.0, 0.0) | 1,800 (0.0, 0.0) | 200 (0.1, 0.2) |" in benchmark.table(measured)
    assert "| large, 8 | 0.50 | 0.25 | 0.00 | 0.75 | 0.75 |" in benchmark.cpu_table(measured)
    benchmark.draw(measured, tmp_path / "chart.png")
    assert Image.open(tmp_path / "chart.png").size[0] > 1000


def test_the_published_tables_are_those_of_the_published_rounds() -> None:
    measured = json.loads((ROOT / "docs/benchmark.json").read_text())
    assert benchmark.table(measured) in (ROOT / "docs/performance.md").read_text()

    def shown(system: str, cell: str, figure: str) -> str:
        middle = median(figures[figure] for figures in measured[system][cell])
        return f"{middle:,.0f}" if figure == "rate" else f"{middle:.1f}"

    def best(cell: str, figure: str, choose: Callable[..., str]) -> str:
        name = choose(PEERS, key=lambda peer: median(figures[figure] for figures in measured[peer][cell]))
        return shown(name, cell, figure)

    front = (ROOT / "README.md").read_text()
    for words, cell in (
        ("small JPEGs, 32 connections", "small 32"),
        ("640 × 480 pixels, 32 connections", "medium 32"),
        ("photos of 12 megapixels, 8 connections", "large 8"),
    ):
        cells = shown(PRODUCT, cell, "rate"), shown(EMBEDDED, cell, "rate"), best(cell, "rate", max)
        assert f"| {words} | {' | '.join(cells)} |" in front
    cells = shown(PRODUCT, "small 1", "p50"), shown(EMBEDDED, "small 1", "p50"), best("small 1", "p50", min)
    assert f"| milliseconds of one small JPEG at a time | {' | '.join(cells)} |" in front

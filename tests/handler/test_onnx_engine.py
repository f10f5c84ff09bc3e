"""An archive away from TorchServe: the same answers as in it."""

import gc
import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from errno import ENOSPC
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import requests

from handler import onnx_engine
from handler.onnx_engine import NETWORK, open_for_all, open_network
from tests.drawing import draw, encode
from tests.stack import Stack
from training.project import ROOT

ALONE = """
import json, sys
from pathlib import Path
from handler import onnx_engine

folder = Path(sys.argv[1])
assert onnx_engine.__file__.startswith(str(folder)), onnx_engine.__file__
loaded = onnx_engine.load(folder, threads=1)
replies = loaded.predict([loaded.read(Path(name).read_bytes()) for name in sys.argv[2:]])
others = [name for name in ("torch", "ts", "gateway", "training") if name in sys.modules]
print(json.dumps([{"modules": others}, *replies]))
"""


def test_answers_as_torchserve_does_from_the_archive_alone(stack: Stack, archive: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(archive).extractall(tmp_path / "unpacked")
    images = [encode(draw(colour, 3)) for colour in ("red", "blue", "green")]
    paths = [tmp_path / str(number) for number in range(3)]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    command = [sys.executable, "-c", ALONE, *map(str, [tmp_path / "unpacked", *paths, archive])]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "unpacked")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    others, *replies, refused = json.loads(done.stdout)
    assert others == {"modules": []}
    assert refused["status"] == 415
    for image, reply in zip(images, replies, strict=True):
        served = requests.post(f"{stack.url}/predict", files={"file": image}).json()
        assert reply.keys() == served.keys()
        for field in ("predicted_class", "in_distribution", "version"):
            assert reply[field] == served[field]
        assert reply["class_probabilities"] == pytest.approx(served["class_probabilities"], abs=1e-5)
        assert reply["in_distribution_score"] == pytest.approx(served["in_distribution_score"], rel=1e-4)


@pytest.mark.parametrize("module", ["handler.onnx_engine", "gateway.app", "training.quantise", "scripts.bench.peers"])
def test_tells_nobody_about_this_machine(module: str, archive: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(archive).extractall(tmp_path / "unpacked")
    (tmp_path / "home").mkdir()
    load = "from handler import onnx_engine; onnx_engine.load(pathlib.Path(sys.argv[1]), threads=1)"
    command = [sys.executable, "-c", f"import sys, pathlib, {module}; {load}", str(tmp_path / "unpacked")]
    environment = {"HOME": str(tmp_path / "home")}  # and no CI, which silences ONNX Runtime
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert not [path.name for path in (tmp_path / "home").rglob("*") if "onnxruntime" in path.name]


def test_the_threads_of_a_call_have_the_priority_of_its_caller(archive: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(archive).extractall(tmp_path)
    network = open_for_all(tmp_path / NETWORK, threads=3)
    images = [np.zeros((1, 3, 32, 32), np.float32)]

    def call() -> list[int]:
        """Call the network, and return by how much each new thread of this process gives way."""
        before = set(os.listdir("/proc/self/task"))
        network(images)
        return [os.getpriority(os.PRIO_PROCESS, int(each)) for each in {*os.listdir("/proc/self/task")} - before]

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(1, initializer=partial(os.nice, 5)) as pool:
        assert pool.submit(call).result() == [usual + 5] * 2
    assert call() == []


@pytest.fixture
def two_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of two cores, one of them idle, and no quota; returns the folder with the files that say so."""
    (tmp_path / "loadavg").write_text("0.50 0.40 0.30 1/123 4567\n")
    monkeypatch.setattr(onnx_engine, "LOAD_FILE", tmp_path / "loadavg")
    monkeypatch.setattr(onnx_engine, "QUOTA_FILE", tmp_path / "cpu.max")
    monkeypatch.setattr(onnx_engine, "SLOW_SECONDS", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    return tmp_path


@pytest.fixture
def threads_used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads of each call of a network that is opened from now on."""
    used: list[int] = []
    network_of = onnx_engine._network

    def noting(session: onnx_engine.InferenceSession) -> onnx_engine.Network:
        network, threads = network_of(session), session.get_session_options().intra_op_num_threads

        def run(images: list[onnx_engine.Normalised]) -> tuple[onnx_engine.Normalised, onnx_engine.Normalised]:
            used.append(threads)
            return network(images)

        return run

    monkeypatch.setattr(onnx_engine, "_network", noting)
    return used


@pytest.mark.parametrize(("images", "niceness", "threads"), [(1, 0, 2), (2, 0, 1), (1, 5, 1)])
def test_a_single_image_has_a_second_core_that_is_idle(
    archive: Path, two_cores: Path, threads_used: list[int], images: int, niceness: int, threads: int
) -> None:
    zipfile.ZipFile(archive).extractall(two_cores)
    network = open_for_all(two_cores / NETWORK, threads=1)
    pixels = [np.random.default_rng(0).normal(size=(images, 3, 32, 32)).astype(np.float32)]
    with ThreadPoolExecutor(1, initializer=partial(os.nice, niceness)) as pool:
        logits, scores = pool.submit(network, pixels).result()
    assert threads_used[-1] == threads
    expected = open_network(two_cores / NETWORK, threads=1)(pixels)
    np.testing.assert_allclose(logits, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores, expected[1], rtol=1e-4)


@pytest.mark.parametrize("running", [0, 2, 9], ids=["untold", "busy", "busier"])
def test_a_core_that_may_be_busy_is_left_alone(
    archive: Path, two_cores: Path, threads_used: list[int], running: int
) -> None:
    zipfile.ZipFile(archive).extractall(two_cores)
    network = open_for_all(two_cores / NETWORK, threads=1)
    (two_cores / "loadavg").write_text(f"0.50 0.40 0.30 {running}/123 4567\n")
    network([np.zeros((1, 3, 32, 32), np.float32)])
    assert threads_used[-1] == 1


@pytest.mark.parametrize("lack", ["cores", "affinity", "quota", "load", "slowness"])
def test_there_is_one_thread_where_a_second_one_would_not_help(
    archive: Path, two_cores: Path, threads_used: list[int], monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    zipfile.ZipFile(archive).extractall(two_cores)
    if lack == "quota":
        (two_cores / "cpu.max").write_text("200000 100000\n")
    elif lack == "load":
        (two_cores / "loadavg").unlink()
    else:
        function, result = {
            "cores": ("os.cpu_count", lambda: 1),
            "affinity": ("os.sched_getaffinity", lambda _: {0}),
            "slowness": ("handler.onnx_engine._cpu_seconds", lambda *_: 0),
        }[lack]
        monkeypatch.setattr(function, result)
    open_for_all(two_cores / NETWORK, threads=1)([np.zeros((1, 3, 32, 32), np.float32)])
    assert set(threads_used) == {1}


def test_a_full_disk_costs_the_second_thread_alone(
    archive: Path,
    two_cores: Path,
    threads_used: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    zipfile.ZipFile(archive).extractall(two_cores)
    monkeypatch.setattr(onnx_engine, "TemporaryDirectory", Mock(side_effect=OSError(ENOSPC, "No space left on device")))
    open_for_all(two_cores / NETWORK, threads=1)([np.zeros((1, 3, 32, 32), np.float32)])
    assert threads_used == [1]
    assert "No space left on device" in caplog.text


def test_leaves_no_file_behind(archive: Path, two_cores: Path) -> None:
    zipfile.ZipFile(archive).extractall(two_cores / "unpacked")
    before = sorted((two_cores / "unpacked").rglob("*"))
    network = open_for_all(two_cores / "unpacked" / NETWORK, threads=1)
    assert sorted((two_cores / "unpacked").rglob("*")) == before
    opened = len(os.listdir("/proc/self/fd"))
    del network
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < opened

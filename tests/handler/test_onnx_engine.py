"""An archive away from TorchServe: the same answers as in it."""

import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

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


@pytest.mark.parametrize(
    ("running", "images", "slow", "niceness", "threads"),
    [
        (1, 1, True, 0, 2),
        (3, 1, True, 0, 1),  # no core is idle
        (0, 1, True, 0, 1),  # a machine that does not say
        (1, 2, True, 0, 1),
        (1, 1, False, 0, 1),
        (1, 1, True, 5, 1),
    ],
)
def test_an_image_alone_has_a_second_core_that_is_idle(
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    running: int,
    images: int,
    slow: bool,
    niceness: int,
    threads: int,
) -> None:
    zipfile.ZipFile(archive).extractall(tmp_path)
    (tmp_path / "loadavg").write_text(f"0.50 0.40 0.30 {running}/123 4567\n")
    monkeypatch.setattr(onnx_engine, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(onnx_engine, "SLOW_SECONDS", 0 if slow else 60)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    opened: list[int] = []
    used: list[int] = []

    def noting(session: onnx_engine.InferenceSession) -> onnx_engine.Network:
        count = session.get_session_options().intra_op_num_threads
        opened.append(count)
        return lambda images: used.append(count) or network_of(session)(images)  # type: ignore[func-returns-value]

    network_of = onnx_engine._network
    monkeypatch.setattr(onnx_engine, "_network", noting)
    network = open_for_all(tmp_path / NETWORK, threads=1)
    assert opened == [1, 2][: 1 + slow]
    pixels = np.random.default_rng(0).normal(size=(images, 3, 32, 32)).astype(np.float32)
    with ThreadPoolExecutor(1, initializer=partial(os.nice, niceness)) as pool:
        logits, scores = pool.submit(network, [pixels]).result()
    assert used == [threads]
    expected = open_network(tmp_path / NETWORK, threads=1)([pixels])
    np.testing.assert_allclose(logits, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores, expected[1], rtol=1e-4)


def test_leaves_no_file_behind(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipfile.ZipFile(archive).extractall(tmp_path / "unpacked")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    onnx_engine.load(tmp_path / "unpacked", threads=1)
    assert not list((tmp_path / "temporary").iterdir())

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from tests.commands import FORKS
from tests.conftest import QUICK_RECIPE
from tests.drawing import THREE, draw_dataset
from tests.stack import HOWTO, ROOT, documented, free_ports, times, wait_until
from tests.training.double_precision import double_precision
from training import distributed
from training.checkpoint import build, load
from training.config import Recipe, RecipeError, load_recipe
from training.train import train


def join(rank: int, port: int) -> None:
    """Be one of two processes, as torchrun would start it."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.start()


def two_processes(target: Any, *arguments: object) -> None:
    """Call a function in two processes that have joined, and wait until both have ended well."""
    (port,) = free_ports(1)
    processes = [FORKS.Process(target=target, args=(rank, port, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def gradients(architecture: str) -> dict[str, Any]:
    """Return the gradients and the batch norms' statistics after a batch that the processes share."""
    torch.manual_seed(0)
    model = build({"architecture": architecture, "dropout": 0.0}, 4).double()
    images, labels = torch.randn(7, 3, 32, 32).double(), torch.arange(7) % 4
    mine = slice(distributed.rank(), None, distributed.world_size())
    parallel = distributed.parallel(model)
    logits = parallel(images[mine])
    loss = torch.nn.functional.cross_entropy(logits, labels[mine], reduction="sum") * distributed.world_size() / 7
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()} | dict(model.named_buffers())


def save_gradients(rank: int, port: int, architecture: str, folder: Path) -> None:
    join(rank, port)
    torch.save(gradients(architecture), folder / f"{rank}.pth")
    distributed.stop()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["cnn", "timm/test_efficientnet"])
def test_gradients_and_batch_norms_are_those_of_one_process(architecture: str, tmp_path: Path) -> None:
    two_processes(save_gradients, architecture, tmp_path)
    one = gradients(architecture)
    for rank in range(2):
        two = load(tmp_path / f"{rank}.pth")
        for name, value in one.items():
            assert torch.allclose(value, two[name], rtol=1e-9, atol=1e-12), name


def test_a_norm_of_bfloat16_counts_as_one_of_float32() -> None:
    torch.manual_seed(0)
    images = torch.randn(500, 4, 16, 16).bfloat16() + 3
    norms = distributed.GlobalBatchNorm2d(4), torch.nn.BatchNorm2d(4)
    ours, theirs = (norm(images) for norm in norms)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert torch.allclose(ours, theirs, atol=0.05)
    assert torch.allclose(norms[0].get_buffer("running_mean"), norms[1].get_buffer("running_mean"), atol=1e-3)


def train_with_seed_of_rank(rank: int, port: int, dataset: Path, folder: Path) -> None:
    join(rank, port)
    with pytest.raises(RecipeError, match="give all hosts the same"):
        train(Recipe.model_validate(QUICK_RECIPE | {"seed": rank}), dataset, folder, resume=False)
    distributed.stop()


@pytest.mark.slow
def test_processes_that_differ_do_not_begin(dataset: Path, tmp_path: Path) -> None:
    two_processes(train_with_seed_of_rank, dataset, tmp_path)


@pytest.fixture(scope="module")
def few(workspace: Path) -> Path:
    """Images of three classes, and so few that double precision takes no time."""
    return draw_dataset(workspace / "few", THREE, train=30, test=2)


@pytest.fixture(scope="module")
def short(workspace: Path) -> Path:
    """A recipe of three epochs of three batches, whose images do not share out evenly."""
    path, augment = workspace / "short.yaml", {"crop_padding": 2, "flip": "random", "mixup": 0.2, "cutmix": 1.0}
    changes = {"batch_size": 27, "epochs": 3, "optimizer": {"name": "sgd", "lr": 0.01}, "augment": augment}
    path.write_text(yaml.safe_dump(Recipe.model_validate(QUICK_RECIPE | changes).plain()))
    return path


def train_one_of_two(rank: int, port: int, recipe: Path, few: Path, folder: Path) -> None:
    join(rank, port)
    train(load_recipe(recipe), few, folder, resume=False)
    distributed.stop()


@pytest.mark.slow
def test_two_processes_differ_from_one_by_rounding_alone(short: Path, few: Path, tmp_path: Path) -> None:
    two_processes(train_one_of_two, short, few, tmp_path / "two")
    train(load_recipe(short), few, tmp_path / "one", resume=False)
    one, two = (load(tmp_path / name / "last.pth") for name in ("one", "two"))
    for row, other in zip(one["history"], two["history"], strict=True):
        for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
            assert abs(row[name] - other[name]) < 0.05, name
    # Single precision: a pixel that rounds to the other side of a maximum moves on from there. Two runs of one process
    # with other numbers of threads, or other kernels, lie about 0.02 apart in this measure.
    for name, value in one["best"].items():
        assert (value - two["best"][name]).double().norm() <= 0.2 * value.double().norm(), name


@pytest.fixture
def host(short: Path, few: Path, tmp_path: Path) -> Iterator[Any]:
    """Start the how-to's command once more, as on another host, in double precision."""
    (port,) = free_ports(1)
    places = {
        "torchrun": f"{sys.executable} -m torch.distributed.run",
        "first.example:29500": f"127.0.0.1:{port}",
        "training/recipes/cnn.yaml": short,
        "my-images": few,
        "/shared/cnn": tmp_path / "run",
        "training.train": "tests.training.double_precision",
    }
    command = [*documented(HOWTO, "torchrun", places), "--save-seconds", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    hosts = []

    def start() -> psutil.Popen:
        hosts.append(psutil.Popen(command, cwd=ROOT, env=environment))
        return hosts[-1]

    yield start
    for started in hosts:
        kill(started)


def kill(process: psutil.Popen) -> None:
    if process.is_running():
        for each in (*process.children(recursive=True), process):
            each.kill()
    process.wait()


@pytest.mark.slow
def test_two_hosts_train_as_one_process_does_though_one_is_lost(
    short: Path, few: Path, host: Any, tmp_path: Path
) -> None:
    hosts, last = [host(), host()], tmp_path / "run" / "last.pth"
    for _ in range(times(0, 1)):
        wait_until(last.exists)
        kill(hosts[1])
        assert hosts[0].wait() != 0
        assert len(load(last)["history"]) < 3
        hosts = [host(), host()]
    with double_precision():
        train(load_recipe(short), few, tmp_path / "alone", resume=False)
    assert [started.wait() for started in hosts] == [0, 0]

    one, two = load(tmp_path / "alone" / "last.pth"), load(last)
    assert one["model"]["head.weight"].dtype == torch.float64
    for part in ("model", "average"):
        for name, value in one[part].items():
            assert torch.allclose(value, two[part][name], rtol=1e-9, atol=1e-12), name
    for row, other in zip(one["history"], two["history"], strict=True):
        for name in row.keys() - {"seconds"}:
            assert row[name] == pytest.approx(other[name], rel=1e-9), name
    assert (tmp_path / "run" / "drawn.pth").exists()

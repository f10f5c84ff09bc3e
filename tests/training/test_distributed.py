import subprocess
import sys
from pathlib import Path

import torch
import yaml

from tests.conftest import QUICK_RECIPE
from tests.stack import ROOT
from training.checkpoint import load
from training.config import Recipe

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]

GRADIENTS = """
import sys
import torch
from training import distributed
from training.models import ARCHITECTURES

distributed.start()
torch.manual_seed(0)
model = ARCHITECTURES["cnn"](4, 0.0).double()
images, labels = torch.randn(7, 3, 32, 32).double(), torch.arange(7) % 4
mine = slice(distributed.rank(), None, distributed.world_size())
parallel = distributed.parallel(model)
logits = parallel(images[mine])
loss = torch.nn.functional.cross_entropy(logits, labels[mine], reduction="sum") * distributed.world_size() / 7
loss.backward()
if distributed.rank() == 0:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.save(gradients | dict(model.named_buffers()), sys.argv[1])
distributed.stop()
"""


def both_ways(folder: Path, module: list[str], *arguments: object) -> None:
    for name, launcher in {"one": [sys.executable], "two": TORCHRUN}.items():
        command = [*launcher, *module, *(str(argument).replace("*", name) for argument in arguments)]
        subprocess.run(command, cwd=ROOT, check=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def test_gradients_and_batch_norms_are_those_of_one_process(tmp_path: Path) -> None:
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    both_ways(tmp_path, [str(script)], tmp_path / "*.pth")
    one, two = (load(tmp_path / f"{name}.pth") for name in ("one", "two"))
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-9, atol=1e-12), name


def test_two_processes_train_as_one_does(dataset: Path, tmp_path: Path) -> None:
    recipe, changes = tmp_path / "recipe.yaml", {"batch_size": 120, "optimizer": {"name": "sgd", "lr": 0.01}}
    recipe.write_text(yaml.safe_dump(Recipe.model_validate(QUICK_RECIPE | changes).model_dump(mode="json")))
    arguments = ["--recipe", recipe, "--data", dataset, "--output", tmp_path / "*"]
    both_ways(tmp_path, ["-m", "training.train"], *arguments)

    one, two = (load(tmp_path / name / "last.pth") for name in ("one", "two"))
    for part in ("model", "average"):
        for name, value in one[part].items():
            # Single precision: a pixel that rounds to the other side of a maximum moves on from there.
            assert torch.allclose(value, two[part][name], rtol=1e-3, atol=5e-4), name
    for row, other in zip(one["history"], two["history"], strict=True):
        assert abs(row["train_loss"] - other["train_loss"]) < 1e-3
    assert (tmp_path / "two" / "drawn.pth").exists()

import subprocess
import sys
from pathlib import Path

import torch
import yaml

from tests.conftest import QUICK_RECIPE
from tests.stack import ROOT
from training.checkpoint import load
from training.config import Recipe


def test_two_processes_do_what_one_does(dataset: Path, tmp_path: Path) -> None:
    # Double precision is not on offer, so a gentle run keeps rounding from being amplified.
    changes = {
        "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.5},
        "batch_size": 50,
        "epochs": 2,
        "ema_decay": 0.5,
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(Recipe.model_validate(QUICK_RECIPE | changes).model_dump(mode="json")))
    launchers = {"one": [sys.executable], "two": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]}
    for name, launcher in launchers.items():
        arguments = ["--recipe", recipe, "--data", dataset, "--output", tmp_path / name]
        subprocess.run([*launcher, "-m", "training.train", *map(str, arguments)], cwd=ROOT, check=True)

    one, two = (load(tmp_path / name / "last.pth") for name in launchers)
    for part in ("model", "average"):
        assert all(torch.allclose(value, two[part][name], rtol=1e-3, atol=1e-5) for name, value in one[part].items())
    for row, other in zip(one["history"], two["history"], strict=True):
        assert abs(row["train_loss"] - other["train_loss"]) < 1e-4
        assert row["train_accuracy"] == other["train_accuracy"]
    assert (tmp_path / "two" / "drawn.pth").exists()

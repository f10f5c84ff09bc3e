"""Fine-tuning as the recipe photos does it: the head first, frozen norms, lower rates towards the images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.test_run import make_run


@pytest.fixture
def fine_tuning(tmp_path: Path) -> dict[str, Any]:
    """Return changes to a recipe: fine-tune a small network of timm as the recipe photos does."""
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "test_efficientnet.pth")
    return {
        "architecture": "timm/test_efficientnet",
        "initial": str(tmp_path),
        "input": {"size": 32, "fit": "squeeze", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        "optimizer": {"name": "adamw", "lr": 0.001, "layer_decay": 0.5, "weight_decay": 0.01},
        "head_first": {},
        "freeze_norms": True,
        "mixed_precision": True,
        "ema_decay": 0.9,
    }


def test_fits_the_head_first_so_that_learning_begins_with_what_it_knows(
    dataset: Path, fine_tuning: dict[str, Any]
) -> None:
    without = make_run(dataset, **fine_tuning | {"head_first": None, "epochs": 1}).train_epoch()
    fitted = make_run(dataset, **fine_tuning | {"epochs": 1}).train_epoch()
    assert fitted["train_loss"] < without["train_loss"] / 2


def test_frozen_norms_keep_the_statistics_of_the_initial_network(dataset: Path, fine_tuning: dict[str, Any]) -> None:
    for frozen in (True, False):
        run = make_run(dataset, **fine_tuning | {"freeze_norms": frozen})
        before = {name: value.clone() for name, value in run.model.named_buffers()}
        run.train_epoch()
        assert all(value.equal(before[name]) for name, value in run.model.named_buffers()) == frozen


def test_fine_tuning_resumes_at_any_batch_with_equal_results(dataset: Path, fine_tuning: dict[str, Any]) -> None:
    class Killed(Exception):
        pass

    def save() -> None:
        if killed.progress["batches"] == 2:
            raise Killed

    whole, killed, resumed = (make_run(dataset, **fine_tuning) for _ in range(3))
    whole.train_epoch()
    with pytest.raises(Killed):
        killed.train_epoch(save)
    resumed.load_state_dict(killed.state_dict())
    resumed.train_epoch()
    for name, value in whole.model.state_dict().items():
        assert value.equal(resumed.model.state_dict()[name]), name
    assert all(value.equal(resumed.best[name]) for name, value in whole.best.items())


def test_a_gpu_takes_bfloat16_and_compiles_a_long_run(
    dataset: Path, fine_tuning: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = make_run(dataset, **fine_tuning)
    assert not exact.mixed_precision  # on a CPU
    compiled: list[nn.Module] = []

    def note(model: nn.Module, device: torch.device) -> nn.Module:
        compiled.append(model)
        return model

    monkeypatch.setattr("training.distributed.has_bfloat16", lambda device, count_cpu: True)
    monkeypatch.setattr("training.distributed.compiled", note)
    run = make_run(dataset, **fine_tuning)
    assert run.train_epoch()["train_loss"] == pytest.approx(exact.train_epoch()["train_loss"], rel=0.1)
    assert all(value.dtype == torch.float32 for value in run.model.parameters())
    assert not run.model.state_dict()["head.weight"].equal(exact.model.state_dict()["head.weight"])
    assert not compiled
    make_run(dataset, **fine_tuning | {"epochs": 1000})
    assert len(compiled) == 1


def test_a_cpu_takes_bfloat16_only_if_the_recipe_says_anywhere_and_it_has_that(
    dataset: Path, fine_tuning: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for has in (True, False):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert not make_run(dataset, **fine_tuning).mixed_precision
        run = make_run(dataset, **fine_tuning | {"mixed_precision": "anywhere", "epochs": 1000})
        assert run.mixed_precision == has
        assert run.parallel is run.model  # not compiled

import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import QUICK_RECIPE
from tests.stack import ROOT
from training.checkpoint import load, load_checkpoint
from training.config import Recipe, RecipeError
from training.data import DataError, load_images, stratified_split
from training.train import Run, train

RECIPES = ROOT / "training" / "recipes"


def train_command(recipe: Path, data: Path, output: Path) -> list[str]:
    options = {"--recipe": recipe, "--data": data, "--output": output}
    return [sys.executable, "-m", "training.train", *(str(part) for option in options.items() for part in option)]


def test_writes_what_it_promises_and_says_how_it_went(trained: Path) -> None:
    written = {path.name for path in trained.iterdir()}
    histories = {"training_history.pth", "training_history.csv", "training_history.png"}
    assert written == {"drawn.pth", "last.pth", "printed.txt"} | histories
    lines = (trained / "printed.txt").read_text().splitlines()
    assert lines[0] == "drawn: 360 images to train on, 40 for validation"
    assert lines[1].startswith("epoch 1/2: train loss ")
    assert lines[2].endswith("at most 0 min left")
    assert "test accuracy" in lines[3]
    assert len(lines) == 4


def test_learns_what_it_is_shown(trained: Path) -> None:
    metrics = load_checkpoint(trained / "drawn.pth").card["metrics"]
    assert metrics["test"]["accuracy"] > 0.7
    first, last = load(trained / "training_history.pth")
    assert last["train_loss"] < first["train_loss"]


def test_shows_a_progress_bar_on_a_terminal(tmp_path: Path, dataset: Path, recipe: Path) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 120))
    process = subprocess.Popen(train_command(recipe, dataset, tmp_path), cwd=ROOT, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    assert b"epoch 1/2:" in shown
    assert b"%|" in shown
    assert b", accuracy " in shown
    os.close(leader)


def make_run(dataset: Path, **changes: object) -> Run:
    recipe = Recipe.model_validate(QUICK_RECIPE | changes)
    return Run(recipe, *stratified_split(load_images(dataset, "train"), 0.1, recipe.seed))


def test_stops_early_and_restores_the_best_weights(dataset: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(QUICK_RECIPE | {"epochs": 30, "patience": 2})
    path = train(recipe, dataset, tmp_path, resume=False)

    history = load(tmp_path / "training_history.pth")
    losses = [row["validation_loss"] for row in history]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(history) < 30
    assert len(history) == best + 1 + 2
    validation = load_checkpoint(path).card["metrics"]["validation"]
    assert validation["loss"] == pytest.approx(losses[best])


def test_best_weights_are_a_copy(dataset: Path) -> None:
    run = make_run(dataset)
    run.train_epoch()
    best = {name: value.clone() for name, value in run.best.items()}
    for parameter in run.model.parameters():
        parameter.data.add_(1)
    assert all(torch.equal(run.best[name], value) for name, value in best.items())


@pytest.mark.parametrize("schedule", [{"name": "step", "step_size": 1}, {"name": "one_cycle"}])
def test_resumed_equals_uninterrupted(dataset: Path, tmp_path: Path, schedule: dict) -> None:
    recipe = Recipe.model_validate(QUICK_RECIPE | {"epochs": 3, "dropout": 0.5, "schedule": schedule})
    whole = load_checkpoint(train(recipe, dataset, tmp_path / "whole", resume=False))

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump()))
    command = train_command(path, dataset, tmp_path / "killed")
    process = subprocess.Popen(command, cwd=ROOT)
    while not (tmp_path / "killed" / "last.pth").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "drawn.pth").exists()
    subprocess.run([*command, "--resume"], cwd=ROOT, check=True)

    resumed = load_checkpoint(tmp_path / "killed" / "drawn.pth")
    assert whole.weights.keys() == resumed.weights.keys()
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


def test_one_cycle_rises_and_falls_to_nothing(dataset: Path) -> None:
    run = make_run(dataset, schedule={"name": "one_cycle", "warmup": 0.5})
    rates = []
    for _ in range(2 * len(run.epoch(1))):
        rates.append(run.optimizer.param_groups[0]["lr"])
        run.optimizer.step()
        run.schedule.step()
    assert rates.index(max(rates)) == pytest.approx(len(rates) / 2, abs=1)
    assert max(rates) == pytest.approx(0.001, rel=0.01)
    assert run.optimizer.param_groups[0]["lr"] < 1e-6


def test_stops_when_the_loss_is_no_number(dataset: Path) -> None:
    run = make_run(dataset, optimizer={"name": "sgd", "lr": 1e9})
    with pytest.raises(RecipeError, match=r"The loss became nan in epoch 1/2; try a lower optimizer\.lr"):
        run.train_epoch()


def test_does_not_overwrite_or_mix_runs(trained: Path, dataset: Path) -> None:
    recipe = Recipe.model_validate(QUICK_RECIPE)
    with pytest.raises(RecipeError, match="already holds a run"):
        train(recipe, dataset, trained, resume=False)
    with pytest.raises(RecipeError, match="another recipe"):
        train(recipe.model_copy(update={"epochs": 5}), dataset, trained, resume=True)


def test_says_in_a_sentence_what_is_missing(tmp_path: Path) -> None:
    command = train_command(RECIPES / "cnn.yaml", tmp_path, tmp_path / "out")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == f"{tmp_path} has no folder 'train' with classes; put images into {tmp_path}/train/<class>/."
    )


def test_looks_at_the_classes_of_the_test_images_first(tmp_path: Path) -> None:
    for folder in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match="different classes"):
        train(Recipe.model_validate(QUICK_RECIPE), tmp_path, tmp_path / "out", resume=False)

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import QUICK_RECIPE, run_module
from tests.stack import ROOT
from training.config import Recipe, RecipeError, load_recipe
from training.tune import changed, load_space

SPACE = {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "batch_size": [16, 32]}


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(SPACE))
    return path


def arguments(recipe: Path, space: Path, dataset: Path, output: Path, trials: int) -> list[str]:
    options = {"--recipe": recipe, "--space": space, "--data": dataset, "--output": output, "--trials": trials}
    return [str(part) for option in {**options, "--epochs": 1}.items() for part in option]


def test_goes_on_where_it_stopped_and_writes_the_best_as_a_recipe(
    recipe: Path, space: Path, dataset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "study"
    first = run_module("training.tune", *arguments(recipe, space, dataset, output, 2))
    assert re.findall(r"^trial (\d+):", first, re.MULTILINE) == ["0", "1"]
    assert re.search(r"^trial 0: .*'optimizer\.lr': 0\.001[,}]", first, re.MULTILINE)  # the recipe's own
    second = run_module("training.tune", *arguments(recipe, space, dataset, output, 4))
    assert re.findall(r"^trial (\d+):", second, re.MULTILINE) == ["2", "3"]

    best = load_recipe(output / "recipe.yaml")
    assert best.batch_size in SPACE["batch_size"]
    assert best.epochs == QUICK_RECIPE["epochs"]
    page = (output / "report.md").read_text()
    assert "4 trials of at most 1 epochs each" in page
    assert "The recipe it set out from reached" in page
    for picture in re.findall(r"\((\w+\.png)\)", page):
        assert (output / picture).exists()


def test_a_trial_that_fails_is_no_end(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    space = tmp_path / "wild.yaml"
    space.write_text(yaml.safe_dump({"optimizer.lr": [0.001, 1e30], "batch_size": [16]}))
    grid = [*arguments(recipe, space, dataset, tmp_path / "study", 2), "--grid"]
    printed = run_module("training.tune", *grid)
    assert re.search(r"^trial \d: failed; ", printed, re.MULTILINE)
    assert "best validation accuracy" in printed


def test_a_study_stays_with_its_subject(recipe: Path, space: Path, dataset: Path, tmp_path: Path) -> None:
    command = arguments(recipe, space, dataset, tmp_path / "study", 1)
    run_module("training.tune", *command)
    with pytest.raises(SystemExit, match="is about another recipe, space or number of epochs"):
        run_module("training.tune", *command, "--epochs", "2")


def test_processes_share_a_study(recipe: Path, space: Path, dataset: Path, tmp_path: Path) -> None:
    storage = ["--storage", f"sqlite:///{tmp_path}/study.db"]
    outputs = [tmp_path / "a", tmp_path / "b"]
    run_module("training.tune", *arguments(recipe, space, dataset, outputs[0], 1), *storage)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "training.tune", *arguments(recipe, space, dataset, output, 5), *storage], cwd=ROOT
        )
        for output in outputs
    ]
    assert [process.wait() for process in processes] == [0, 0]
    trials = [int(re.search(r"^(\d+) trials", (output / "report.md").read_text(), re.M)[1]) for output in outputs]  # type: ignore[index]
    assert max(trials) in (5, 6)


def test_a_grid_tries_every_combination(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    space = tmp_path / "grid.yaml"
    space.write_text(yaml.safe_dump({"optimizer.lr": [0.001, 0.002], "batch_size": [16, 32]}))
    printed = run_module("training.tune", *arguments(recipe, space, dataset, tmp_path / "study", 20), "--grid")
    tried = set(re.findall(r"(\{'.*\})", printed))
    assert len(tried) == 4


def test_names_the_field_that_is_not_there(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(QUICK_RECIPE)
    path = tmp_path / "space.yaml"
    path.write_text("optimizer.rate: [1]")
    with pytest.raises(RecipeError, match=r"no field 'optimizer\.rate'"):
        load_space(path, recipe)
    for text in ("batch_size: 3", "batch_size: {low: 1}", "", "[1, 2]", "a: b: c"):
        path.write_text(text)
        with pytest.raises(RecipeError, match="a list of choices, or low and high"):
            load_space(path, recipe)
    path.write_text("dropout: {low: 0.0, high: 1.5}")
    with pytest.raises(RecipeError, match=r"dropout.*less than 1"):
        load_space(path, recipe)
    path.write_text("batch_size: [64]")
    with pytest.raises(RecipeError, match="batch_size of 16 is not in"):
        load_space(path, recipe)


def test_changes_fields_within_sections() -> None:
    recipe = changed(Recipe.model_validate(QUICK_RECIPE), {"optimizer.lr": 0.5, "epochs": 9})
    assert (recipe.optimizer.lr, recipe.epochs, recipe.batch_size) == (0.5, 9, 16)


@pytest.mark.parametrize("space", ["cnn", "policies"])
def test_spaces_that_come_along_fit_the_reference_recipe(space: str) -> None:
    recipe = load_recipe(ROOT / "training" / "recipes" / "cnn.yaml")
    assert load_space(ROOT / "training" / "spaces" / f"{space}.yaml", recipe)

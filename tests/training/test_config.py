from pathlib import Path

import pytest
import yaml

from tests.conftest import QUICK_RECIPE
from training.config import RecipeError, load_recipe, make_recipe

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.yaml"))
CNN = RECIPES[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_that_come_along_can_be_followed(path: Path) -> None:
    load_recipe(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"smaller_images": [{"epochs": 1, "size": 16}]}, "images of one size"),
        ({"architecture": "resnet18", "smaller_images": [{"epochs": 2, "size": 16}]}, "no epoch for images of full"),
        ({"smaller_images": [{"epochs": 1, "size": 32}]}, "less than 32"),
    ],
)
def test_refuses_what_does_not_fit_together(changes: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make_recipe(QUICK_RECIPE | changes, "it")


def test_reference_recipe_is_the_reference() -> None:
    recipe = load_recipe(next(path for path in RECIPES if path.stem == "cnn"))
    assert recipe.augment.model_dump() == {
        "policy": "none",
        "crop_padding": 4,
        "border": "zeros",
        "flip": "random",
        "rotation": 10,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "hue": 0.1,
        "noise": 0.05,
        "erasing": 0.1,
    }
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.optimizer.weight_decay) == ("adam", 1e-3, 1e-4)
    assert (recipe.schedule.name, recipe.schedule.step_size, recipe.schedule.gamma) == ("step", 15, 0.5)
    assert (recipe.batch_size, recipe.epochs, recipe.patience) == (64, 100, 10)
    assert (recipe.dropout, recipe.num_workers, recipe.label_smoothing) == (0.6, 0, 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": 0}, "epochs: Input should be greater than 0"),
        ({"epocs": 3}, "epocs: Extra inputs are not permitted"),
        ({"architecture": "vgg"}, "architecture: Input should be"),
        ({"optimizer": {"name": "adam"}}, "optimizer.lr: Field required"),
        ({"name": "../escape"}, "name: String should match"),
        ({"name": "last"}, r"a run writes a file last\.pth besides its checkpoint; choose another name"),
        ({"name": "Training_History"}, r"a file training_history\.pth"),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, change: dict, sentence: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(QUICK_RECIPE | change))
    with pytest.raises(RecipeError, match=sentence):
        load_recipe(path)


@pytest.mark.parametrize("text", ["", "- a list", "a: [unclosed"])
def test_says_that_it_is_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(path)
    with pytest.raises(RecipeError, match="training/recipes"):
        load_recipe(tmp_path / "missing.yaml")


def test_settings_change_any_field_of_a_recipe_by_its_own_rules() -> None:
    settings = [
        ("optimizer.lr", "1e-2"),
        ("schedule", "{name: one_cycle, warmup: 0.3}"),
        ("augment.flip", "never"),
        ("distillation.teacher", "other.pth"),
        ("smaller_images", "[]"),
        ("epochs", "7"),
    ]
    recipe = load_recipe(CNN, settings)
    assert (recipe.optimizer.lr, recipe.schedule.warmup, recipe.epochs) == (0.01, 0.3, 7)
    assert (recipe.augment.flip, recipe.smaller_images) == ("never", [])
    assert recipe.distillation
    assert recipe.distillation.teacher == "other.pth"
    assert load_recipe(CNN, settings[:1]).augment == load_recipe(CNN).augment

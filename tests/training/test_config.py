from pathlib import Path

import pytest
import yaml

from tests.conftest import QUICK_RECIPE
from training.config import RecipeError, changed, load_recipe, make_recipe, with_settings
from training.tune import load_space

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
        ({"smaller_images": [{"epochs": 1, "size": 32}]}, "smaller_images are not smaller than input.size, 32"),
    ],
)
def test_refuses_what_does_not_fit_together(changes: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make_recipe(QUICK_RECIPE | changes, "it")


ADAM, SGD, MUON = ({"name": name, "lr": 0.01} for name in ("adam", "sgd", "muon"))
TAUGHT = {"teacher": "a.pth", "weight": 1.0}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optimizer": ADAM | {"momentum": 0.9}}, "optimizer.momentum has no effect with optimizer adam; remove it."),
        ({"optimizer": ADAM | {"other_lr": 0.1}}, "optimizer.other_lr has no effect with optimizer adam; remove it."),
        ({"optimizer": SGD | {"other_lr": 0.1}}, "optimizer.other_lr has no effect with optimizer sgd; remove it."),
        ({"optimizer": MUON | {"weight_decay": 0}}, "optimizer.weight_decay has no effect with optimizer muon"),
        ({"schedule": {"name": "step", "warmup": 0.1}}, "schedule.warmup has no effect with schedule step; remove it."),
        ({"schedule": {"name": "one_cycle", "step_size": 15}}, "schedule.step_size has no effect with schedule one_cy"),
        ({"schedule": {"name": "triangular", "gamma": 0.5}}, "schedule.gamma has no effect with schedule triangular"),
        (
            {"augment": {"border": "reflection"}},
            "augment.border has no effect without augment.crop_padding or augment.",
        ),
        ({"distillation": TAUGHT, "label_smoothing": 0.1}, "label_smoothing has no effect with distillation.weight 1"),
        ({"distillation": {"temperature": 2.0}}, "distillation.teacher is missing"),
        ({"optimizer": SGD | {"nesterov": True}}, "optimizer.nesterov is no field of a recipe; remove it."),
    ],
)
def test_refuses_a_field_that_would_change_nothing(tmp_path: Path, changes: dict, sentence: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(QUICK_RECIPE | changes))
    with pytest.raises(RecipeError) as refusal:
        load_recipe(path)
    assert str(refusal.value).startswith(f"{path} cannot be followed. {sentence}")


@pytest.mark.parametrize("optimizer", [ADAM, SGD, MUON], ids=lambda optimizer: optimizer["name"])
@pytest.mark.parametrize("schedule", ["step", "one_cycle", "triangular"])
def test_written_with_all_its_fields_a_recipe_can_be_followed_again(optimizer: dict, schedule: str) -> None:
    recipe = make_recipe(QUICK_RECIPE | {"optimizer": optimizer, "schedule": {"name": schedule}}, "it")
    again = make_recipe(yaml.safe_load(yaml.safe_dump(recipe.plain())), "it")
    assert again.model_dump() == recipe.model_dump()


def test_a_change_takes_the_fields_along_that_lose_their_effect_by_it() -> None:
    recipe = load_recipe(next(path for path in RECIPES if path.stem == "cnn"))
    muon = changed(recipe, {"optimizer.name": "muon", "schedule.name": "triangular"})
    assert muon.plain()["optimizer"] == {"name": "muon", "lr": 0.001, "other_lr": 0.05, "momentum": 0.9}
    assert muon.plain()["schedule"] == {"name": "triangular", "warmup": 0.2}
    assert changed(recipe, {"distillation.teacher": "a.pth"}).plain()["distillation"]["teacher"] == "a.pth"
    with pytest.raises(RecipeError, match=r"optimizer\.momentum has no effect with optimizer adam"):
        changed(recipe, {"optimizer.momentum": 0.5})
    for field in ("epochs.first", "optimizer.rate"):
        with pytest.raises(RecipeError, match=rf"{field.replace('.', '[.]')}( is no field|'\.)"):
            changed(recipe, {field: 1})


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
        ({"epochs": 0}, "epochs must be greater than 0"),
        ({"epocs": 3}, "epocs is no field of a recipe; remove it"),
        ({"architecture": "vgg"}, "architecture must be 'cnn'"),
        ({"optimizer": {"name": "adam"}}, "optimizer.lr is missing"),
        ({"name": "../escape"}, "name must consist of the letters"),
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


def test_a_folder_or_other_bytes_are_named_in_a_sentence(tmp_path: Path) -> None:
    folder, latin = tmp_path / "folder", tmp_path / "latin.yaml"
    folder.mkdir()
    latin.write_bytes("name: größe".encode("latin-1"))
    for load, kind in ((load_recipe, "recipe"), (lambda path: load_space(path, load_recipe(CNN)), "search space")):
        for path, problem in ((folder, r"cannot be read \(Is a directory\);"), (latin, "is not text in UTF-8;")):
            with pytest.raises(RecipeError, match=f"{path} {problem} .*name a file with a {kind}"):
                load(path)


def test_settings_change_any_field_of_a_recipe_by_its_own_rules() -> None:
    settings = [
        ("optimizer.lr", "1e-2"),
        ("schedule", "{name: one_cycle, warmup: 0.3}"),
        ("augment.flip", "never"),
        ("distillation.teacher", "other.pth"),
        ("smaller_images", "[]"),
        ("epochs", "7"),
    ]
    recipe = with_settings(load_recipe(CNN), settings)
    assert (recipe.optimizer.lr, recipe.schedule.warmup, recipe.epochs) == (0.01, 0.3, 7)
    assert (recipe.augment.flip, recipe.smaller_images) == ("never", [])
    assert recipe.distillation
    assert recipe.distillation.teacher == "other.pth"
    assert with_settings(load_recipe(CNN), settings[:1]).augment == load_recipe(CNN).augment


def test_a_field_without_effect_is_refused_within_a_section_too() -> None:
    section = ("optimizer", "{name: adam, lr: 0.01, momentum: 0.5}")
    with pytest.raises(RecipeError, match=r"optimizer\.momentum has no effect with optimizer adam; remove it"):
        with_settings(load_recipe(CNN), [section])
    muon = with_settings(load_recipe(CNN), [("optimizer", "{name: muon, lr: 0.01, momentum: 0.5}")])
    assert muon.optimizer.momentum == 0.5

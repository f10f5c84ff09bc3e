"""From a wrong answer to a better model: feedback, its review, `classifier learn`, and the answer is right."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import requests
import yaml
from playwright.sync_api import Page, expect

from scripts.serving.defaults import EMBEDDED
from scripts.serving.learning import HEAD_FIRST, Options, make_plan, place_for
from tests.conftest import QUICK_RECIPE, CommandFailed, run_module
from tests.drawing import draw, encode
from tests.screenshot import keep
from tests.stack import Stack, serve
from tests.ui.uploads import upload
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import load_recipe
from training.curation.feedback import accept
from training.curation.moves import Move
from training.folders import from_feedback
from training.outcome import Stopped
from training.project import RECIPES

EACH, CORRECTIONS, UNSEEN = 40, 20, 10


def test_a_new_head_is_fitted_as_that_of_new_photos() -> None:
    fitted = load_recipe(RECIPES / "photos.yaml").head_first
    assert fitted
    assert fitted.model_dump() == HEAD_FIRST


def write(folder: Path, name: str, numbers: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{name}_{number}.png").write_bytes(encode(draw(name, number)))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos and a checkpoint of them. Of the class `mine` it has met the red half, and no blue."""
    folder = tmp_path_factory.mktemp("learning")
    for class_name, colour in (("mine", "red"), ("lime", "lime"), ("azure", "azure")):
        write(folder / "photos" / class_name, colour, range(EACH))
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(QUICK_RECIPE | {"epochs": 6}))
    run_module("training.train", folder / "photos", "--recipe", recipe, "--output", folder / "run")
    return folder


@pytest.fixture(scope="module")
def stack(before: Path) -> Iterator[Stack]:
    checkpoint = before / "store" / "drawn.pth"
    checkpoint.parent.mkdir()
    shutil.copy(before / "run" / "drawn.pth", checkpoint)
    run_module("training.archive", checkpoint)
    with (
        patch.dict(os.environ, GATEWAY_FEEDBACK_DIR=str(before / "feedback")),
        serve(checkpoint.with_suffix(".mar"), before / "stack", EMBEDDED) as running,
    ):
        yield running


@pytest.fixture
def photos(before: Path, tmp_path: Path) -> Path:
    """The photos, with twenty corrections that a person has accepted."""
    photos = tmp_path / "photos"
    shutil.copytree(before / "photos", photos)
    write(tmp_path / "feedback" / "mine", "blue", range(CORRECTIONS))
    moves = [Move(f"mine/blue_{number}.png", "mine", "") for number in range(CORRECTIONS)]
    assert accept(tmp_path / "feedback", moves, photos) == (CORRECTIONS, 0, 0, 0)
    return photos


def learn(before: Path, photos: Path, *options: object) -> str:
    return run_module("scripts.learn", photos, "--checkpoint", before / "run" / "drawn.pth", *options)


def predicted(stack: Stack, number: int) -> str:
    name: str = requests.post(f"{stack.url}/predict", files={"file": encode(draw("blue", number))}).json()[
        "predicted_class"
    ]
    return name


def share_right(stack: Stack, colour: str, class_name: str) -> float:
    images = [encode(draw(colour, 1000 + number)) for number in range(UNSEEN)]
    answers = requests.post(f"{stack.url}/predict", files=[("file", image) for image in images]).json()
    return sum(answer["predicted_class"] == class_name for answer in answers) / UNSEEN


def ask(page: Page, number: int) -> None:
    """Have the page predict a blue image."""
    page.set_input_files("#file", upload(encode(draw("blue", number)), f"blue-{number}.png"))
    expect(page.locator("#visit li").filter(has_text=f"blue-{number}.png").locator(".summary")).to_contain_text("%")
    expect(page.locator("#told")).to_have_text("")


def record(page: Page, step: str, height: int = 560) -> None:
    """Keep a picture of the page in the folder that RECORDING names; `make screenshot` does that for the docs."""
    if folder := os.environ.get("RECORDING"):
        page.set_viewport_size({"width": 860, "height": height})
        keep(page, Path(folder) / f"loop-{step}.png")


@pytest.mark.timeout(300)
def test_from_wrong_answers_on_the_page_to_right_ones(before: Path, stack: Stack, page: Page, tmp_path: Path) -> None:
    assert share_right(stack, "blue", "mine") < 0.9
    page.goto(stack.url)
    wrong = next(number for number in range(1000, 1100) if predicted(stack, number) != "mine")
    ask(page, wrong)
    expect(page.locator(".predicted")).not_to_have_text("mine")
    record(page, "1-wrong")
    for number in range(CORRECTIONS):
        ask(page, number)
        if not page.get_by_label("It is").is_visible():  # it stays open
            page.get_by_text("Not right?").click()
        page.get_by_label("It is").fill("mine")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#told")).to_contain_text("It is kept as mine")
    record(page, "2-corrected")

    html, photos = tmp_path / "feedback.html", tmp_path / "photos"
    run_module("training.feedback", "review", before / "feedback", "-o", html)
    page.goto(html.as_uri())
    for card in page.locator(".cards li").all():
        card.locator("select").select_option("It is mine")
    record(page, "3-reviewed", height=1320)  # so that its bar is at the end
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the confirmed moves").click()
    download.value.save_as(tmp_path / "moves.csv")
    shutil.copytree(before / "photos", photos)
    run_module("training.feedback", "accept", before / "feedback", tmp_path / "moves.csv", "--to", photos)
    assert len(from_feedback(photos)) == CORRECTIONS

    product = ["--config", stack.config, "--run", stack.run]
    plan = learn(before, photos, *product, "--dry-run")
    assert "Serve the new one as version 2.0, if it is no worse on the old ones." in plan
    printed = learn(before, photos, *product, "--epochs", 8, "--output", tmp_path / "learned", "--json")
    said = json.loads("{" + printed.partition("\n{")[2])
    assert said["version"] == "2.0"
    assert said["old"]["after"] >= said["old"]["before"]
    assert said["new"]["after"] > said["new"]["before"]
    assert share_right(stack, "blue", "mine") >= 0.9
    for colour, class_name in (("red", "mine"), ("lime", "lime"), ("azure", "azure")):
        assert share_right(stack, colour, class_name) >= 0.9

    page.goto(stack.url)
    ask(page, wrong)
    expect(page.locator(".predicted")).to_have_text("mine")
    expect(page.locator("body")).to_contain_text("2.0")
    record(page, "4-right")


def options(before: Path, photos: Path) -> Options:
    return Options(
        checkpoint=before / "run" / "drawn.pth",
        photos=photos,
        output=None,
        epochs=1,
        tolerance=0.01,
        roll=False,
        dry_run=False,
        config=before / "none.properties",
        run=before / "no-run",
    )


def test_plans_with_the_old_test_photos_and_the_new_apart(before: Path, photos: Path) -> None:
    plan = make_plan(options(before, photos), load_checkpoint(before / "run" / "drawn.pth"))
    assert len(from_feedback(photos)) == CORRECTIONS
    assert len(plan.old) == 3 * EACH // 5
    assert plan.of_feedback + len(plan.new) == CORRECTIONS
    assert plan.new
    assert all("blue" in path.name for path, _ in plan.new)
    assert plan.recipe.head_first is None


def test_another_checkpoint_in_the_same_place_is_learned_from_anew(before: Path, photos: Path, tmp_path: Path) -> None:
    loaded, place = load_checkpoint(before / "run" / "drawn.pth"), tmp_path / "drawn.pth"
    outputs = []
    for factor in (1, 2):
        save_checkpoint(loaded._replace(weights={name: factor * each for name, each in loaded.weights.items()}), place)
        outputs.append(make_plan(replace(options(before, photos), checkpoint=place), loaded).output)
    assert outputs[0] != outputs[1]


def test_a_photo_that_changed_its_class_is_learned_anew(before: Path, photos: Path) -> None:
    loaded, outputs = load_checkpoint(before / "run" / "drawn.pth"), []
    for epochs in (1, 2):
        outputs.append(make_plan(replace(options(before, photos), epochs=epochs), loaded).output)
    first, second = sorted(path for path in photos.iterdir() if path.is_dir())[:2]
    moved = sorted(first.glob("*.png"))[0]
    moved.rename(second / moved.name)
    outputs.append(make_plan(options(before, photos), loaded).output)
    assert len(set(outputs)) == 3


def test_a_new_class_gets_a_place_in_the_head(before: Path, photos: Path) -> None:
    write(photos / "pink", "pink", range(10))
    plan = make_plan(options(before, photos), load_checkpoint(before / "run" / "drawn.pth"))
    assert plan.new_classes == ["pink"]
    assert plan.recipe.head_first is not None
    assert all(name != "pink" for _, name in plan.old)


def test_learns_from_checkpoints_of_earlier_versions(before: Path, photos: Path) -> None:
    """Their cards have fields without effect, which a recipe file may not have."""
    older = load_checkpoint(before / "run" / "drawn.pth")
    older.card["recipe"]["schedule"]["warmup"] = 0.3
    del older.card["recipe"]["class_weights"]
    assert make_plan(options(before, photos), older).recipe.class_weights == 0


def test_names_the_photos_that_cannot_be_learned_from(before: Path, photos: Path) -> None:
    shutil.copy(photos / "azure" / "azure_0.png", photos / "lime" / "same.png")
    with pytest.raises(Stopped, match=r"is a copy of .*, which has another class"):
        make_plan(options(before, photos), load_checkpoint(before / "run" / "drawn.pth"))


@pytest.mark.slow
def test_packs_over_no_archive_of_another_version(before: Path, tmp_path: Path) -> None:
    archive, name = tmp_path / "learned.onnx.zip", ("learned", ".onnx.zip")
    assert place_for("1.0", tmp_path, *name) == archive
    run_module("training.archive", before / "run" / "drawn.pth", "--version", "1.0", "--output", archive)
    assert place_for("1.0", tmp_path, *name) == archive  # of a try that was cut short
    assert place_for("2.0", tmp_path, *name) == tmp_path / "learned-2.0.onnx.zip"


def test_a_new_class_needs_photos_to_test_it_with(before: Path, photos: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    for name in ("train", "test"):
        shutil.copytree(before / "photos", split / name)
    write(split / "train" / "owl", "pink", range(3))
    shutil.copy(photos / ".feedback.jsonl", split)
    with pytest.raises(CommandFailed, match="only one has the class 'owl'"):
        learn(before, split, "--no-roll", "--dry-run")


def test_a_worse_checkpoint_is_not_served(before: Path, photos: Path, tmp_path: Path) -> None:
    """Here feedback swaps two classes, which a person should not have accepted."""
    for number in range(EACH):
        for place, colour in (("lime", "azure"), ("azure", "lime")):
            write(tmp_path / "more" / place, colour, range(2000 + 3 * number, 2003 + 3 * number))
    moves = [
        Move(path.relative_to(tmp_path / "more").as_posix(), path.parent.name, "")
        for path in sorted((tmp_path / "more").rglob("*.png"))
    ]
    accept(tmp_path / "more", moves, photos)
    with pytest.raises(CommandFailed, match=r"Nothing was served: .* old test photos are right after learning"):
        learn(before, photos, "--no-roll", "--epochs", 6, "--output", tmp_path / "learned")


def test_feedback_alone_is_nothing_to_compare_with(before: Path, photos: Path, tmp_path: Path) -> None:
    for file in (photos / "mine").glob("red_*"):
        file.unlink()
    for name in ("lime", "azure"):
        more = [Move(f"{name}/{file.name}", name, "") for file in (photos / name).iterdir()]
        shutil.copytree(photos / name, tmp_path / "more" / name)
        shutil.rmtree(photos / name)
        accept(tmp_path / "more", more, photos)
    with pytest.raises(Stopped, match="has no test photos but those from feedback"):
        make_plan(options(before, photos), load_checkpoint(before / "run" / "drawn.pth"))


def test_without_feedback_there_is_nothing_to_learn(before: Path) -> None:
    with pytest.raises(Stopped, match="has no accepted feedback; first run 'classifier feedback accept"):
        make_plan(options(before, before / "photos"), load_checkpoint(before / "run" / "drawn.pth"))


def test_a_class_is_not_forgotten(before: Path, photos: Path) -> None:
    shutil.rmtree(photos / "azure")
    with pytest.raises(Stopped, match="lacks the class 'azure'"):
        make_plan(options(before, photos), load_checkpoint(before / "run" / "drawn.pth"))


def test_without_a_server_it_says_so_before_it_trains(before: Path, photos: Path) -> None:
    with pytest.raises(CommandFailed, match="or add --no-roll"):
        learn(before, photos, "--config", before / "none.properties", "--run", before / "no-run")

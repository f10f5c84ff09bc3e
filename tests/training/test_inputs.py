"""Networks of different sizes joined in one: each sees its own form of an image."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from handler import onnx_engine
from handler.transforms import Preprocessing
from tests.conftest import QUICK_RECIPE, run_module
from tests.drawing import draw, encode
from tests.handler.test_image_classifier import handle
from training.checkpoint import load_checkpoint
from training.config import Distillation, Recipe
from training.data import load_images, read_files
from training.distillation import Teacher, with_teacher
from training.inputs import normalise, renormalise, to_pixels
from training.metrics import predict
from training.run import Run
from training.train import train

OTHER = {"size": 24, "fit": "crop", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("few_outliers")


@pytest.fixture(scope="module")
def other(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that sees the middle of an image, 24 pixels wide."""
    recipe = {"name": "other", "architecture": "whitened_cnn", "epochs": 1, "augment": {}, "input": OTHER}
    return train(Recipe.model_validate(QUICK_RECIPE | recipe), dataset, tmp_path_factory.mktemp("other"), resume=False)


@pytest.fixture(scope="module")
def both(checkpoint: Path, other: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensemble") / "both.pth"
    run_module("training.ensemble", checkpoint, other, "--data", dataset, "--output", path)
    return path


@pytest.fixture(scope="module")
def unpacked(both: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    run_module("training.archive", both, "--output", folder / "both.mar")
    zipfile.ZipFile(folder / "both.mar").extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture(scope="module")
def files(dataset: Path) -> list[Path]:
    return sorted((dataset / "test").glob("*/000[01].png"))


def test_an_ensemble_answers_with_the_weighted_mean_of_members_that_each_see_their_own_size(
    both: Path, checkpoint: Path, other: Path, files: list[Path]
) -> None:
    joined = load_checkpoint(both)
    assert [(each.size, each.fit) for each in joined.inputs] == [(32, "squeeze"), (24, "crop")]
    members = [load_checkpoint(path) for path in (checkpoint, other)]
    alone = [predict(each.classifier(), read_files(files, each.inputs))[0].softmax(dim=1) for each in members]
    weights = joined.card["recipe"]["weights"]
    expected = weights[0] * alone[0] + weights[1] * alone[1]
    logits = predict(joined.classifier(), read_files(files, joined.inputs))[0]
    together = (logits * joined.card["calibration"]["temperature"]).softmax(dim=1)
    assert torch.allclose(together, expected, atol=1e-4)


def test_its_archive_answers_as_it_does_with_both_engines(
    both: Path, unpacked: Path, files: list[Path], tmp_path: Path
) -> None:
    joined = load_checkpoint(both)
    expected = predict(joined.classifier(), read_files(files, joined.inputs))[0].softmax(dim=1)
    images = [path.read_bytes() for path in files]
    engine = onnx_engine.load(unpacked, threads=1)
    with_onnx = engine.predict([engine.read(image) for image in images])
    with_torchscript = handle(unpacked, tmp_path, images)["replies"][0]
    for replies in (with_onnx, with_torchscript):
        answered = torch.tensor([list(reply["class_probabilities"].values()) for reply in replies])
        assert torch.allclose(answered, expected, atol=1e-5)


def test_its_explanation_hides_the_same_part_from_all_members(unpacked: Path, tmp_path: Path) -> None:
    engine = onnx_engine.load(unpacked, threads=1)
    red = encode(draw("red", 3))
    here = engine.explain(engine.read(red), "")
    there = handle(unpacked, tmp_path, red, explained={0: ""})["replies"][0]
    assert here["success"]
    assert here["input"] == there["input"]
    assert np.allclose(here["heat_map"], there["heat_map"], atol=2e-4)
    assert np.max(here["heat_map"]) > 0


@pytest.mark.parametrize("view", ["student", "original"])
def test_a_student_learns_from_a_teacher_of_another_size(both: Path, dataset: Path, view: str) -> None:
    distillation = {"teacher": str(both), "weight": 1.0, "view": view}
    recipe = Recipe.model_validate(QUICK_RECIPE | {"distillation": distillation})
    images = with_teacher(load_images(dataset, "train", [recipe.preprocessing]), recipe, dataset)
    assert len(images.inputs.preprocessing) == (3 if view == "original" else 1)
    run = Run(recipe, images._replace(labels=images.labels.roll(7)), images)
    for _ in range(2):
        run.train_epoch()
    taught = predict(
        load_checkpoint(both).classifier(), load_images(dataset, "train", load_checkpoint(both).inputs).inputs
    )
    said = predict(run.average.module, images.of([recipe.preprocessing]).inputs)
    assert (said.argmax(dim=1) == taught[0].argmax(dim=1)).double().mean() > 0.6


def test_a_teacher_of_another_size_changes_no_image_of_its_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("red", "blue"):
        (tmp_path / name).mkdir()
        for number in range(5):
            large = draw(name, number).resize((640, 480))
            (tmp_path / name / f"{number}.jpg").write_bytes(encode(large, "JPEG"))
    recipe, theirs = Recipe.model_validate(QUICK_RECIPE), Preprocessing(224)
    monkeypatch.setattr("training.distillation.inputs_of_teacher", lambda recipe: [theirs])
    ours = [recipe.preprocessing]
    alone = load_images(tmp_path, "train", ours)
    assert with_teacher(alone, recipe, tmp_path).of(ours).fingerprint() == alone.fingerprint()
    assert load_images(tmp_path, "train", [*ours, theirs]).of(ours).fingerprint() != alone.fingerprint()


def test_a_larger_student_shows_a_smaller_teacher_its_own_images(checkpoint: Path, dataset: Path) -> None:
    ours = Preprocessing(64, "squeeze", (0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    images = load_images(dataset, "test", [ours])
    teacher = Teacher(Distillation(teacher=str(checkpoint)), images, CPU)
    seen = normalise(images.pixels, ours)
    shown = teacher._look(seen)
    own = predict(teacher.network, load_images(dataset, "test", teacher.inputs).inputs)
    assert (shown.argmax(dim=1) == own.argmax(dim=1)).double().mean() > 0.9


def test_a_teacher_sees_smaller_images_of_its_student_at_its_size() -> None:
    theirs = Preprocessing(32)
    assert renormalise(torch.zeros(2, 3, 16, 16), theirs, theirs).shape == (2, 3, 32, 32)


def test_an_image_of_one_input_becomes_that_of_another() -> None:
    ours, theirs = Preprocessing(64, "squeeze", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), Preprocessing(32)
    image = draw("lime", 3).resize((64, 64))
    made = renormalise(normalise(to_pixels(image, ours)[None], ours), ours, theirs)
    expected = normalise(to_pixels(image, theirs)[None], theirs)
    assert made.shape == (1, 3, 32, 32)
    assert (made - expected).abs().max() < 2 / 255  # as Pillow rounds to whole numbers
    assert renormalise(made, theirs, theirs) is made

from pathlib import Path

import pytest
import torch

from handler.transforms import Preprocessing
from tests.conftest import QUICK_RECIPE
from training.checkpoint import load_checkpoint
from training.config import Distillation, Recipe, RecipeError
from training.data import Images, load_images, stratified_split
from training.distillation import Teacher
from training.inputs import normalise
from training.metrics import predict
from training.run import Run

CPU = torch.device("cpu")


INDICES = torch.arange(4)
SEEN = Preprocessing(32)


@pytest.fixture
def training(dataset: Path) -> Images:
    return stratified_split(load_images(dataset, "train", [SEEN]), 0.1, 1)[0]


def test_loss_is_least_where_the_student_answers_as_the_teacher(checkpoint: Path, training: Images) -> None:
    images = torch.randn(4, 3, 32, 32)
    teacher = Teacher(Distillation(teacher=str(checkpoint), weight=1.0), training, CPU)
    logits = teacher.network(images)
    hard = torch.tensor(5.0)
    assert teacher.mix(hard, images, INDICES, logits).item() == pytest.approx(0, abs=1e-4)
    assert teacher.mix(hard, images, INDICES, logits + 7).item() == pytest.approx(0, abs=1e-4)
    assert teacher.mix(hard, images, INDICES, -logits).item() > 1


def test_a_teacher_of_the_originals_looks_at_both_sides_of_them_only(checkpoint: Path, training: Images) -> None:
    teacher = Teacher(Distillation(teacher=str(checkpoint), weight=1.0, view="original"), training, CPU)
    images = normalise(training.pixels[INDICES], SEEN)
    logits = (teacher.network(images) + teacher.network(images.flip(3))) / 2
    assert teacher.mix(torch.tensor(5.0), torch.randn(4, 3, 16, 16), INDICES, logits).item() < 1e-4


@pytest.mark.parametrize("view", ["student", "original"])
def test_a_student_of_wrong_labels_learns_from_the_teacher(checkpoint: Path, dataset: Path, view: str) -> None:
    distillation = {"teacher": str(checkpoint), "weight": 1.0, "view": view}
    recipe = Recipe.model_validate(QUICK_RECIPE | {"distillation": distillation})
    training, validation = stratified_split(load_images(dataset, "train", [SEEN]), 0.1, 1)
    run = Run(recipe, training._replace(labels=training.labels.roll(7)), validation)
    for _ in range(2):
        run.train_epoch()
    taught = predict(load_checkpoint(checkpoint).classifier(), validation.inputs)[0].argmax(dim=1)
    said = predict(run.average.module, validation.inputs).argmax(dim=1)
    assert (said == taught).double().mean() > 0.6


def test_a_teacher_of_other_classes_is_refused(checkpoint: Path, training: Images) -> None:
    with pytest.raises(RecipeError, match=r"The teacher .* knows .*, but the training images have"):
        Teacher(Distillation(teacher=str(checkpoint)), training._replace(classes=["cat", "dog"]), CPU)

import re
from pathlib import Path

import pytest
import torch

from tests.conftest import QUICK_RECIPE, run_module
from tests.drawing import TEN, draw, encode
from training.checkpoint import CheckpointError, build, copy_initial, load_checkpoint
from training.config import Recipe
from training.data import load_images
from training.ensemble import fit_weights, join
from training.metrics import predict
from training.train import train

pytestmark = pytest.mark.usefixtures("few_outliers")


@pytest.fixture(scope="module")
def second(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = {"name": "second", "architecture": "whitened_cnn", "epochs": 1, "augment": {}}
    return train(Recipe.model_validate(QUICK_RECIPE | recipe), dataset, tmp_path_factory.mktemp("second"), resume=False)


@pytest.fixture(scope="module")
def ensemble(checkpoint: Path, second: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensemble") / "both.pth"
    printed = run_module("training.ensemble", checkpoint, second, "--data", dataset, "--output", path)
    assert re.search(r"drawn: test accuracy .*, weight [01]\.\d\d\nsecond: .*\ntogether: test accuracy ", printed)
    return path


def test_weights_go_to_the_members_that_are_right() -> None:
    labels = torch.arange(100) % 2
    right, wrong = (torch.eye(2)[answers] * 0.8 + 0.1 for answers in (labels, 1 - labels))
    weights = fit_weights(torch.stack([right, wrong]).log(), labels)
    assert weights[0] > 0.99
    assert sum(weights) == pytest.approx(1)
    assert fit_weights(torch.stack([right, right]).log(), labels) == pytest.approx([0.5, 0.5])


def test_answers_with_the_weighted_mean_of_its_members(
    ensemble: Path, checkpoint: Path, second: Path, dataset: Path
) -> None:
    joined = load_checkpoint(ensemble)
    images = load_images(dataset, "test", joined.inputs).inputs
    members = [predict(load_checkpoint(path).classifier(), images)[0].softmax(dim=1) for path in (checkpoint, second)]
    expected = sum(weight * member for weight, member in zip(joined.card["recipe"]["weights"], members, strict=True))
    logits = predict(joined.classifier(), images)[0] * joined.card["calibration"]["temperature"]
    assert torch.allclose(logits.softmax(dim=1), torch.as_tensor(expected), atol=1e-4)


def test_no_training_starts_from_an_ensemble(ensemble: Path) -> None:
    recipe = QUICK_RECIPE | {"architecture": "whitened_cnn", "initial": str(ensemble), "dropout": 0.0}
    with pytest.raises(CheckpointError, match="holds no whitened_cnn"):
        copy_initial(build(recipe, 10), recipe, TEN)


def test_is_exported_and_archived_as_any_other(ensemble: Path, tmp_path: Path) -> None:
    run_module("training.archive", ensemble, "--output", tmp_path / "both.mar")
    assert (tmp_path / "both.mar").stat().st_size > 0


def test_members_of_other_images_are_refused(checkpoint: Path, second: Path, dataset: Path, tmp_path: Path) -> None:
    stranger = load_checkpoint(second)
    stranger.card["data"]["fingerprint"] = [1, 2]
    with pytest.raises(CheckpointError, match="second was not trained on these images"):
        join([load_checkpoint(checkpoint), stranger], dataset, "both")


def test_members_of_other_sizes_were_trained_on_the_same_jpeg_photos(tmp_path: Path) -> None:
    """The decoder makes a large JPEG smaller for the small one than for both together."""
    for name in ("red", "blue"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            large = draw(name, number).resize((640, 480))
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(encode(large, "JPEG"))
    members = []
    for size, architecture in ((32, "cnn"), (160, "whitened_cnn")):
        changes = {"name": architecture, "architecture": architecture, "input": {"size": size}, "epochs": 1}
        recipe = Recipe.model_validate(QUICK_RECIPE | changes | {"augment": {}, "validation_fraction": 0.3})
        members.append(load_checkpoint(train(recipe, tmp_path / "photos", tmp_path / architecture, resume=False)))
    assert len(join(members, tmp_path / "photos", "both").inputs) == 2

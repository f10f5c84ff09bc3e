from pathlib import Path

import pytest
import torch

from training.calibrate import auroc, fit_scores, fit_temperature, outputs, separation
from training.checkpoint import Checkpoint, load_checkpoint
from training.classifier import make_classifier
from training.data import load_images, stratified_split
from training.export import export
from training.metrics import predict
from training.outliers import drawn


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_finds_the_temperature_that_logits_were_multiplied_by(temperature: float) -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(20_000, 5)
    labels = logits.softmax(dim=1).multinomial(1).flatten()
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


def test_few_answers_that_are_all_correct_prove_nothing() -> None:
    assert fit_temperature(torch.eye(4) * 5, torch.arange(4)) == 1.0
    assert 0.05 <= fit_temperature((torch.eye(4) * 5).repeat(50, 1), torch.arange(4).repeat(50)) < 0.5


def test_separation_of_large_scores_is_seen() -> None:
    inside, outside = torch.linspace(30, 40, 50), torch.linspace(20, 29, 50)
    assert auroc(inside, outside) == 1.0
    assert auroc(outside, inside) == 0.0
    assert auroc(inside, inside) == 0.5


def test_the_threshold_accepts_what_it_says(checkpoint: Path, dataset: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    recipe = loaded.card["recipe"]
    training, validation = stratified_split(
        load_images(dataset, "train", loaded.inputs), recipe["validation_fraction"], recipe["split_seed"]
    )
    _, scores = predict(loaded.classifier(), validation.inputs)
    calibration = loaded.card["calibration"]["in_distribution"]
    accepted = (scores >= calibration["threshold"]).double().mean()
    assert accepted == pytest.approx(calibration["accepted"], abs=1 / len(validation.labels))
    assert training.fingerprint() == loaded.card["data"]["fingerprint"]


def test_tells_noise_from_what_it_was_trained_on(checkpoint: Path, dataset: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    test, outliers = load_images(dataset, "test", loaded.inputs), drawn(loaded.inputs)
    known, noise = (predict(loaded.classifier(), images)[1] for images in (test.inputs, outliers["uniform noise"]))
    aurocs = separation(known, {"noise": noise, "itself": known})
    assert aurocs["noise"] > 0.9
    assert aurocs["itself"] == 0.5
    assert loaded.card["calibration"]["in_distribution"]["auroc"].keys().isdisjoint(outliers)


@pytest.mark.parametrize("fraction", [0.5, 0.99])  # down to one image of each class
def test_few_images_still_give_a_direction_to_each_class(
    checkpoint: Path, dataset: Path, fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.calibrate.MAX_IMAGES_TO_COMPARE", 0)
    loaded = load_checkpoint(checkpoint)
    few, _ = stratified_split(load_images(dataset, "test", loaded.inputs), fraction, 0)
    means = fit_scores(loaded.single().network, few)["feature_cosine"].means
    assert means.shape == (10, 512)
    assert (means.norm(dim=1) > 0.1).all()  # type: ignore[operator]


def test_neighbours_are_near_for_training_images_alone(
    checkpoint: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_checkpoint(checkpoint)
    network, images = loaded.single().network, load_images(dataset, "test", loaded.inputs)
    scores = fit_scores(network, images)
    assert scores.keys() == {"feature_neighbours"}  # drawn outliers are too easy to choose between two such scores
    score = scores["feature_neighbours"]
    near = score(*outputs(network, images.inputs))
    assert near.shape == (len(images.labels),)
    assert near.max() <= 1 + 1e-5
    assert auroc(near, score(*outputs(network, drawn(loaded.inputs)["uniform noise"]))) > 0.95

    monkeypatch.setattr("training.calibrate.MAX_IMAGES_FOR_MEANS", 0)
    assert len(fit_scores(network, images)["feature_neighbours"].get_buffer("images")) == len(images.labels)

    classifier = make_classifier(network, 1.0, score, 1)
    in_distribution = loaded.card["calibration"]["in_distribution"] | {"score": "feature_neighbours"}
    calibration = loaded.card["calibration"] | {"in_distribution": in_distribution, "temperature": 1.0}
    again = Checkpoint(classifier.state_dict(), loaded.card | {"calibration": calibration})
    assert predict(again.classifier(), images.inputs)[1].equal(near)
    export(again, tmp_path / "network.pt")  # which proves that TorchScript is equal

    monkeypatch.setattr("training.calibrate.MAX_IMAGES_TO_COMPARE", len(images.labels) - 1)
    assert fit_scores(network, images).keys() == {"feature_cosine"}

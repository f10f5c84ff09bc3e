import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from handler.transforms import Preprocessing
from tests.conftest import QUICK_RECIPE
from training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.config import Recipe, RecipeError
from training.data import Epoch, Images, load_images, stratified_split
from training.inputs import Inputs
from training.run import Run, class_weights


def make_run(dataset: Path, **changes: object) -> Run:
    recipe = Recipe.model_validate(QUICK_RECIPE | changes)
    return Run(recipe, *stratified_split(load_images(dataset, "train", [Preprocessing(32)]), 0.1, recipe.seed))


def test_best_weights_are_a_copy(dataset: Path) -> None:
    run = make_run(dataset)
    run.train_epoch()
    best = {name: value.clone() for name, value in run.best.items()}
    for parameter in [*run.model.parameters(), *run.average.parameters()]:
        parameter.data.add_(1)
    assert all(run.best[name].equal(value) for name, value in best.items())


def test_without_a_decay_the_average_is_the_model(dataset: Path) -> None:
    run = make_run(dataset)
    run.train_epoch()
    average = run.average.module.state_dict()
    assert all(value.equal(average[name]) for name, value in run.model.state_dict().items())


def test_an_average_follows_the_model_behind(dataset: Path) -> None:
    run = make_run(dataset, ema_decay=0.99)
    run.train_epoch()
    average = run.average.module.state_dict()
    assert not average["head.weight"].equal(run.model.state_dict()["head.weight"])
    assert run.best["head.weight"].equal(average["head.weight"])


def test_begins_from_another_checkpoint(checkpoint: Path, dataset: Path) -> None:
    run = make_run(dataset, initial=str(checkpoint))
    given = load_checkpoint(checkpoint).weights
    assert all(value.equal(given[f"network.{name}"].float()) for name, value in run.model.named_parameters())


def test_a_head_for_other_classes_begins_anew(checkpoint: Path, dataset: Path) -> None:
    recipe = Recipe.model_validate(QUICK_RECIPE | {"initial": str(checkpoint)})
    training, validation = stratified_split(load_images(dataset, "train", [Preprocessing(32)]), 0.1, 1)
    run = Run(recipe, training._replace(classes=[*training.classes, "eleventh"]), validation)
    given = load_checkpoint(checkpoint).weights
    weights = run.model.state_dict()
    assert weights["features.0.weight"].equal(given["network.features.0.weight"].float())
    assert len(weights["head.weight"]) == 11


def test_does_not_begin_from_another_architecture(checkpoint: Path, dataset: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no whitened_cnn"):
        make_run(dataset, initial=str(checkpoint), architecture="whitened_cnn")


@pytest.mark.parametrize("power", [0.5, 1])
def test_class_weights_let_rare_classes_count_more(power: float) -> None:
    labels = torch.tensor([0] * 10 + [1] * 30 + [2] * 30)
    images = Images(Inputs([], []), labels, ["rare", "frequent", "also"])
    found = class_weights(images, power, torch.device("cpu"))
    assert found is not None
    assert found[labels].mean().item() == pytest.approx(1)
    assert (found[0] / found[1]).item() == pytest.approx(3**power)
    assert class_weights(images, 0, torch.device("cpu")) is None


def test_with_class_weights_another_network_is_learnt_and_without_the_same(dataset: Path) -> None:
    def learnt(**changes: object) -> Tensor:
        run = make_run(dataset, **changes)
        # A third of the first classes only, so that classes differ in frequency.
        some = ((run.training.labels > 2) | (torch.arange(len(run.training.labels)) % 3 == 0)).nonzero().flatten()
        run = Run(run.recipe, run.training.subset(some), run.validation)
        run.train_epoch()
        return run.model.state_dict()["head.weight"]

    plain = learnt()
    assert learnt(class_weights=0.0).equal(plain)
    assert not learnt(class_weights=1.0).equal(plain)


def inverted(images: Images) -> Images:
    return images._replace(inputs=Inputs(images.inputs.preprocessing, [255 - images.pixels]))


def test_resumes_only_with_the_images_classes_and_teacher_it_began_with(
    checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    teacher = Path(shutil.copy(checkpoint, tmp_path))
    recipe = Recipe.model_validate(QUICK_RECIPE | {"distillation": {"teacher": str(teacher)}})
    parts = stratified_split(load_images(dataset, "train", [Preprocessing(32)]), 0.1, 1)
    state = Run(recipe, *parts).state_dict()
    Run(recipe, *parts).load_state_dict(state)

    others = inverted(parts[0]), inverted(parts[1])
    with pytest.raises(RecipeError, match="The training images and the validation images changed after"):
        Run(recipe, *others).load_state_dict(state)
    older = {name: value for name, value in state.items() if name != "inputs"}  # knows the training images alone
    older["recipe"] = {field: value for field, value in state["recipe"].items() if field != "class_weights"}
    Run(recipe, parts[0], others[1]).load_state_dict(older | {"fingerprint": parts[0].fingerprint()})
    with pytest.raises(RecipeError, match="The training images changed after"):
        Run(recipe, *others).load_state_dict(older | {"fingerprint": parts[0].fingerprint()})

    loaded = load_checkpoint(teacher)
    save_checkpoint(loaded._replace(card=loaded.card | {"name": "another"}), teacher)
    with pytest.raises(RecipeError, match="The teacher's checkpoint changed after"):
        Run(recipe, *parts).load_state_dict(state)
    run = Run(Recipe.model_validate(QUICK_RECIPE), *parts)
    renamed = parts[0]._replace(classes=[name.upper() for name in parts[0].classes])
    with pytest.raises(RecipeError, match="The names of the classes changed after"):
        Run(run.recipe, renamed, parts[1]).load_state_dict(run.state_dict())


def test_stops_when_the_loss_is_no_number(dataset: Path) -> None:
    run = make_run(dataset, optimizer={"name": "sgd", "lr": 1e9})
    with pytest.raises(RecipeError, match=r"The loss became (nan|inf) in epoch 1/2; try a lower optimizer\.lr"):
        run.train_epoch()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixed_image_is_the_mix_of_two(dataset: Path, smoothing: float) -> None:
    run = make_run(dataset, augment={"mixup": 0.5, "cutmix": 0.5}, label_smoothing=smoothing)
    images, indices, shares = Epoch(run.training, run.recipe, 1)[0]
    logits = run.model.train()(images).detach()
    labels, partners = run.training.labels[indices], run.training.labels[indices.roll(1)]
    own = shares[torch.arange(16), labels] * (labels != partners) + (labels == partners)

    def losses(labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")

    loss, correct = run.train_batch(images, indices, shares)
    assert loss == pytest.approx((own * losses(labels) + (1 - own) * losses(partners)).sum().item(), rel=1e-4)
    larger = torch.where(own >= 0.5, labels, partners)
    assert correct == (logits.argmax(dim=1) == larger).sum()


def test_a_teacher_sees_the_mixed_images(checkpoint: Path, dataset: Path) -> None:
    distillation = {"teacher": str(checkpoint), "weight": 1.0}
    run = make_run(dataset, augment={"cutmix": 1.0}, distillation=distillation)
    batch = Epoch(run.training, run.recipe, 1)[0]
    assert run.teacher
    with patch.object(run.teacher, "network", wraps=run.teacher.network) as network:
        run.train_batch(*batch)
    assert torch.equal(network.call_args.args[0], batch[0])


@pytest.mark.parametrize(("best_by", "epoch"), [("loss", 1), ("accuracy", 2)])
def test_keeps_the_epoch_that_the_recipe_calls_best(dataset: Path, best_by: str, epoch: int) -> None:
    run = make_run(dataset, best_by=best_by)
    losses, accuracies = (0.1, 0.2), (0.8, 0.9)
    run.history = [
        {"epoch": number, "validation_loss": loss, "validation_accuracy": accuracy}
        for number, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), start=1)
    ]
    assert run.best_row["epoch"] == epoch


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "whitened_cnn", "optimizer": {"name": "muon", "lr": 0.1, "momentum": 0.6}},
        {"architecture": "whitened_cnn", "smaller_images": [{"epochs": 1, "size": 16}]},
        {"optimizer": {"name": "muon", "lr": 0.1, "momentum": 0.6}, "schedule": {"name": "triangular"}},
    ],
)
def test_learns_by_other_means_too(dataset: Path, changes: dict) -> None:
    run = make_run(dataset, **changes)
    for _ in range(2):
        row = run.train_epoch()
    assert row["validation_accuracy"] > 0.5


@pytest.mark.parametrize(("size", "seen"), [(32, 100), (64, 25)])
def test_large_images_initialise_with_fewer_of_them(
    size: int, seen: int, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run.IMAGES_TO_INITIALISE", 100)
    given: list[int] = []
    monkeypatch.setattr("training.models.Network.initialise", lambda self, images: given.append(len(images)))
    recipe = Recipe.model_validate(QUICK_RECIPE | {"architecture": "resnet18", "input": {"size": size}})
    images = load_images(dataset, "train", [Preprocessing(32)])
    many = images.subset(torch.arange(400) % len(images.labels))
    pixels = torch.zeros(400, 3, size, size, dtype=torch.uint8)
    many = many._replace(inputs=Inputs([recipe.preprocessing], [pixels]))
    Run(recipe, many, many)
    assert given == [seen]

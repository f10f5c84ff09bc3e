"""Checkpoints: a classifier's weights and its model card in one file. Loading it runs no code from the file."""

import io
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from handler.transforms import Preprocessing, inputs_of
from training import pretrained
from training.classifier import (
    Classifier,
    Energy,
    FeatureCosine,
    FeatureNeighbours,
    OfOneInput,
    Pair,
    make_classifier,
)
from training.data import Images, load_images, stratified_split
from training.files import written_whole
from training.models import ARCHITECTURES, NARROWER, Ensemble, Network, copy_weights
from training.outcome import Stopped
from training.project import from_recipe

LAST = "last.pth"  # in the folder of a run: its state, from which it is resumed


class CheckpointError(Stopped, ValueError):
    """A checkpoint cannot be used; the message says why."""


class Checkpoint(NamedTuple):
    """The state of a Classifier, and its model card: classes, recipe, calibration, metrics, data, …"""

    weights: dict[str, Tensor]
    card: dict[str, Any]

    @property
    def inputs(self) -> list[Preprocessing]:
        """The preprocessing of each input of the network."""
        return inputs_of(self.card)

    def classifier(self) -> Classifier | Pair:
        """Rebuild the classifier in evaluation mode, on the CPU."""
        if "pair" in self.card["recipe"]:
            recipe = self.card["recipe"]
            thumbnails, photos = self.members()
            return join_pair(thumbnails, photos, recipe["pixels"], recipe["limit"])
        return self.single()

    def single(self) -> Classifier:
        """Rebuild the classifier of a single network or an ensemble. Raises CheckpointError if it is a pair."""
        if members := self.card["recipe"].get("pair"):
            names = " or ".join(member["name"] for member in members)
            raise CheckpointError(f"{self.card['name']} is a pair of networks; name one of them: {names}.")
        calibration = self.card["calibration"]
        match calibration["in_distribution"]["score"]:
            case "feature_cosine":
                score: nn.Module = FeatureCosine(self.weights["score.means"])
            case "feature_neighbours":
                score = FeatureNeighbours(self.weights["score.images"])
            case _:
                score = Energy()
        network = build(self.card["recipe"], len(self.card["classes"]))
        classifier = make_classifier(network, calibration["temperature"], score, len(self.inputs))
        classifier.load_state_dict(self.weights)
        return classifier.eval()

    def check_trained(self) -> None:
        """Raise CheckpointError if the weights are not those of a single training."""
        if not {"architecture", "optimizer"} <= self.card["recipe"].keys():
            raise CheckpointError(
                f"{self.card['name']} was not trained by one recipe; name a checkpoint that 'classifier train' made."
            )

    def members(self) -> list["Checkpoint"]:
        """Return the two checkpoints of a pair."""
        members = zip(("thumbnails.", "photos."), self.card["recipe"]["pair"], strict=True)
        return [
            Checkpoint(_inner(self.weights, prefix), card | {"classes": self.card["classes"]})
            for prefix, card in members
        ]


def _inner(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix).removeprefix("asked.").removeprefix("classifier."): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def join_pair(thumbnails: Checkpoint, photos: Checkpoint, pixels: int, limit: float) -> Pair:
    """Make one classifier of two in evaluation mode; see `Pair`. Its inputs are those of `inputs_of_both`."""
    first = thumbnails.classifier()
    thresholds = [member.card["calibration"]["in_distribution"]["threshold"] for member in (thumbnails, photos)]
    return Pair(
        OfOneInput(first, 0) if len(thumbnails.inputs) == 1 else first,
        photos.classifier(),
        inputs_of_both(thumbnails, photos).index(photos.inputs[0]),
        (thresholds[0], thresholds[1]),
        pixels,
        limit,
        len(thumbnails.card["classes"]),
    ).eval()


def inputs_of_both(first: Checkpoint, second: Checkpoint) -> list[Preprocessing]:
    """Return the inputs of two checkpoints, those of the first one first, and none twice."""
    return list(dict.fromkeys([*first.inputs, *second.inputs]))


def build(recipe: dict[str, Any], num_classes: int) -> Network:
    """Build the network of a recipe, which is given as plain values: a single network, or an ensemble of members."""
    if "members" in recipe:
        return join_networks(recipe, [build(member, num_classes) for member in recipe["members"]])
    if "merged" in recipe:
        return pretrained.merged(recipe["architecture"], recipe["merged"], input_of(recipe).size)
    architecture = recipe["architecture"]
    if pretrained.is_timm(architecture):
        return pretrained.build(architecture, num_classes, recipe["dropout"], input_of(recipe).size)
    return ARCHITECTURES[architecture](num_classes, recipe["dropout"])


def join_networks(recipe: dict[str, Any], members: list[Network]) -> Ensemble:
    """Make the network of an ensemble's recipe from its members."""
    inputs = distinct_inputs(recipe)
    places = [inputs.index(input_of(member)) for member in recipe["members"]]
    return Ensemble(members, places, recipe["temperatures"], recipe["weights"])


def input_of(recipe: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing of a single network's recipe; older recipes name none, and mean 32 × 32 pixels."""
    return Preprocessing(**recipe.get("input", {"size": 32}))


def distinct_inputs(recipe: dict[str, Any]) -> list[Preprocessing]:
    """Return the inputs of a recipe's network: one, or as many as the members of an ensemble have different ones."""
    return list(dict.fromkeys(map(input_of, recipe.get("members", [recipe]))))


def copy_initial(network: Network, recipe: dict[str, Any], classes: list[str]) -> nn.Module:
    """Copy the weights that a recipe names as `initial` into a network; those of a linear head for the same classes.

    Returns the head that they had, as wide as the network. Raises CheckpointError or PretrainedError if they are
    missing, or of another architecture.
    """
    initial, architecture = recipe["initial"], recipe["architecture"]
    path = from_recipe(initial)
    if pretrained.is_timm(architecture) and (initial == pretrained.IMAGENET or path.is_dir()):
        folder = None if initial == pretrained.IMAGENET else path
        return pretrained.copy_imagenet(network, architecture, input_of(recipe).size, folder, classes)
    checkpoint = load_checkpoint(path)
    held = checkpoint.card["recipe"].get("architecture")
    if held not in (architecture, NARROWER.get(architecture, architecture)):
        raise CheckpointError(f"{initial} holds no {architecture}; choose an initial checkpoint that does.")
    given = checkpoint.single().network
    head = given.head
    if held == architecture:
        try:
            network.features.load_state_dict(given.features.state_dict())
        except RuntimeError as error:
            size = checkpoint.inputs[0].size
            raise CheckpointError(
                f"{initial} holds a {architecture} for images of {size} pixels alone; set input.size to {size}."
            ) from error
    else:
        copy_weights(given.features, network.features)
        head = nn.Linear(network.head.in_features, given.head.out_features)  # type: ignore[arg-type]
        copy_weights(given.head, head)
    if checkpoint.card["classes"] == classes and isinstance(head, nn.Linear):  # others join classes of ImageNet
        network.head.load_state_dict(head.state_dict())
    return head


def describe(name: str, recipe: dict[str, Any], training: Images, data: Path | None, **others: Any) -> dict[str, Any]:
    """Make the card of a classifier trained on `training`, which comes from the folder `data` or from CIFAR-10."""
    return {
        "name": name,
        "classes": training.classes,
        "preprocessing": [each._asdict() for each in training.inputs.preprocessing],
        "recipe": recipe,
        "data": {
            "name": "CIFAR-10" if data is None else data.resolve().name,
            "training_images": len(training.labels),
            "class_counts": training.labels.bincount(minlength=len(training.classes)).tolist(),
            "fingerprint": training.fingerprint(),
        },
        "commit": current_commit(),
        "torch": str(torch.__version__),
        **others,
    }


def images_of(checkpoint: Checkpoint, data: Path | None, inputs: list[Preprocessing]) -> tuple[Images, Images]:
    """Return the images that a checkpoint was trained on and its validation images, for some inputs.

    Raises CheckpointError if `data` holds other images, or if it has none.
    """
    recipe = checkpoint.card["recipe"]
    while members := recipe.get("members") or [member["recipe"] for member in recipe.get("pair", ())]:
        recipe = members[0]
    if "validation_fraction" not in recipe:
        raise CheckpointError(
            f"{checkpoint.card['name']} was not trained here, so it has no validation images; name a checkpoint that "
            "'classifier train' made."
        )
    split = recipe["validation_fraction"], recipe["split_seed"]
    training, validation = stratified_split(load_images(data, "train", inputs), *split)
    if not was_trained_on(checkpoint, training, data, split):
        raise CheckpointError(f"{checkpoint.card['name']} was trained on other images; name its own with --data.")
    return training, validation


def was_trained_on(checkpoint: Checkpoint, training: Images, data: Path | None, split: tuple[float, int]) -> bool:
    """Return whether a checkpoint was trained on these images, which `split` has left of those in `data`.

    If they are for other inputs, they are loaded for its own: a large JPEG is decoded as large as the largest needs.
    """
    if training.inputs.preprocessing != checkpoint.inputs:
        training, _ = stratified_split(load_images(data, "train", checkpoint.inputs), *split)
    return bool(checkpoint.card["data"]["fingerprint"] == training.fingerprint())


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round filters and matrices to half precision, which halves the file; other weights need the range of float32."""
    return {
        name: value.half() if value.ndim > 1 and "score" not in name.split(".") else value
        for name, value in weights.items()
    }


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    save({"weights": checkpoint.weights, **checkpoint.card}, path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint on the CPU. Raises CheckpointError if it is missing or damaged."""
    card = load(path)
    if not isinstance(card, dict) or not {"weights", "classes", "recipe", "calibration"} <= card.keys():
        raise CheckpointError(f"{path} is no checkpoint of a classifier; 'classifier train' makes one.")
    card = _current_card(card)
    return Checkpoint(card.pop("weights"), card)


def _current_card(card: dict[str, Any]) -> dict[str, Any]:
    """Give a card and its weights today's names, because older files have others."""
    if old := card.pop("normalisation", None):
        size, mean, std = old["input_size"], tuple(old["mean"]), tuple(old["std"])
        card["preprocessing"] = [Preprocessing(size, "squeeze", mean, std)._asdict()]
    calibration = card["calibration"]
    if "familiarity" in calibration:
        calibration["in_distribution"] = calibration.pop("familiarity")
        card["weights"] = {name.replace("familiarity.", "score."): value for name, value in card["weights"].items()}
    return card


def save(value: Any, path: Path) -> None:
    """Write with torch.save; a kill leaves the old file or the new one. Equal values give equal bytes."""
    content = io.BytesIO()  # torch would turn the error of a full disk into another one
    torch.save(value, content)
    with written_whole(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load(path: Path) -> Any:
    """Read tensors and plain values on the CPU. Raises CheckpointError if the file is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}; 'classifier train' makes one.") from None
    except Exception as error:  # the unpickler and the zip reader raise many kinds
        raise CheckpointError(f"{path} cannot be read as a checkpoint; it may be damaged.") from error


def current_commit() -> str | None:
    """Return the commit of this checkout, with a + if files differ from it, or None if this is no checkout."""
    describe_command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        output = subprocess.run(describe_command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.stdout.strip()

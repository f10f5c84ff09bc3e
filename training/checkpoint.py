"""Checkpoints: a classifier's weights and its model card in one file that loads without running code."""

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from handler.transforms import INPUT_SIZE, MEAN, STD
from training.classifier import Classifier, Energy, FeatureCosine
from training.data import Images
from training.files import written_whole
from training.models import ARCHITECTURES, Ensemble, Network
from training.outcome import Stopped
from training.project import from_recipe

NORMALISATION = {"input_size": INPUT_SIZE, "mean": list(MEAN), "std": list(STD)}


class CheckpointError(Stopped, ValueError):
    """A checkpoint that cannot be used; the message says why."""


class Checkpoint(NamedTuple):
    """The state of a Classifier, and the card that says what it is: classes, recipe, calibration, metrics, data, …"""

    weights: dict[str, Tensor]
    card: dict[str, Any]

    def classifier(self) -> Classifier:
        """Rebuild the classifier in evaluation mode, on the CPU."""
        calibration = self.card["calibration"]
        familiarity: nn.Module = Energy()
        if calibration["familiarity"]["score"] == "feature_cosine":
            familiarity = FeatureCosine(self.weights["familiarity.means"])
        network = build(self.card["recipe"], len(self.card["classes"]))
        classifier = Classifier(network, calibration["temperature"], familiarity)
        classifier.load_state_dict(self.weights)
        return classifier.eval()


def build(recipe: dict[str, Any], num_classes: int) -> Network:
    """Build the network that a recipe, as plain values, speaks of: one, or the members of an ensemble."""
    if "members" in recipe:
        members = [build(member, num_classes) for member in recipe["members"]]
        return Ensemble(members, recipe["temperatures"], recipe["weights"])
    return ARCHITECTURES[recipe["architecture"]](num_classes, recipe["dropout"])


def copy_initial(network: Network, path: str, architecture: str, classes: list[str]) -> None:
    """Copy the weights of a checkpoint into a network, those of the head only where the classes are the same.

    Raises CheckpointError where it holds another architecture.
    """
    checkpoint = load_checkpoint(from_recipe(path))
    if checkpoint.card["recipe"].get("architecture") != architecture:
        raise CheckpointError(f"{path} holds no {architecture}; name an initial checkpoint that does.")
    given = checkpoint.classifier().network
    network.features.load_state_dict(given.features.state_dict())
    if checkpoint.card["classes"] == classes:
        network.head.load_state_dict(given.head.state_dict())


def describe(name: str, recipe: dict[str, Any], training: Images, data: Path | None, **others: Any) -> dict[str, Any]:
    """Make the card of a classifier trained on `training`, the images of the folder `data` or of CIFAR-10."""
    return {
        "name": name,
        "classes": training.classes,
        "normalisation": NORMALISATION,
        "recipe": recipe,
        "data": {
            "name": "CIFAR-10" if data is None else data.resolve().name,
            "training_images": len(training.labels),
            "fingerprint": training.fingerprint(),
        },
        "commit": current_commit(),
        "torch": str(torch.__version__),
        **others,
    }


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round filters and matrices to half precision, which halves the file; all else needs its range."""
    return {
        name: value.half() if value.ndim > 1 and not name.startswith("familiarity.") else value
        for name, value in weights.items()
    }


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    save({"weights": checkpoint.weights, **checkpoint.card}, path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint on the CPU. Raises CheckpointError where it is missing, damaged or of other preprocessing."""
    card = load(path)
    if (
        not isinstance(card, dict)
        or not {"weights", "classes", "normalisation", "recipe", "calibration"} <= card.keys()
    ):
        raise CheckpointError(f"{path} is no checkpoint of training.train; 'make train' makes one.")
    if card["normalisation"] != NORMALISATION:
        raise CheckpointError(
            f"{path} was trained with {card['normalisation']}, but handler/transforms.py says {NORMALISATION}; "
            "use the version of handler/transforms.py it was trained with, or train again."
        )
    return Checkpoint(card.pop("weights"), card)


def save(value: Any, path: Path) -> None:
    """Write with torch.save such that a kill leaves the old file or the new one; equal values give equal bytes."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        torch.save(value, file)  # given a path, it would write the temporary name into the file


def load(path: Path) -> Any:
    """Read tensors and plain values on the CPU. Raises CheckpointError where that cannot be done."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}; 'make train' makes one.") from None
    except Exception as error:  # the unpickler and the zip reader raise many kinds
        raise CheckpointError(f"{path} cannot be read as a checkpoint; it may be damaged.") from error


def current_commit() -> str | None:
    """Return the commit of this checkout, with a + behind it where files differ from it; None outside of one."""
    describe_command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(describe_command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()

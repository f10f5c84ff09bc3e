"""Checkpoints: a network's weights and its model card in one file that loads without running code."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from handler.transforms import INPUT_SIZE, MEAN, STD
from training.config import Recipe
from training.models import ARCHITECTURES

NORMALISATION = {"input_size": INPUT_SIZE, "mean": list(MEAN), "std": list(STD)}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why."""


class Checkpoint(NamedTuple):
    """Trained weights, and the card that says what they are: name, classes, normalisation, recipe, metrics, seed, …"""

    weights: dict[str, Tensor]
    card: dict[str, Any]

    def network(self) -> nn.Module:
        """Rebuild the network in evaluation mode, on the CPU."""
        recipe = self.card["recipe"]
        model = ARCHITECTURES[recipe["architecture"]](len(self.card["classes"]), recipe["dropout"])
        model.load_state_dict(self.weights)
        return model.eval()


def describe(
    recipe: Recipe, classes: list[str], metrics: dict[str, Any], data: str, commit: str | None
) -> dict[str, Any]:
    """Make the model card of a finished run."""
    return {
        "name": recipe.name,
        "classes": classes,
        "normalisation": NORMALISATION,
        "recipe": recipe.model_dump(),
        "metrics": metrics,
        "seed": recipe.seed,
        "data": data,
        "commit": commit,
        "torch": str(torch.__version__),
    }


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    save({"weights": checkpoint.weights, **checkpoint.card}, path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint on the CPU. Raises CheckpointError where it is missing, damaged or of other preprocessing."""
    card = load(path)
    if not isinstance(card, dict) or not {"weights", "classes", "normalisation", "recipe"} <= card.keys():
        raise CheckpointError(f"{path} is no checkpoint of training.train; 'make train' makes one.")
    if card["normalisation"] != NORMALISATION:
        raise CheckpointError(
            f"{path} was trained with {card['normalisation']}, but handler/transforms.py says {NORMALISATION}; "
            "use the version of handler/transforms.py it was trained with, or train again."
        )
    return Checkpoint(card.pop("weights"), card)


def save(value: Any, path: Path) -> None:
    """Write with torch.save such that a kill leaves the old file or the new one."""
    with written_whole(path) as temporary:
        torch.save(value, temporary)


def load(path: Path) -> Any:
    """Read tensors and plain values on the CPU. Raises CheckpointError where that cannot be done."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}; 'make train' makes one.") from None
    except Exception as error:  # the unpickler and the zip reader raise many kinds
        raise CheckpointError(f"{path} cannot be read as a checkpoint; it may be damaged.") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a file to write beside `path`, which replaces `path` in one step once it is complete and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        os.close(handle)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def current_commit() -> str | None:
    """Return the commit of this checkout, with a + behind it where files differ from it; None outside of one."""
    describe_command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(describe_command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()

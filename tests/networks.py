"""Networks of any input size and number of classes that need no training."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handler.transforms import Preprocessing
from training.checkpoint import Checkpoint, build, load_checkpoint
from training.classifier import Energy, make_classifier
from training.models import ARCHITECTURES, CNN_SIZE, Network, cnn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation


def enlarged(path: Path, preprocessing: Preprocessing) -> Checkpoint:
    """Return a checkpoint of `cnn` that predicts as it does, but from a larger input with another normalisation."""
    loaded = load_checkpoint(path)
    name = f"cnn_of_{preprocessing.size}"
    ARCHITECTURES[name] = partial(_cnn_of, preprocessing.size)
    classifier, network = loaded.single(), _cnn_of(preprocessing.size, len(loaded.card["classes"]), 0.0)
    norm = network.features[1]  # type: ignore[index]
    norm.weight.data = torch.tensor(preprocessing.std) / 0.5  # from their values back to those of cnn
    norm.bias.data = (torch.tensor(preprocessing.mean) - 0.5) / 0.5
    network.features[2], network.head = classifier.network.features, classifier.network.head  # type: ignore[operator]
    classifier.network = network
    return Checkpoint(classifier.state_dict(), loaded.card | _seeing(loaded, name, preprocessing))


def _cnn_of(size: int, num_classes: int, dropout: float) -> Network:
    """Build `cnn` behind a layer that shrinks an image to its size."""
    inner = cnn(num_classes, dropout)
    return Network(nn.Sequential(nn.AvgPool2d(size // CNN_SIZE), nn.BatchNorm2d(3), inner.features), inner.head)


def untrained(path: Path, architecture: str, preprocessing: Preprocessing, classes: list[str]) -> Checkpoint:
    """Return a checkpoint with random weights; the rest of its card is that of the checkpoint at `path`."""
    loaded = load_checkpoint(path)
    torch.manual_seed(0)
    card = loaded.card | _seeing(loaded, architecture, preprocessing)
    network = build(card["recipe"], len(classes))
    in_distribution = loaded.card["calibration"]["in_distribution"] | {"score": "energy", "threshold": 0.0}
    calibration = {"temperature": 1.0, "in_distribution": in_distribution}
    weights = make_classifier(network, 1.0, Energy(), 1).state_dict()
    return Checkpoint(weights, card | {"classes": classes, "calibration": calibration})


def _seeing(loaded: Checkpoint, architecture: str, preprocessing: Preprocessing) -> dict[str, Any]:
    values = preprocessing._asdict()
    recipe = loaded.card["recipe"] | {"architecture": architecture, "input": values}
    return {"recipe": recipe, "preprocessing": [values]}

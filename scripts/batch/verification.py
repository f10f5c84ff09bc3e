"""The proof that the served model is the trained one: it predicts every image by the gateway and offline."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.batch.client import Gateway
from scripts.batch.images import grouped, list_images, names_of
from training.checkpoint import Checkpoint, load_checkpoint
from training.data import read_files
from training.folders import label_of, roots_of
from training.metrics import predict
from training.outcome import Outcome, Stopped

TOLERANCE = 1e-4  # of a probability; the network sees the images in other batches


def offline(checkpoint: Checkpoint, images: list[Path]) -> Tensor:
    """Return the probabilities (N, C) that the checkpoint itself gives. Raises Stopped if a file is no image."""
    logits, _ = predict(checkpoint.classifier(), read_files(images, checkpoint.inputs))
    return logits.softmax(dim=1)


def served(gateway: Gateway, images: list[Path], classes: list[str]) -> Tensor:
    """Return the probabilities (N, C) that the gateway gives. Raises Stopped if it refuses an image."""
    groups = list(grouped(images))
    probabilities = []
    for paths, answers in zip(groups, gateway.predict_all(groups), strict=True):
        for path, answer in zip(paths, answers, strict=True):
            if not answer["success"]:
                raise Stopped(f"{path}: {answer['error']}")
            probabilities.append([answer["class_probabilities"][name] for name in classes])
    return torch.tensor(probabilities)


def compare(there: Tensor, here: Tensor, images: list[Path], classes: list[str], named: list[Path]) -> dict[str, Any]:
    """Compare served probabilities with those offline; figures that need labels count `labelled` images only."""
    roots = roots_of(named)
    labels_of = [label_of(image, roots, classes) for image in images]
    same = int((there.argmax(dim=1) == here.argmax(dim=1)).sum())
    difference = (there - here).abs().max().item()
    labelled = [index for index, label in enumerate(labels_of) if label in classes]
    labels = torch.tensor([classes.index(labels_of[index]) for index in labelled])
    right_served, right_offline = (
        int((probabilities[labelled].argmax(dim=1) == labels).sum()) for probabilities in (there, here)
    )
    return {
        "same": same == len(images) and difference <= TOLERANCE,
        "images": len(images),
        "same_class": same,
        "largest_difference": difference,
        "labelled": len(labelled),
        "right_served": right_served,
        "right_offline": right_offline,
    }


def as_text(comparison: dict[str, Any]) -> str:
    lines = [
        f"{comparison['same_class']:,} of {comparison['images']:,} images have the same class; "
        f"probabilities differ by {comparison['largest_difference']:.1e} at most"
    ]
    if comparison["labelled"]:
        lines += [
            f"right: {comparison['right_served']:,} served, {comparison['right_offline']:,} offline, "
            f"of {comparison['labelled']:,} in folders named as classes"
        ]
    return "\n".join(lines)


def verify(checkpoint: Path, paths: tuple[str, ...], listed: str | None, url: str, **reach: Any) -> Outcome:
    """Compare the served model with a checkpoint on the images that you named; `reach` is Gateway's. Raises Stopped."""
    trained = load_checkpoint(checkpoint)
    named = list(map(Path, names_of(paths, listed)))
    images = list_images(named)
    gateway = Gateway(url, **reach)
    classes = gateway.classes()
    if classes != trained.card["classes"]:
        raise Stopped(
            f"{url} serves other classes than those of {checkpoint}; name the checkpoint that is served, "
            "or another --url."
        )
    comparison = compare(served(gateway, images, classes), offline(trained, images), images, classes, named)
    return Outcome(0 if comparison["same"] else 1, as_text(comparison), comparison)

#!/usr/bin/env python3
"""Prove that what is served is what was trained: each image of a folder through the gateway, and offline.

    .venv/bin/python scripts/verify.py model_store/cifar10_whitened_resnet.pth data/cifar10/test
    .venv/bin/python scripts/verify.py model_store/cifar10_whitened_resnet.pth 'photos/**/*.jpg' --json

Prints how many images have the same class, the largest difference of a probability and, where folders are named as
classes are, both accuracies. Exit status: 0 the same, 1 not, 2 stopped before the end.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.transforms import ImageError, decode_image, to_pixels
from scripts import options
from scripts.batch.client import Gateway
from scripts.batch.images import grouped, list_images, paths_of
from scripts.options import Outcome, Stopped
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from training.folders import label_of, roots_of
from training.metrics import predict

TOLERANCE = 1e-4  # of a probability; the network sees the images in other batches


def offline(checkpoint: Checkpoint, images: list[Path]) -> Tensor:
    """Return the probabilities (N, C) that the checkpoint itself gives. Raises Stopped for what is no image."""
    pixels = []
    for image in images:
        try:
            pixels.append(to_pixels(decode_image(image.read_bytes())))
        except ImageError as error:
            raise Stopped(f"{image}: {error}") from None
    logits, _ = predict(checkpoint.classifier(), torch.stack(pixels))
    return logits.softmax(dim=1)


def served(gateway: Gateway, images: list[Path], classes: list[str]) -> Tensor:
    """Return the probabilities (N, C) that the gateway gives. Raises Stopped where it refuses an image."""
    groups = list(grouped(images))
    probabilities = []
    for paths, answers in zip(groups, gateway.predict_all(groups), strict=True):
        for path, answer in zip(paths, answers, strict=True):
            if not answer["success"]:
                raise Stopped(f"{path}: {answer['error']}")
            probabilities.append([answer["class_probabilities"][name] for name in classes])
    return torch.tensor(probabilities)


def compare(there: Tensor, here: Tensor, images: list[Path], classes: list[str], named: list[Path]) -> dict[str, Any]:
    """Compare probabilities that were served with those offline; what needs labels is of `labelled` images."""
    roots = roots_of(named)
    labels_of = [label_of(image, roots, classes) for image in images]
    same = int((there.argmax(dim=1) == here.argmax(dim=1)).sum())
    difference = (there - here).abs().max().item()
    labelled = [index for index, label in enumerate(labels_of) if label in classes]
    labels = torch.tensor([classes.index(labels_of[index]) for index in labelled])
    right_served, right_offline = (int((each[labelled].argmax(dim=1) == labels).sum()) for each in (there, here))
    return {
        "same": same == len(images) and difference <= TOLERANCE,
        "images": len(images),
        "same_class": same,
        "largest_difference": difference,
        "labelled": len(labelled),
        "right_served": right_served,
        "right_offline": right_offline,
    }


def as_text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['same_class']:,} of {found['images']:,} images have the same class; "
        f"probabilities differ by {found['largest_difference']:.1e} at most"
    ]
    if found["labelled"]:
        lines += [
            f"right: {found['right_served']:,} served, {found['right_offline']:,} offline, "
            f"of {found['labelled']:,} in folders named as classes"
        ]
    return "\n".join(lines)


def verify(arguments: argparse.Namespace) -> Outcome:
    """Carry out the command. Raises Stopped."""
    try:
        checkpoint = load_checkpoint(arguments.checkpoint)
    except CheckpointError as error:
        raise Stopped(str(error)) from None
    named = paths_of(arguments)
    images = list_images(named)
    gateway = Gateway(arguments.url, arguments.connections, arguments.token_file)
    classes = gateway.classes()
    if classes != checkpoint.card["classes"]:
        raise Stopped(f"{arguments.url} serves other classes than those of {arguments.checkpoint}.")
    found = compare(served(gateway, images, classes), offline(checkpoint, images), images, classes, named)
    return Outcome(0 if found["same"] else 1, as_text(found), found)


def main() -> int:
    parser = options.new_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="the one that is served")
    options.add_images(parser)
    options.add_gateway(parser)
    options.add_token(parser)
    options.add_connections(parser)
    return options.execute(verify, parser.parse_intermixed_args())


if __name__ == "__main__":
    sys.exit(main())

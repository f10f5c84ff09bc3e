#!/usr/bin/env python3
"""Prove that what is served is what was trained: each image of a folder through the gateway, and offline.

    scripts/verify.py model_store/cifar10_whitened_resnet.pth data/cifar10/test

Prints how many images have the same class, the largest difference of a probability and, where folders are named as
classes are, both accuracies. Exit status: 0 the same, 1 not, 2 stopped before the end.
"""

import argparse
import sys
from itertools import chain
from pathlib import Path

import requests
import torch
from torch import Tensor

from handler.transforms import ImageError, decode_image, to_pixels
from scripts.batch_predict import (
    FIGURES,
    Gateway,
    add_gateway_arguments,
    find_images,
    grouped,
    predict_all,
    stopped,
)
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from training.metrics import predict

TOLERANCE = 1e-4  # of a probability; the network sees the images in other batches


class VerifyError(ValueError):
    """The two cannot be compared; the message says why."""


def offline(checkpoint: Checkpoint, images: list[Path]) -> Tensor:
    """Return the probabilities (N, C) that the checkpoint itself gives. Raises VerifyError for what is no image."""
    pixels = []
    for image in images:
        try:
            pixels.append(to_pixels(decode_image(image.read_bytes())))
        except ImageError as error:
            raise VerifyError(f"{image}: {error}") from None
    logits, _ = predict(checkpoint.classifier(), torch.stack(pixels))
    return logits.softmax(dim=1)


def served(gateway: Gateway, images: list[Path], classes: list[str], connections: int) -> Tensor:
    """Return the probabilities (N, C) that the gateway gives. Raises VerifyError where it refuses an image."""
    rows = list(chain.from_iterable(predict_all(gateway, list(grouped(images)), classes, connections, done=0)))
    for file, *figures in rows:
        said = dict(zip(FIGURES, figures, strict=False))
        if said["error"]:
            raise VerifyError(f"{file}: {said['error']}")
    return torch.tensor([row[1 + len(FIGURES) :] for row in rows])


def compare(there: Tensor, here: Tensor, images: list[Path], classes: list[str]) -> tuple[str, bool]:
    """Return a report on probabilities that were served and those offline, and whether they are the same."""
    same = int((there.argmax(dim=1) == here.argmax(dim=1)).sum())
    difference = (there - here).abs().max().item()
    lines = [
        f"{same:,} of {len(images):,} images have the same class; probabilities differ by {difference:.1e} at most"
    ]
    labelled = [index for index, image in enumerate(images) if image.parent.name in classes]
    if labelled:
        labels = torch.tensor([classes.index(images[index].parent.name) for index in labelled])
        right = [int((each[labelled].argmax(dim=1) == labels).sum()) for each in (there, here)]
        lines += [f"right: {right[0]:,} served, {right[1]:,} offline, of {len(labelled):,} in folders named as classes"]
    return "\n".join(lines), same == len(images) and difference <= TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the one that is served")
    add_gateway_arguments(parser)
    arguments = parser.parse_args()
    gateway = Gateway(arguments.url, arguments.connections)
    try:
        checkpoint, images = load_checkpoint(arguments.checkpoint), list(find_images(arguments.paths))
        classes = gateway.classes()
        if not images:
            raise VerifyError("There are no JPEG, PNG or GIF files in what was named.")
        if classes != checkpoint.card["classes"]:
            raise VerifyError(f"{arguments.url} serves other classes than those of {arguments.checkpoint}.")
        there = served(gateway, images, classes, arguments.connections)
        report, same = compare(there, offline(checkpoint, images), images, classes)
    except (CheckpointError, VerifyError) as error:
        return stopped(str(error))
    except FileNotFoundError as error:
        return stopped(f"There is no file or folder {error}.")
    except requests.RequestException:
        return stopped(f"There is no model to ask at {arguments.url}; start one with 'make serve' or name its --url.")
    print(report)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

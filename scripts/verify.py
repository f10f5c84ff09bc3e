#!/usr/bin/env python3
"""Prove that the served model is the trained one: every image through the gateway, and offline.

    classifier verify cifar10_pair data/cifar10/test
    classifier verify runs/mine/mine.pth 'photos/**/*.jpg' --json

Prints how many images have the same class, the largest difference of a probability and, if folders have the names of
classes, both accuracies. Exit status: 0 the same, 1 not, 2 stopped before the end.
"""

from typing import Any

from scripts import options
from training.commands import as_json, checkpoint, command
from training.outcome import Outcome


@command("verify", help=__doc__)
@checkpoint
@options.images
@options.client
@as_json
def main(**given: Any) -> Outcome:
    from scripts.batch.verification import verify

    return verify(**given)


if __name__ == "__main__":
    main()

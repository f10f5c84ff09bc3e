"""Join a checkpoint for thumbnails with one for photos. You export, archive and serve it like any other.

    classifier imagenet --merge cifar10 -o runs/photos.pth
    classifier pair runs/mine/mine.pth runs/photos.pth -o runs/pair.pth

The first answers for images with no more detail than its own training images, the second for sharper ones. The limit
between them accepts nearly all validation images of the first as thumbnails. Near the limit, both have a part.
"""

from pathlib import Path

import click

from training import commands, outliers
from training.calibrate import ACCEPTED, separation
from training.checkpoint import (
    Checkpoint,
    CheckpointError,
    describe,
    halved,
    images_of,
    inputs_of_both,
    join_pair,
    load_checkpoint,
    save_checkpoint,
)
from training.classifier import Detail
from training.data import load_test_images
from training.metrics import figures, predict

BLURRED = 0.995  # share of the validation images with less detail than the limit
PIXELS = 32  # a side of CIFAR-10's images
KEPT = ("name", "recipe", "preprocessing", "calibration", "commit")  # of each card


def pair(thumbnails: Checkpoint, photos: Checkpoint, pixels: int, data: Path | None, name: str) -> Checkpoint:
    """Make one checkpoint of two. Raises CheckpointError if they do not go together.

    The images of the first one are `pixels` wide and high, whatever it makes of them.
    """
    first, second = thumbnails.card, photos.card
    if first["classes"] != second["classes"]:
        raise CheckpointError(f"{first['name']} and {second['name']} know different classes; name two with the same.")
    if any("pair" in card["recipe"] for card in (first, second)) or len(photos.inputs) > 1:
        raise CheckpointError("A pair takes no pair, and no ensemble for photos; name a single network.")
    inputs, size = inputs_of_both(thumbnails, photos), photos.inputs[0].size
    if len(inputs) == len(thumbnails.inputs):
        raise CheckpointError("Both networks of a pair see the same input; name one for photos with another input.")
    if size < 2 * pixels:
        raise CheckpointError(
            f"{second['name']} sees {size} pixels, too few to tell photos from thumbnails of {pixels}; name one that "
            f"sees at least {2 * pixels}."
        )
    training, validation = images_of(thumbnails, data, inputs)
    sharpness = predict(Detail(pixels), validation.inputs.of(photos.inputs))
    limit = sharpness.quantile(BLURRED).item()
    classifier = join_pair(thumbnails, photos, pixels, limit)
    logits, scores = predict(classifier, validation.inputs)
    outside = {kind: predict(classifier, images)[1] for kind, images in outliers.measured(inputs).items()}
    test = load_test_images(data, training.classes, inputs)
    return Checkpoint(
        halved(classifier.state_dict()),  # as they were
        describe(
            name,
            {
                "pair": [{field: card[field] for field in KEPT} for card in (first, second)],
                "pixels": pixels,
                "limit": limit,
            },
            training,
            data,
            calibration={
                "temperature": 1.0,  # each of the two has its own
                "in_distribution": {
                    "score": "pair",
                    "threshold": scores.quantile(1 - ACCEPTED).item(),
                    "accepted": ACCEPTED,
                    "auroc": separation(scores, outside),
                },
            },
            metrics={
                "validation": figures(logits, validation.labels),
                "test": figures(predict(classifier, test.inputs)[0], test.labels),
            },
        ),
    )


@commands.command("pair", help=__doc__)
@click.argument("thumbnails", type=commands.CHECKPOINT, help="for small images, by its name or file")
@click.argument("photos", type=commands.CHECKPOINT, help="for sharp images, by its name or file")
@click.option("--pixels", type=commands.COUNT, default=PIXELS, help=f"a side of the small images (default: {PIXELS})")
@commands.data("photos that the first one was trained on")
@commands.output("the checkpoint to write", required=True)
def main(thumbnails: Path, photos: Path, pixels: int, data: Path | None, output: Path) -> None:
    joined = pair(load_checkpoint(thumbnails), load_checkpoint(photos), pixels, data, output.stem)
    save_checkpoint(joined, output)
    test = joined.card["metrics"]["test"]
    print(f"limit of detail {joined.card['recipe']['limit']:.3f}; test accuracy {test['accuracy']:.2%}; wrote {output}")


if __name__ == "__main__":
    main()

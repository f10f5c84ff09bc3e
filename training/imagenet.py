"""Make a checkpoint of a network that is trained already, for ImageNet's 1,000 classes. You serve it like any other.

    classifier imagenet -o runs/imagenet.pth
    classifier imagenet timm/resnet18 -o runs/resnet18.pth

The weights of timm/tf_efficientnet_lite0 are installed. Others come from timm's hub, or from --initial: a folder with
the file that timm offers for the architecture. Nothing is measured or calibrated, because that needs ImageNet's photos.
"""

from pathlib import Path

import click
import torch

from training import commands, pretrained
from training.checkpoint import Checkpoint, build, copy_initial, current_commit, halved, save_checkpoint
from training.classifier import Energy, make_classifier
from training.config import RecipeError, make_recipe

# The energy of 1,000 logits is above it for any image, so that none is called an outlier.
NO_THRESHOLD = 0.0


def imagenet(architecture: str, initial: str, name: str) -> Checkpoint:
    """Return the checkpoint. Raises RecipeError or PretrainedError if the architecture or weights are not there."""
    if not pretrained.is_timm(architecture):
        raise RecipeError(
            f"{architecture} has no weights for ImageNet; name an architecture {pretrained.PREFIX}<name>."
        )
    unused = {"optimizer": {"name": "sgd", "lr": 1}, "schedule": {"name": "triangular"}}
    plain = make_recipe({"name": name, "architecture": architecture, "initial": initial, **unused}, "imagenet").plain()
    recipe = {field: plain[field] for field in ("name", "architecture", "initial", "input", "dropout")}
    classes = pretrained.imagenet_classes()
    network = build(recipe, len(classes)).eval()
    copy_initial(network, recipe, classes)
    return Checkpoint(
        halved(make_classifier(network, 1.0, Energy(), 1).state_dict()),
        {
            "name": name,
            "classes": classes,
            "preprocessing": [recipe["input"]],
            "recipe": recipe,
            "data": {"name": "ImageNet"},
            "calibration": {
                "temperature": 1.0,
                "in_distribution": {"score": "energy", "threshold": NO_THRESHOLD, "auroc": {}},
            },
            "metrics": {},
            "commit": current_commit(),
            "torch": str(torch.__version__),
        },
    )


@commands.command("imagenet", help=__doc__)
@click.argument("architecture", default=f"{pretrained.PREFIX}{pretrained.PACKAGED}", help="of timm, by its name")
@click.option(
    "--initial", default=pretrained.IMAGENET, metavar="FOLDER", help="weights (default: installed, or the hub)"
)
@commands.output("the checkpoint to write", required=True)
def main(architecture: str, initial: str, output: Path) -> None:
    save_checkpoint(imagenet(architecture, initial, output.stem), output)
    print(f"wrote {output}, with 1,000 classes; nothing was measured")


if __name__ == "__main__":
    main()

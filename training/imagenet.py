"""Make a checkpoint of a network that is trained already, for ImageNet's 1,000 classes. You serve it like any other.

    classifier imagenet -o runs/imagenet.pth
    classifier imagenet timm/resnet18 -o runs/resnet18.pth
    classifier imagenet --merge cifar10 -o runs/photos_of_cifar10.pth

The weights of timm/tf_efficientnet_lite0 are installed. Others come from timm's hub, or from --initial: a folder with
the file that timm offers for the architecture. Nothing is measured or calibrated, because that needs ImageNet's photos.
With --merge it knows fewer classes, each of which joins some of ImageNet's.
"""

from pathlib import Path
from typing import Annotated, Any, cast

import click
import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from training import commands, pretrained
from training.checkpoint import Checkpoint, build, copy_initial, current_commit, halved, save_checkpoint
from training.classifier import Energy, make_classifier
from training.config import RecipeError, make_recipe, read_yaml
from training.models import Merged

# The energy of 1,000 logits is above it for any image, so that none is called an outlier.
NO_THRESHOLD = 0.0


def _numbers(value: Any) -> Any:
    """Return the numbers of classes that a list of numbers, and of ranges such as 7-24, names."""
    if not isinstance(value, list):
        return value
    numbers: list[Any] = []
    for each in value:
        first, _, last = str(each).partition("-")
        is_range = first.isdecimal() and last.isdecimal()
        numbers += range(int(first), int(last) + 1) if is_range else [each]
    return numbers


def _apart(classes: dict[str, list[int]]) -> dict[str, list[int]]:
    numbers = [number for group in classes.values() for number in group]
    if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise ValueError(f"class {twice[0]} of ImageNet may stand only once")
    return classes


Numbers = Annotated[
    list[Annotated[int, Field(ge=0, lt=1000)]], BeforeValidator(_numbers), Field(min_length=1, max_length=1000)
]


class Merge(BaseModel):
    """Classes, each of which joins some of ImageNet's, and how their network sees an image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: dict[str, Any] = {}  # as in a recipe
    threshold: float = NO_THRESHOLD  # of the energy of the logits; images below it are outliers
    classes: Annotated[dict[str, Numbers], Field(min_length=2), AfterValidator(_apart)]


def load_merge(path: Path) -> Merge:
    """Read the classes to join from a YAML file. Raises RecipeError if it does not say so."""
    values = read_yaml(path, "merge of classes", "training/merges")
    try:
        return Merge.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or "its content"
        raise RecipeError(f"{path} cannot be used: {field}: {problem['msg']}; correct it there.") from None


def imagenet(architecture: str, initial: str, name: str, merge: Merge | None = None) -> Checkpoint:
    """Return the checkpoint. Raises RecipeError or PretrainedError if the architecture or weights are not there."""
    if not pretrained.is_timm(architecture):
        raise RecipeError(
            f"{architecture} has no weights for ImageNet; name an architecture {pretrained.PREFIX}<name>."
        )
    unused = {"optimizer": {"name": "sgd", "lr": 1}, "schedule": {"name": "triangular"}}
    seen = {"input": merge.input} if merge else {}
    given = {"name": name, "architecture": architecture, "initial": initial, **seen, **unused}
    plain = make_recipe(given, "imagenet").plain()
    recipe = {field: plain[field] for field in ("name", "architecture", "initial", "input", "dropout")}
    classes = pretrained.imagenet_classes()
    groups = dict(sorted(merge.classes.items())) if merge else {}  # in the order of folders
    if groups:
        recipe["merged"], classes = groups, [*groups]
    network = build(recipe, len(classes)).eval()
    head = copy_initial(network, recipe, classes)
    if groups:
        pretrained.check_head(head, architecture)
        numbers = [number for group in groups.values() for number in group]
        rows = {name: value[numbers] for name, value in head.state_dict().items()}
        cast(Merged, network.head).finer.load_state_dict(rows)
    threshold = merge.threshold if merge else NO_THRESHOLD
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
                "in_distribution": {"score": "energy", "threshold": threshold, "auroc": {}},
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
@click.option("--merge", type=commands.MERGE, metavar="NAME|FILE", help="classes to join, in training/merges or a file")
@commands.output("the checkpoint to write", required=True)
def main(architecture: str, initial: str, merge: Path | None, output: Path) -> None:
    checkpoint = imagenet(architecture, initial, output.stem, load_merge(merge) if merge else None)
    save_checkpoint(checkpoint, output)
    print(f"wrote {output}, with {len(checkpoint.card['classes']):,} classes; nothing was measured")


if __name__ == "__main__":
    main()

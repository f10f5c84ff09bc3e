"""Write the model card of a checkpoint, to read, beside it.

    classifier card runs/mine/mine.pth

writes runs/mine/mine.md.
"""

from pathlib import Path
from typing import Any

import yaml

from training import commands
from training.checkpoint import Checkpoint, load_checkpoint
from training.files import write_whole
from training.metrics import wilson_interval

# What becomes of an image that is not square.
FITS = {
    "squeeze": "an image that is not square is squeezed",
    "crop": "of an image that is not square, only the middle",
    "pad": "an image that is not square gets bars",
}


def describe_in_words(checkpoint: Checkpoint) -> str:
    """Return the card of a checkpoint as Markdown."""
    card = checkpoint.card
    if not card["metrics"]:
        return _of_ready_weights(checkpoint)
    data, calibration = card["data"], card["calibration"]
    score = calibration["in_distribution"]
    seen = " and ".join(f"{each.size} × {each.size} pixels ({FITS[each.fit]})" for each in checkpoint.inputs)
    parameters = sum(value.numel() for name, value in checkpoint.weights.items() if "score" not in name.split("."))
    kinds = "\n".join(f"| {name} | {value:.3f} |" for name, value in score["auroc"].items())
    chose = "chose the epoch, and " if "best_epoch" in card["metrics"] else ""
    return f"""{_front_matter(card)}
# {card["name"]}

Tells {", ".join(card["classes"][:-1])} and {card["classes"][-1]} apart. It has {parameters / 1e6:.2f} million numbers,
stored in half precision. Every figure here was measured with the stored numbers.

{_table(card["metrics"])}

The validation images {chose}fitted the temperature and the threshold.
The test images were read when all of that was done.

## Made from

- Data: {data["name"]}, {data["training_images"]:,} images to train on; checksums {data["fingerprint"]}.
- Code: commit {card["commit"]}, PyTorch {card["torch"]}.
- Recipe, with its seed:

```yaml
{yaml.safe_dump(card["recipe"], sort_keys=False).strip()}
```

## Calibration

- Confidences are softmax outputs at {temperature_of(card)}.
- An image is in distribution if its score (`{score["score"]}`) is at least {score["threshold"]:.3f}, as it is for
  95 % of the validation images. Other images are outliers.

The area under the ROC curve (AUROC) measures how well the score tells the validation images from outliers. The score
was fitted on none of these kinds. 1 is best, and 0.5 is chance:

| outliers | AUROC |
|---|---|
{kinds}

## Limits

- It gives one of its classes to any image. `in_distribution` marks some of the others as outliers, as the table shows.
  It also marks one in twenty good images.
- It sees {seen}. Smaller things in a photograph are lost.
- The figures hold for images like those of {data["name"]}. Measure your own with `classifier evaluate`.
"""


def _front_matter(card: dict[str, Any]) -> str:
    """Return the facts that model hubs read at the head of a card, in YAML between two lines."""
    facts: dict[str, Any] = {
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "torchscript", "onnx"],
        "metrics": ["accuracy"],
    }
    if test := card["metrics"].get("test"):
        dataset = {"name": card["data"]["name"], "type": card["data"]["name"], "split": "test"}
        accuracy = {"type": "accuracy", "value": round(test["accuracy"], 4)}
        result = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": [accuracy]}
        facts["model-index"] = [{"name": card["name"], "results": [result]}]
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n"


def temperature_of(card: dict[str, Any]) -> str:
    """Say at which temperature the softmax is taken; each member of a pair has its own."""
    if members := card["recipe"].get("pair"):
        return " and ".join(f"{member['calibration']['temperature']:.3f} ({member['name']})" for member in members)
    return f"temperature {card['calibration']['temperature']:.3f}"


def _of_ready_weights(checkpoint: Checkpoint) -> str:
    """Return the card of a checkpoint whose weights came ready-made, and which nobody measured here."""
    card, (seen,) = checkpoint.card, checkpoint.inputs
    threshold = card["calibration"]["in_distribution"]["threshold"]
    outliers = (
        f"Below a score of {threshold:g}, which was chosen and not fitted, it calls an image an outlier."
        if threshold
        else "It calls no image an outlier, because no threshold was fitted."
    )
    return f"""{_front_matter(card)}
# {card["name"]}

Tells {len(card["classes"]):,} classes of {card["data"]["name"]} apart, from {card["classes"][0]} to
{card["classes"][-1]}. Its weights came ready-made, by this recipe:

```yaml
{yaml.safe_dump(card["recipe"], sort_keys=False).strip()}
```

- Code: commit {card["commit"]}, PyTorch {card["torch"]}.
- It sees {seen.size} × {seen.size} pixels ({FITS[seen.fit]}).

## Limits

- Nothing was measured here: neither its accuracy nor its calibration. Measure it on your own images with
  `classifier evaluate`.
- Confidences are the plain softmax outputs, because no temperature was fitted.
- {outliers}
"""


def _table(metrics: dict[str, Any]) -> str:
    """Return the figures of the validation and test images; older cards have no balanced accuracy."""
    rows = [_row(name, metrics[name]) for name in ("validation", "test")]
    head = ["images", "accuracy", "95 % interval", "cross-entropy", "calibration error", "balanced accuracy"]
    head = head[: len(rows[0])]
    return "\n".join([_line(head), f"|{'---|' * len(head)}", *map(_line, rows)])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(name: str, metrics: dict[str, Any]) -> list[str]:
    low, high = wilson_interval(metrics["accuracy"], metrics["images"])
    balanced = [f"{metrics['balanced_accuracy']:.2%}"] if "balanced_accuracy" in metrics else []
    return [
        f"{metrics['images']:,} {name}",
        f"{metrics['accuracy']:.2%}",
        f"{low:.2%} to {high:.2%}",
        f"{metrics['loss']:.4f}",
        f"{metrics['ece']:.2%}",
        *balanced,
    ]


@commands.command("card", help=__doc__)
@commands.checkpoint
def main(checkpoint: Path) -> None:
    path = checkpoint.with_suffix(".md")
    write_whole(path, describe_in_words(load_checkpoint(checkpoint)))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

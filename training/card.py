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


def describe_in_words(checkpoint: Checkpoint) -> str:
    """Return the card of a checkpoint as Markdown."""
    card = checkpoint.card
    data, calibration = card["data"], card["calibration"]
    familiarity = calibration["familiarity"]
    size = card["normalisation"]["input_size"]
    parameters = sum(value.numel() for name, value in checkpoint.weights.items() if name.startswith("network."))
    kinds = "\n".join(f"| {name} | {value:.3f} |" for name, value in familiarity["auroc"].items())
    return f"""# {card["name"]}

Tells {", ".join(card["classes"][:-1])} and {card["classes"][-1]} apart. {parameters / 1e6:.2f} million numbers, stored
in half precision; every figure below was measured with the stored ones.

| images | accuracy | 95 % interval | cross-entropy | calibration error |
|---|---|---|---|---|
{_row("validation", card["metrics"]["validation"])}
{_row("test", card["metrics"]["test"])}

The validation images chose the epoch and fitted what follows; the test images were read once, at the end.

## Made from

- Data: {data["name"]}, {data["training_images"]:,} images to train on; check sums {data["fingerprint"]}.
- Code: commit {card["commit"]}, PyTorch {card["torch"]}.
- Recipe, with its seed:

```yaml
{yaml.safe_dump(card["recipe"], sort_keys=False).strip()}
```

## What goes along

- Confidences are softmax outputs at temperature {calibration["temperature"]:.3f}.
- An image is called in distribution where its score (`{familiarity["score"]}`) is at least
  {familiarity["threshold"]:.3f}, as it is for 95 % of the validation images. Area under the ROC curve of telling the
  validation images from others, none of which the score was fitted on:

| others | AUROC |
|---|---|
{kinds}

## Limits

- It gives one of its classes to any image. `in_distribution` catches some that look like none of them, as the
  table above says, and refuses one in twenty that it should not.
- It sees {size} × {size} pixels: what is small in a photograph is lost, and what is not square is squeezed.
- The figures hold for images like those of {data["name"]}. For your own, measure: `python -m training.evaluate`.
"""


def _row(name: str, metrics: dict[str, Any]) -> str:
    low, high = wilson_interval(metrics["accuracy"], metrics["images"])
    return (
        f"| {metrics['images']:,} {name} | {metrics['accuracy']:.2%} | {low:.2%} to {high:.2%} | "
        f"{metrics['loss']:.4f} | {metrics['ece']:.2%} |"
    )


@commands.command("card", help=__doc__)
@commands.checkpoint
def main(checkpoint: Path) -> None:
    path = checkpoint.with_suffix(".md")
    write_whole(path, describe_in_words(load_checkpoint(checkpoint)))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

"""Measure a checkpoint on the test images.

    classifier evaluate cifar10_pair
    classifier evaluate runs/mine/mine.pth --data my-images -o runs/report
    classifier evaluate runs/mine/mine.pth --data new-photos --others others

prints the accuracy and writes a report into runs/<checkpoint>-report, unless --output names another folder. Its
report.json has all figures. Its report.md shows them, with pictures of the confusion, the reliability and the worst
mistakes, if any. Of a folder that training has split, those for the test are measured; of another one, all are.
A folder need not have all classes of the checkpoint. With --others it also says how well the in-distribution score
tells your photos from those of other things.
"""

import json
from pathlib import Path
from typing import Any

import click
import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from handler.transforms import Preprocessing
from training import commands, outliers
from training.calibrate import auroc, separation
from training.card import temperature_of
from training.checkpoint import Checkpoint, load_checkpoint
from training.data import Images, load_images, read_files
from training.decoding import UNREADABLE
from training.files import save_figure, write_whole
from training.folders import FORMAT_NAMES, few, find
from training.inputs import Inputs
from training.metrics import BINS, figures, predict, wilson_interval
from training.outcome import Stopped, say
from training.split import raise_any

MAX_MISTAKES = 24  # pictures in the report
MAX_CLASSES_WITH_NUMBERS = 30  # with more, the cells of the confusion matrix are too small for numbers


def write_report(checkpoint: Checkpoint, images: Images, folder: Path, others: Inputs | None = None) -> dict[str, Any]:
    """Write `report.json`, `report.md` and its pictures into `folder`. Returns the content of `report.json`.

    `others` are images of none of the classes.
    """
    classifier = checkpoint.classifier()
    logits, scores = predict(classifier, images.inputs)
    probabilities, labels = logits.softmax(dim=1), images.labels
    measured = outliers.measured(images.inputs.preprocessing)
    outside = {kind: predict(classifier, outlying)[1] for kind, outlying in measured.items()}
    calibration = checkpoint.card["calibration"]
    threshold = calibration["in_distribution"]["threshold"]
    report = {
        "name": checkpoint.card["name"],
        **figures(logits, labels),
        "classes": per_class(probabilities, labels, images.classes),
        "confusion": multiclass_confusion_matrix(probabilities, labels, len(images.classes)).tolist(),
        "reliability": reliability(probabilities, labels),
        "temperature": calibration["temperature"],
        "in_distribution": {
            "score": calibration["in_distribution"]["score"],
            "accepted": accepted(scores, threshold),
            "auroc": separation(scores, outside),
        },
    }
    if others:
        of_others = predict(classifier, others)[1]
        report["in_distribution"]["others"] = {
            "images": others.count,
            "accepted": accepted(of_others, threshold),
            "auroc": auroc(scores, of_others),
        }
    save_figure(_confusion(report["confusion"], images.classes), folder / "confusion.png")
    save_figure(_reliability(report["reliability"]), folder / "reliability.png")
    worst = worst_mistakes(probabilities, labels)
    if worst:
        save_figure(_mistakes(worst, probabilities, images), folder / "mistakes.png")
    else:
        (folder / "mistakes.png").unlink(missing_ok=True)  # of an earlier report
    write_whole(folder / "report.json", json.dumps(report, indent=2) + "\n")
    write_whole(folder / "report.md", _page(report, checkpoint.card, bool(worst)))
    return report


def accepted(scores: Tensor, threshold: float) -> float:
    """Return which share of the images counts as in distribution, by their scores (N,)."""
    return (scores >= threshold).double().mean().item()


def per_class(probabilities: Tensor, labels: Tensor, classes: list[str]) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 (each 0 to 1) and the number of images of every class."""
    metrics = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}
    columns = {name: metric(probabilities, labels, len(classes), average="none") for name, metric in metrics.items()}
    columns["images"] = labels.bincount(minlength=len(classes))
    return {
        name: {column: values[index].item() for column, values in columns.items()} for index, name in enumerate(classes)
    }


def reliability(probabilities: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """Return, for every bin of confidence that has images, its mean confidence, accuracy and number of images."""
    confidence, predicted = probabilities.max(dim=1)
    correct = (predicted == labels).double()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    rows = [(confidence[bins == number].double(), correct[bins == number]) for number in range(BINS)]
    return [
        {"confidence": confident.mean().item(), "accuracy": right.mean().item(), "images": len(right)}
        for confident, right in rows
        if len(right)
    ]


def worst_mistakes(probabilities: Tensor, labels: Tensor) -> list[int]:
    """Return the numbers of wrongly predicted images, those of the highest confidence first."""
    confidence, predicted = probabilities.max(dim=1)
    wrong = (predicted != labels).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True)][:MAX_MISTAKES].tolist()


def _drawable(classes: list[str]) -> list[str]:
    """Return names that the figures' font can draw: another class is its number in the report's table."""
    letters = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return [
        name if all(ord(letter) in letters for letter in name) else f"class {number}"
        for number, name in enumerate(classes, 1)
    ]


def _confusion(matrix: list[list[int]], classes: list[str]) -> Figure:
    figure = Figure(figsize=(min(1.5 + 0.6 * len(classes), 20),) * 2, layout="constrained")
    axes = figure.subplots()
    shares = torch.tensor(matrix).double()
    axes.imshow(shares / shares.sum(dim=1, keepdim=True).clamp(min=1), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    names = _drawable(classes)
    axes.set_xticks(range(len(classes)), names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(classes)), names, parse_math=False)
    for true, row in enumerate(matrix if len(classes) <= MAX_CLASSES_WITH_NUMBERS else []):
        for predicted, count in enumerate(row):
            colour = "white" if count > sum(row) / 2 else "black"
            axes.text(predicted, true, str(count), ha="center", va="center", color=colour, fontsize=8)
    return figure


def _reliability(rows: list[dict[str, float]]) -> Figure:
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="as confident as correct")
    axes.plot([row["confidence"] for row in rows], [row["accuracy"] for row in rows], marker="o", label="measured")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _mistakes(worst: list[int], probabilities: Tensor, images: Images) -> Figure:
    confidence, predicted = probabilities.max(dim=1)
    names = _drawable(images.classes)
    figure = Figure(figsize=(12, 7), layout="constrained")
    grid = figure.subplots(4, MAX_MISTAKES // 4).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, index in zip(grid, worst, strict=False):
        axes.imshow(images.pixels[index].permute(1, 2, 0))
        true, mistaken = (names[labels[index]] for labels in (images.labels, predicted))
        axes.set_title(f"{true}, not {mistaken}\n({confidence[index]:.0%})", fontsize=8, parse_math=False)
    return figure


def _page(report: dict[str, Any], card: dict[str, Any], mistaken: bool) -> str:
    low, high = wilson_interval(report["accuracy"], report["images"])
    drawn = dict(zip(report["classes"], _drawable([*report["classes"]]), strict=True))
    classes = "\n".join(
        f"| {name + f' ({drawn[name]})' * (drawn[name] != name)} "
        f"| {row['precision']:.2%} | {row['recall']:.2%} | {row['f1']:.2%} | {row['images']:,} |"
        for name, row in report["classes"].items()
        if row["images"]
    )
    aurocs = report["in_distribution"]["auroc"]
    accepts = (
        f"The in-distribution score is `{report['in_distribution']['score']}`. Its threshold accepts\n"
        f"{report['in_distribution']['accepted']:.1%} of the test images."
    )
    if fitted := card["calibration"]["in_distribution"].get("accepted"):
        accepts += (
            f" About {fitted:.0%} is good, because the threshold\naccepts that share of the validation images. If the "
            "share is far lower, `in_distribution` is false for too many good\nimages. The usual reason is that the "
            "validation images are few, or of another kind."
        )
    if others := report["in_distribution"].get("others"):
        aurocs = {f"your photos of other things, {others['images']:,}": others["auroc"]} | aurocs
        accepts += f"\n\nOf your photos of other things it accepts {others['accepted']:.1%}. The fewer, the better."
    kinds = "\n".join(f"| {name} | {value:.3f} |" for name, value in aurocs.items())
    mistakes = (
        "![The mistakes of the highest confidence](mistakes.png)"
        if mistaken
        else f"No mistakes among {report['images']:,} images."
    )
    return f"""# {report["name"]}

Accuracy {report["accuracy"]:.2%} (95 % interval {low:.2%} to {high:.2%}) on {report["images"]:,} test images;
cross-entropy {report["loss"]:.4f}. Balanced accuracy {report["balanced_accuracy"]:.2%}: every class counts the same.

## Classes

| class | precision | recall | F1 | images |
|---|---|---|---|---|
{classes}

![Confusion matrix](confusion.png)

## Calibration

The expected calibration error is {report["ece"]:.2%}, over {BINS} bins of confidence. Confidences are softmax outputs
at {temperature_of(card)}.

![Reliability diagram](reliability.png)

## Outliers

{accepts}

The area under the ROC curve (AUROC) measures how well the score tells the test images from outliers. The score
was fitted on none of these kinds. 1 is best, and 0.5 is chance:

| outliers | AUROC |
|---|---|
{kinds}

## Worst mistakes

{mistakes}
"""


@commands.command("evaluate", help=__doc__)
@commands.checkpoint
@commands.data("photos that were trained on, or others of the same classes")
@click.option("--others", type=commands.PATH, metavar="FOLDER", help="photos of none of the classes")
@commands.output("folder for the report (default: runs/<checkpoint>-report)", "FOLDER")
def main(checkpoint: Path, data: Path | None, others: Path | None, output: Path | None) -> None:
    output = output or Path("runs") / f"{checkpoint.stem}-report"
    loaded = load_checkpoint(checkpoint)
    images = load_images(data, "unseen", loaded.inputs)
    names = loaded.card["classes"]
    if unknown := [name for name in images.classes if name not in names]:
        raise Stopped(
            f"The images show {few(unknown)}; the checkpoint predicts {', '.join(names)}. "
            "Name a folder of the checkpoint's classes with --data, or another checkpoint."
        )
    numbers = torch.tensor([names.index(name) for name in images.classes])
    images = images._replace(labels=numbers[images.labels], classes=names)
    report = write_report(loaded, images, output, _others(others, loaded.inputs) if others else None)
    low, high = wilson_interval(report["accuracy"], report["images"])
    print(
        f"accuracy {report['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), loss {report['loss']:.4f}, "
        f"calibration error {report['ece']:.2%} on {report['images']:,} test images; wrote {output}/report.md"
    )
    if told := report["in_distribution"].get("others"):
        print(
            f"accepts {report['in_distribution']['accepted']:.1%} of them, and {told['accepted']:.1%} of "
            f"{told['images']:,} photos of other things; AUROC {told['auroc']:.3f}"
        )


def _others(folder: Path, preprocessing: list[Preprocessing]) -> Inputs:
    """Read all photos in and below a folder. Raises Stopped or DataError."""
    if not folder.is_dir():
        raise Stopped(f"There is no folder {folder}; name the one with your photos of other things.")
    found = find(folder)
    raise_any([f"{path}: {reason}. {UNREADABLE}" for path, reason in sorted(found.unreadable.items())])
    for line in found.notes_of_others():
        say(f"{folder}: {line}")
    if not found.images:
        raise Stopped(f"{folder} has no {FORMAT_NAMES} files; name the folder with your photos of other things.")
    return read_files(found.images, preprocessing)


if __name__ == "__main__":
    main()

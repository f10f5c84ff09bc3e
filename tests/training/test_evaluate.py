import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import CommandFailed, run_module
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.data import load_images
from training.evaluate import per_class, reliability, write_report
from training.metrics import predict


def test_report_says_what_the_card_says_and_shows_it(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    card = load_checkpoint(checkpoint).card
    printed = run_module("training.evaluate", checkpoint, "--data", dataset, "--output", tmp_path / "report")

    test = card["metrics"]["test"]
    assert printed.startswith(f"accuracy {test['accuracy']:.2%} (95 % interval ")
    assert printed.endswith(f" on 80 test images; wrote {tmp_path}/report/report.md\n")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["ece"] == pytest.approx(test["ece"], abs=1e-5)
    assert sum(map(sum, report["confusion"])) == 80
    assert sum(row[index] for index, row in enumerate(report["confusion"])) / 80 == test["accuracy"]
    assert list(report["classes"]) == card["classes"]
    assert sum(row["images"] for row in report["reliability"]) == 80
    page = (tmp_path / "report" / "report.md").read_text()
    assert f"Accuracy {test['accuracy']:.2%}" in page
    pictures = sorted(path.name for path in (tmp_path / "report").glob("*.png"))
    assert pictures == ["confusion.png", "mistakes.png", "reliability.png"]
    for name in pictures:
        assert f"]({name})" in page
        assert min(Image.open(tmp_path / "report" / name).size) > 300


def test_without_mistakes_it_says_so_and_shows_none(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    images = load_images(dataset, "test", loaded.inputs)
    right = predict(loaded.classifier(), images.inputs)[0].argmax(dim=1) == images.labels
    (tmp_path / "mistakes.png").touch()  # of a report before
    write_report(loaded, images.subset(right.nonzero().flatten()), tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert f"No mistakes among {int(right.sum())} images." in page
    assert "mistakes.png" not in page
    assert not (tmp_path / "mistakes.png").exists()
    assert "About 95% is good" in page


def test_class_names_are_no_formulas(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    images = load_images(dataset, "test", loaded.inputs)
    notes = [f"${number}%" for number in range(len(images.classes))]
    write_report(loaded, images._replace(labels=images.labels.roll(1), classes=notes), tmp_path)
    assert (tmp_path / "mistakes.png").exists()


@pytest.mark.filterwarnings("error:Glyph")
def test_class_names_that_the_font_lacks_have_numbers(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    images = load_images(dataset, "test", loaded.inputs)
    names = ["小猫", *images.classes[1:]]
    write_report(loaded, images._replace(labels=images.labels.roll(1), classes=names), tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "| 小猫 (class 1) |" in page
    assert f"| {names[1]} |" in page


def test_precision_and_recall_are_told_apart() -> None:
    predicted, labels = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 0])
    rows = per_class(torch.eye(3)[predicted], labels, ["a", "b", "never"])
    assert rows["a"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "images": 3})
    assert rows["b"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "images": 2})
    assert rows["never"]["images"] == 0


def test_reliability_has_a_row_for_every_confidence_that_occurs() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    rows = reliability(probabilities, torch.tensor([0, 1, 1, 1]))
    assert [row["images"] for row in rows] == [1, 2, 1]
    assert [row["accuracy"] for row in rows] == [1, 0.5, 1]
    assert [row["confidence"] for row in rows] == pytest.approx([0.6, 0.9, 1.0])


def test_measures_all_photos_of_a_folder_that_no_training_has_split(
    checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    new = shutil.copytree(dataset / "test", tmp_path / "new")
    printed = run_module("training.evaluate", checkpoint, "--data", new, "--output", tmp_path / "report")
    assert " on 80 test images; " in printed
    assert not (new / "split.csv").exists()


def test_classes_may_be_in_another_order_than_folders(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    weights, card = load_checkpoint(checkpoint)
    head = {name: value.flip(0) for name, value in weights.items() if name.startswith("network.head")}
    turned = Checkpoint(weights | head, card | {"classes": card["classes"][::-1]})
    save_checkpoint(turned, tmp_path / "turned.pth")
    printed = [
        run_module("training.evaluate", path, "--data", dataset, "--output", tmp_path / path.stem).partition(";")[0]
        for path in (checkpoint, tmp_path / "turned.pth")
    ]
    assert printed[0].split(", loss")[0] == printed[1].split(", loss")[0]


def test_measures_photos_of_some_classes_against_those_of_other_things(
    checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    card = load_checkpoint(checkpoint).card
    some, others = tmp_path / "some", tmp_path / "others" / "deeper"
    for name in card["classes"][3:4]:
        shutil.copytree(dataset / "test" / name, some / name)
    others.mkdir(parents=True)
    for number in range(4):
        Image.effect_noise((40, 40), 90).convert("RGB").save(others / f"{number}.png")
    (others / "notes.txt").touch()
    named = ("--data", some, "--others", others.parent)
    printed = run_module("training.evaluate", checkpoint, *named, "--output", tmp_path / "report")
    assert f"{others.parent}: left out 1 other file (.txt 1).\n" in printed
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    told = report["in_distribution"]["others"]
    assert printed.endswith(
        f"\naccepts {report['in_distribution']['accepted']:.1%} of them, and {told['accepted']:.1%} of 4 photos of "
        f"other things; AUROC {told['auroc']:.3f}\n"
    )
    assert report["images"] == sum(report["classes"][name]["images"] for name in card["classes"][3:4])
    page = (tmp_path / "report" / "report.md").read_text()
    assert f"| your photos of other things, 4 | {told['auroc']:.3f} |" in page


@pytest.mark.parametrize(
    ("folder", "option", "sentence"),
    [
        ({"red", "unicorn"}, "--data", "The images show unicorn; the checkpoint predicts "),
        (
            set(),
            "--others",
            "others has no JPEG, PNG, GIF or WebP files; name the folder with your photos of other things.",
        ),
    ],
)
def test_says_what_is_wrong_with_a_folder(
    folder: set[str], option: str, sentence: str, checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for name in folder:
        (others / name).mkdir()
        Image.new("RGB", (40, 40)).save(others / name / "1.png")
    with pytest.raises(CommandFailed, match=re.escape(sentence)):
        run_module("training.evaluate", checkpoint, "--data", dataset, option, others, "--output", tmp_path / "report")

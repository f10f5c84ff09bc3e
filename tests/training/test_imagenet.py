from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from tests.conftest import run_module
from tests.training.test_pretrained import LITE0, pictures
from training.checkpoint import load_checkpoint
from training.config import RecipeError
from training.imagenet import Merge, imagenet, load_merge
from training.metrics import predict
from training.pretrained import PretrainedError, imagenet_classes
from training.project import MERGES

CATS = ("tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat")


def test_merged_classes_add_up(tmp_path: Path) -> None:
    printed = run_module("training.imagenet", "--merge", "cifar10", "-o", tmp_path / "merged.pth")
    assert printed == f"wrote {tmp_path}/merged.pth, with 10 classes; nothing was measured\n"
    merged = load_checkpoint(tmp_path / "merged.pth")
    images = pictures(merged.inputs)
    whole = imagenet(LITE0, "imagenet", "whole")
    merge = load_merge(MERGES / "cifar10.yaml")
    all_of = predict(whole.classifier(), images)[0].softmax(dim=1)
    expected = [sum(all_of[0, number].item() for number in numbers) for numbers in merge.classes.values()]
    (logits, scores), names = predict(merged.classifier(), images), merged.card["classes"]
    assert logits[0].softmax(dim=0).tolist() == pytest.approx([each / sum(expected) for each in expected], abs=1e-3)
    assert names[logits[0].argmax()] == "cat"
    threshold = merged.card["calibration"]["in_distribution"]["threshold"]
    assert scores[0] > threshold > scores[1], "a cat is of the classes, a cup of coffee is not"


def test_the_merge_of_cifar10_has_all_cats_and_dogs() -> None:
    names, classes = imagenet_classes(), load_merge(MERGES / "cifar10.yaml").classes
    assert [names[number] for number in classes["cat"]] == [*CATS]
    assert len(classes["dog"]) == 118
    assert [*classes] == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"classes": {"cat": [281], "dog": [281]}}, "class 281 of ImageNet may stand only once"),
        ({"classes": {"cat": [281], "dog": ["990-1001"]}}, "classes.dog.10: Input should be less than 1000"),
        ({"classes": {"cat": [281]}}, "at least 2 items"),
        ({"classes": {"cat": ["x-y"], "dog": [1]}}, "classes.cat.0: Input should be a valid integer"),
        ([1], "its content: Input should be a valid dictionary"),
    ],
)
def test_what_merges_no_classes_is_refused(values: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError, match=words):
        load_merge(path)


@pytest.mark.parametrize("head", [nn.Linear(2, 21_841), nn.Identity()], ids=["ImageNet-21k", "none"])
def test_joins_no_classes_of_another_numbering(head: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.imagenet.copy_initial", lambda *_: head)
    merge = Merge(threshold=0.0, classes={"cat": [281], "dog": [207]})
    with pytest.raises(PretrainedError, match="have no head for ImageNet's 1,000 classes"):
        imagenet(LITE0, "imagenet", "x", merge)

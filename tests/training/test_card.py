import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData

from tests.conftest import run_module
from tests.stack import ROOT
from training.card import describe_in_words
from training.checkpoint import load_checkpoint
from training.inputs import call
from training.metrics import wilson_interval

RELEASED = sorted((ROOT / "model_store").glob("*.pth"))


def test_is_written_beside_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(checkpoint, tmp_path))
    assert run_module("training.card", copy) == f"wrote {tmp_path}/drawn.md\n"
    words = (tmp_path / "drawn.md").read_text()
    card = load_checkpoint(copy).card
    for fact in (
        f"{card['metrics']['test']['accuracy']:.2%}",
        f"commit {card['commit']}",
        "seed: 1",
        "balanced accuracy |",
        "## Limits",
    ):
        assert fact in words


def test_model_hubs_find_its_figures(checkpoint: Path) -> None:
    words = describe_in_words(load_checkpoint(checkpoint))
    facts = ModelCard(words).data
    assert isinstance(facts, ModelCardData)
    assert (facts.pipeline_tag, facts.model_name) == ("image-classification", "drawn")
    (result,) = facts.eval_results or []
    assert (result.dataset_name, result.dataset_split, result.metric_type) == ("drawn", "test", "accuracy")
    assert f"{result.metric_value:.2%}" in words


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_released_checkpoints_have_theirs(path: Path) -> None:
    assert path.with_suffix(".md").read_text() == describe_in_words(load_checkpoint(path))
    assert path.stat().st_size < 25e6


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_the_figures_of_released_checkpoints_are_those_of_their_cards(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    test = checkpoint.card["metrics"]["test"]
    low, high = wilson_interval(test["accuracy"], test["images"])
    (millions,) = re.findall(r"It has ([\d.]+) million numbers", describe_in_words(checkpoint))
    right = f"{100 * test['accuracy']:.2f} %"
    (front,) = re.findall(rf"^\| \[`{path.stem}`\].*", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert front.endswith(f"| {millions} M | {right} ({100 * low:.2f} % to {100 * high:.2f} %) |")
    (folder,) = re.findall(rf"^\| \[`{path.name}`\].*", (path.parent / "README.md").read_text(), re.MULTILINE)
    assert folder.endswith(f"| {right} |")


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_released_checkpoints_can_be_used(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    images = [torch.zeros(1, 3, each.size, each.size) for each in checkpoint.inputs]
    logits, scores = call(checkpoint.classifier(), images)
    assert (logits.shape, scores.shape) == ((1, 10), (1,))

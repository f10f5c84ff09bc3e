"""The batching that an archive gets: by the size of the activations, and the same whenever it is packed."""

import json
import re
import zipfile
from pathlib import Path

import pytest
import yaml

from handler.transforms import Preprocessing
from tests.conftest import run_module
from tests.networks import untrained
from training import batching
from training.archive import SETTINGS, archive
from training.batching import batching_of, cost_of
from training.checkpoint import Checkpoint, save_checkpoint


def seeing(checkpoint: Path, size: int) -> Checkpoint:
    return untrained(checkpoint, "whitened_cnn", Preprocessing(size), ["cat", "dog"])


@pytest.mark.parametrize(("size", "batch"), [(32, 16), (96, 4), (160, 1)])
def test_large_activations_make_small_batches(checkpoint: Path, size: int, batch: int) -> None:
    assert batching_of(seeing(checkpoint, size)).size == batch


def test_the_cost_of_an_image_is_that_of_its_largest_layer(checkpoint: Path) -> None:
    cost = cost_of(seeing(checkpoint, 32))
    assert cost.activations == 4 * (24 + 64) * 31 * 31  # float32, in and out of the first convolution after the filters
    assert cost.operations == pytest.approx(236e6, rel=0.01)


def test_an_archive_serves_with_it(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "SLOW_CORE", 1e9)
    archive(seeing(checkpoint, 96), tmp_path / "photos.mar", "1.0")
    with zipfile.ZipFile(tmp_path / "photos.mar") as file:
        settings = yaml.safe_load(file.read("model-config.yaml"))
        card = json.loads(file.read("model_card.json"))
    assert settings == yaml.safe_load(SETTINGS.read_text()) | {"responseTimeout": 123}
    assert card["batch_size"] == 4


def test_packing_says_what_it_measured_and_chose(checkpoint: Path, tmp_path: Path) -> None:
    save_checkpoint(seeing(checkpoint, 32), tmp_path / "small.pth")
    wrote, took = run_module("training.archive", tmp_path / "small.pth").splitlines()
    assert wrote == f"wrote {tmp_path}/small.mar, version 1.0, which serves in batches of at most 16"
    number = r"\d+\.\d ms"
    assert re.fullmatch(
        f"one core takes {number} for an image alone, {number} in a batch of 4 and {number} in a batch of 16", took
    )

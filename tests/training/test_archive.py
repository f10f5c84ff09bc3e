import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import run_module
from tests.drawing import TEN
from tests.stack import ROOT
from training.checkpoint import load_checkpoint


def test_holds_model_handler_classes_and_card(archive: Path, checkpoint: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == [
            "MAR-INF/MANIFEST.json",
            "drawn.pt",
            "handler/__init__.py",
            "handler/explanation.py",
            "handler/model.py",
            "handler/onnx_engine.py",
            "handler/transforms.py",
            "image_classifier.py",
            "index_to_name.json",
            "model-config.yaml",
            "model_card.json",
            "network.onnx",
        ]
        model = json.loads(file.read("MAR-INF/MANIFEST.json"))["model"]
        assert (model["modelName"], model["modelVersion"]) == ("drawn", "1.0")
        assert list(json.loads(file.read("index_to_name.json")).values()) == sorted(TEN)
        assert json.loads(file.read("model_card.json")) == load_checkpoint(checkpoint).card


def test_same_checkpoint_gives_the_same_bytes(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "drawn.mar"
    # In another process, as the order of what a program hashes differs from one to the next.
    command = [sys.executable, "-m", "training.archive", str(checkpoint), "--output", str(again)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert again.read_bytes() == archive.read_bytes()


def test_its_digest_is_beside_it_for_sha256sum(archive: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", f"{archive.name}.sha256"], cwd=archive.parent, check=True)


@pytest.mark.parametrize("module", ["training.archive", "training.evaluate"])
def test_a_missing_checkpoint_is_said_in_a_sentence(module: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        run_module(module, tmp_path / "none.pth")
    assert end.value.code == f"There is no checkpoint {tmp_path}/none.pth; 'make train' makes one."

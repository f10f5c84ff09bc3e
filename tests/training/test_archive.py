import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gateway.torchserve import api
from tests.conftest import CommandFailed, run_module
from tests.drawing import TEN
from tests.stack import ROOT
from training import archive as module
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.files import write_digest


def test_holds_model_handler_classes_and_card(archive: Path, checkpoint: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == [
            "MAR-INF/MANIFEST.json",
            "drawn.pt",
            "handler/__init__.py",
            "handler/explanation.py",
            "handler/memory.py",
            "handler/onnx_engine.py",
            "handler/predictor.py",
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
        card = load_checkpoint(checkpoint).card | {"batch_size": 16}
        assert json.loads(file.read("model_card.json")) == json.loads(json.dumps(card))


def test_same_checkpoint_gives_the_same_bytes(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "drawn.mar"
    # In another process, as the order of what a program hashes differs from one to the next.
    command = [sys.executable, "-m", "training.archive", str(checkpoint), "--output", str(again)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert again.read_bytes() == archive.read_bytes()


def test_one_of_onnx_alone_holds_nothing_that_needs_pytorch(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name / "my model.onnx.zip" for name in ("first", "second")]
    for path in paths:
        assert run_module("training.archive", checkpoint, "--output", path).startswith(f"wrote {path}, version 1.0, ")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert run_module("training.archive", checkpoint, "--output", path) == f"{path} is current, version 1.0\n"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(path) as small:
        left = set(whole.namelist()) - set(small.namelist())
        assert left == {"drawn.pt", "image_classifier.py", "model-config.yaml"}
        for name in set(small.namelist()) - {"MAR-INF/MANIFEST.json"}:
            assert small.read(name) == whole.read(name)
        assert json.loads(small.read("MAR-INF/MANIFEST.json"))["model"]["modelName"] == "my-model"
    subprocess.run(["sha256sum", "--check", "--strict", f"{path.name}.sha256"], cwd=path.parent, check=True)


def version(path: Path) -> str:
    with zipfile.ZipFile(path) as file:
        return str(json.loads(file.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"])


def test_is_packed_again_if_version_or_content_differ(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    own, path = tmp_path / "drawn.pth", tmp_path / "drawn.mar"
    shutil.copy(checkpoint, own)  # newer than the archive, and what it was made from
    shutil.copy(archive, path)
    write_digest(path, path)
    assert run_module("training.archive", own) == f"{path} is current, version 1.0\n"

    assert run_module("training.archive", own, "--version", "2.0").startswith(f"wrote {path}, version 2.0, ")
    assert version(path) == "2.0"
    assert run_module("training.archive", own) == f"{path} is current, version 2.0\n"

    card = load_checkpoint(own).card | {"name": "older"}
    save_checkpoint(Checkpoint(load_checkpoint(own).weights, card), own)
    os.utime(own, (1, 1))  # older than the archive, but another
    assert run_module("training.archive", own).startswith(f"wrote {path}, version 2.0, ")
    with zipfile.ZipFile(path) as file:
        assert json.loads(file.read("model_card.json"))["name"] == "older"

    sources = module.digest_sources(own, path, "2.0")
    assert module.is_current(path, sources)
    path.write_bytes(path.read_bytes()[:1000])  # torn
    assert not module.is_current(path, sources)
    write_digest(path, path)
    assert not module.is_current(path, sources)
    assert module.version_of(path) is None


def test_whether_an_archive_is_current_is_known_without_pytorch(archive: Path, checkpoint: Path) -> None:
    code = (
        "import sys; from training.archive import main; main(standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(checkpoint), "--output", str(archive)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{archive} is current, version 1.0\n"


@pytest.mark.parametrize("wrong", ["v 2", "2026-07-01T10:00", "1.0+cu12", "../1", "-1", "é", "1\n"])
def test_a_version_that_no_one_could_ask_for_is_refused(checkpoint: Path, tmp_path: Path, wrong: str) -> None:
    with pytest.raises(CommandFailed) as end:
        run_module("training.archive", checkpoint, f"--version={wrong}", "--output", tmp_path / "drawn.mar")
    assert str(end.value).startswith(f"{wrong!r} cannot be a version: use only the letters A to Z")
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_backend_serves_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"mine\.zip has to end in \.mar for TorchServe, or in \.onnx\.zip"):
        run_module("training.archive", checkpoint, "--output", tmp_path / "mine.zip")
    assert not list(tmp_path.iterdir())


def test_versions_are_those_that_the_gateway_asks_for() -> None:
    assert module.VERSION == api.VERSION


def test_its_digest_is_beside_it_for_sha256sum(archive: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", f"{archive.name}.sha256"], cwd=archive.parent, check=True)


@pytest.mark.parametrize("module", ["training.archive", "training.evaluate"])
def test_a_missing_checkpoint_is_said_in_a_sentence(module: str, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as end:
        run_module(module, tmp_path / "none.pth")
    assert str(end.value) == f"There is no checkpoint {tmp_path}/none.pth; 'classifier train' makes one.\n"


@pytest.mark.slow
def test_a_folder_of_the_models_name_among_the_temporary_files_stays(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "photo.jpg").touch()
    command = [sys.executable, "-m", "training.archive", str(checkpoint), "-o", str(tmp_path / "packed" / "drawn.mar")]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"drawn", "packed"}
    assert (tmp_path / "drawn" / "photo.jpg").exists()


@pytest.mark.slow
def test_a_model_may_have_any_name(checkpoint: Path, tmp_path: Path) -> None:
    run_module("training.archive", checkpoint, "--output", tmp_path / "stage.mar")
    assert module.version_of(tmp_path / "stage.mar") == "1.0"

import ast
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from handler.transforms import Preprocessing
from tests.stack import ROOT
from training.checkpoint import Checkpoint, CheckpointError, load, load_checkpoint, save, save_checkpoint


def test_holds_all_that_is_needed_to_trust_it(checkpoint: Path) -> None:
    card = load_checkpoint(checkpoint).card
    assert set(card) == {
        "name",
        "classes",
        "preprocessing",
        "recipe",
        "calibration",
        "metrics",
        "data",
        "commit",
        "torch",
    }
    assert card["preprocessing"] == [{"size": 32, "fit": "squeeze", "mean": (0.5,) * 3, "std": (0.5,) * 3}]
    assert card["metrics"]["test"]["images"] == 80


def test_rebuilds_the_classifier_ready_for_inference(checkpoint: Path) -> None:
    classifier = load_checkpoint(checkpoint).classifier()
    assert not classifier.training
    logits, scores = classifier(torch.zeros(2, 3, 32, 32))
    assert (logits.shape, scores.shape) == ((2, 10), (2,))


def test_keeps_filters_and_matrices_in_half_precision(checkpoint: Path) -> None:
    weights = load_checkpoint(checkpoint).weights
    assert weights["network.features.0.weight"].dtype == torch.float16
    assert weights["network.features.1.running_var"].dtype == torch.float32
    assert checkpoint.stat().st_size < 1_147_914 * 4


def test_reads_files_that_have_the_former_name_of_the_score(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    score = {"score": "feature_cosine", "threshold": 0.5}
    calibration = {"temperature": loaded.card["calibration"]["temperature"], "familiarity": score}
    weights = {name: value for name, value in loaded.weights.items() if not name.startswith("score.")}
    card = loaded.card | {"calibration": calibration}
    save_checkpoint(Checkpoint(weights | {"familiarity.means": torch.rand(10, 512)}, card), tmp_path / "older.pth")
    older = load_checkpoint(tmp_path / "older.pth")
    assert older.card["calibration"]["in_distribution"] == score
    assert "familiarity" not in older.card["calibration"]
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(older.classifier()(images)[0], loaded.classifier()(images)[0])


def test_reads_files_that_name_only_the_normalisation(checkpoint: Path, tmp_path: Path) -> None:
    older = load(checkpoint)
    del older["preprocessing"]
    save(older | {"normalisation": {"input_size": 32, "mean": [0.4] * 3, "std": [0.2] * 3}}, tmp_path / "older.pth")
    assert load_checkpoint(tmp_path / "older.pth").inputs == [Preprocessing(32, "squeeze", (0.4,) * 3, (0.2,) * 3)]


def test_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "missing.pth")
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="may be damaged"):
        load_checkpoint(tmp_path / "damaged.pth")
    save([1, 2], tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="is no checkpoint of"):
        load_checkpoint(tmp_path / "other.pth")


class Trap:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("sprung",)


def test_a_full_disk_is_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    monkeypatch.setattr("training.checkpoint.written_whole", lambda path: nullcontext(full))
    with pytest.raises(OSError, match="No space left on device"):
        save({"weights": torch.zeros(1000)}, tmp_path / "last.pth")


def test_runs_no_code_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Trap()}, "trap.pth")
    with pytest.raises(CheckpointError):
        load(Path("trap.pth"))
    assert not Path("sprung").exists()


@pytest.mark.parametrize("room", ["training", "handler", "gateway", "scripts"])
def test_nothing_is_loaded_but_tensors_and_plain_values(room: str) -> None:
    for path in (ROOT / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in [ast.unparse(keyword) for keyword in node.keywords], path


def test_checkpoint_survives_a_round_trip(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    save_checkpoint(Checkpoint(loaded.weights, loaded.card), tmp_path / "copy.pth")
    copy = load_checkpoint(tmp_path / "copy.pth")
    assert copy.card == loaded.card
    assert all(torch.equal(copy.weights[name], value) for name, value in loaded.weights.items())

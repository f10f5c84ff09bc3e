"""8-bit integers: what is written computes nearly the same, and what does not pay is refused."""

from pathlib import Path

import onnx
import pytest
import torch

from handler.onnx_engine import open_network
from tests.conftest import CommandFailed, run_module
from training import quantise
from training.checkpoint import images_of, load_checkpoint
from training.metrics import figures, predict
from training.quantise import export_int8


@pytest.fixture
def _pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time depends on the processor, and is not what these tests are about."""
    monkeypatch.setattr(quantise, "times_as_fast", lambda *networks: 2.0)
    monkeypatch.setattr(quantise, "MOST_LOST", 0.2)  # the network was trained for two epochs


@pytest.mark.usefixtures("_pays")
def test_it_predicts_nearly_as_before_with_new_temperature_and_threshold(
    checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    loaded, path = load_checkpoint(checkpoint), tmp_path / "int8.onnx"
    quantised = export_int8(loaded, path, dataset)
    _, validation = images_of(loaded, dataset, loaded.inputs)
    logits, scores = quantise.predict(open_network(path, threads=1), validation.inputs)
    expected, _ = predict(loaded.classifier(), validation.inputs)
    assert (logits.softmax(dim=1) - expected.softmax(dim=1)).abs().mean() < 0.05
    assert figures(logits, validation.labels)["accuracy"] == pytest.approx(quantised.accuracy)
    assert figures(logits, validation.labels)["ece"] < 0.25
    assert (scores >= quantised.threshold).double().mean() == pytest.approx(0.95, abs=0.03)
    model = onnx.load(path)
    assert {prop.key: float(prop.value) for prop in model.metadata_props} == {
        "in_distribution_score_threshold": pytest.approx(quantised.threshold)
    }
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert logits[:1].allclose(torch.from_numpy(open_network(path, 1)(next(quantise.arrays(validation.inputs)))[0][:1]))


@pytest.mark.usefixtures("_pays")
def test_the_command_says_what_became_of_it(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    printed = run_module("training.export", checkpoint, "--int8", "--data", dataset, "--output", path)
    assert printed.startswith(f"wrote {path}, 2.00 times as fast; right on ")
    assert path.exists()


@pytest.mark.parametrize(("faster", "lost"), [(1.29, 1.0), (2.0, -1.0)], ids=["too slow", "too wrong"])
def test_what_does_not_pay_is_refused_with_the_figures(
    faster: float, lost: float, checkpoint: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "times_as_fast", lambda *networks: faster)
    monkeypatch.setattr(quantise, "MOST_LOST", lost)
    path = tmp_path / "int8.onnx"
    with pytest.raises(
        CommandFailed, match=rf"With 8-bit integers drawn is {faster:.2f} times as fast here, and right"
    ):
        run_module("training.export", checkpoint, "--int8", "--data", dataset, "--output", path)
    assert list(tmp_path.iterdir()) == []


def test_it_asks_for_an_onnx_file_and_the_images_of_the_training(
    checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(CommandFailed, match=r"name one that ends in \.onnx"):
        run_module("training.export", checkpoint, "--int8", "--data", dataset, "--output", tmp_path / "int8.pt")
    others = dataset / "test"
    with pytest.raises(CommandFailed, match="drawn was trained on other images; name its own with --data"):
        run_module("training.export", checkpoint, "--int8", "--data", others, "--output", tmp_path / "int8.onnx")


def test_a_network_is_as_fast_as_itself(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    quantise.export_onnx(loaded, tmp_path / "floating.onnx")
    network = open_network(tmp_path / "floating.onnx", threads=1)
    assert 0.2 < quantise.times_as_fast(network, network, images_of(loaded, dataset, loaded.inputs)[1].inputs) < 5

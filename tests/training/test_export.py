import io
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from handler import transforms
from handler.onnx_engine import open_network
from tests.conftest import run_module
from tests.drawing import draw
from training import export as export_module
from training.checkpoint import Checkpoint, load_checkpoint
from training.export import ExportError, export, export_onnx


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "drawn.pt"
    printed = run_module("training.export", checkpoint, "--output", path)
    equal = "equal to the classifier within 7.6e-06 of its largest logit on random and real images"
    assert printed.startswith(f"wrote {path}, {equal}; ")
    assert re.search(r"; \d+\.\d\d ms an image on one core, in batches of 16\n$", printed)
    return path


def test_computes_what_the_classifier_computes(exported: Path, checkpoint: Path) -> None:
    taken = transforms.Preprocessing(32)
    images = torch.stack([torch.from_numpy(transforms.test_transform(draw("cyan", seed), taken)) for seed in range(3)])
    with torch.inference_mode():
        expected = load_checkpoint(checkpoint).classifier()(images)
        for output, value in zip(torch.jit.load(exported)(images), expected, strict=True):
            assert torch.allclose(output, value, rtol=1e-5, atol=1e-5)


def test_onnx_computes_what_the_classifier_computes_and_says_so(checkpoint: Path, tmp_path: Path) -> None:
    printed = run_module("training.export", checkpoint, "--output", tmp_path / "drawn.onnx")
    assert re.search(r"; \d+\.\d\d ms an image on one core, in batches of 16\n$", printed)
    written = (tmp_path / "drawn.onnx").read_bytes()
    assert str(Path.cwd()).encode() not in written
    assert len(written) < 1.1 * checkpoint.stat().st_size  # which has its weights in half precision too
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        expected = load_checkpoint(checkpoint).classifier()(images)
    for output, value in zip(open_network(tmp_path / "drawn.onnx", threads=1)([images.numpy()]), expected, strict=True):
        assert torch.allclose(torch.from_numpy(output), value, rtol=1e-5, atol=1e-5)


def test_holds_no_path_of_the_machine_it_was_made_on(exported: Path) -> None:
    assert str(Path.cwd()).encode() not in exported.read_bytes()


class Constant(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(len(images), 10), torch.ones(len(images))


def test_refuses_to_write_what_differs(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = io.BytesIO()
    torch.jit.save(torch.jit.script(Constant()), other)
    monkeypatch.setattr(export_module, "_without_debug_info", lambda _: other.getvalue())
    monkeypatch.setattr(export_module, "open_onnx", lambda _: Constant())
    for write in (export, export_onnx):
        with pytest.raises(ExportError, match=r"differs from the classifier by .* on random images"):
            write(load_checkpoint(checkpoint), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def scaled(checkpoint: Path, size: float, head_error: float = 0.0) -> Checkpoint:
    """Return a checkpoint whose logits are `size` times as large, and wrong by a share of their size."""
    loaded = load_checkpoint(checkpoint)
    card = loaded.card | {"calibration": loaded.card["calibration"] | {"temperature": 1 / size}}
    head = {name: value.float() * (1 + head_error) for name, value in loaded.weights.items() if ".head." in name}
    return Checkpoint(loaded.weights | head, card)


@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_rounding_is_measured_by_the_size_of_the_logits(
    size: float, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for write in (export, export_onnx):
        write(scaled(checkpoint, size), tmp_path / "out")
    wrong = scaled(checkpoint, size, head_error=1e-4).classifier()
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(wrong), script)
    monkeypatch.setattr(export_module, "_without_debug_info", lambda _: script.getvalue())
    monkeypatch.setattr(export_module, "open_onnx", lambda _: wrong)
    for write in (export, export_onnx):
        with pytest.raises(ExportError, match=r"differs from the classifier by .* where the largest output is"):
            write(scaled(checkpoint, size), tmp_path / "out")


def test_a_network_that_answers_nan_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    broken = Checkpoint({name: value * torch.nan for name, value in loaded.weights.items()}, loaded.card)
    with pytest.raises(ExportError):
        export(broken, tmp_path / "out.pt")


def test_needs_real_images(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ExportError, match="has no images"):
        export(load_checkpoint(checkpoint), tmp_path / "out.pt", tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "IMG_1.PNG")
    export(load_checkpoint(checkpoint), tmp_path / "out.pt", tmp_path)

"""The proof that serving equals training, where it does and where it does not."""

import subprocess
import sys
from pathlib import Path

import torch

from tests.drawing import TEN
from tests.stack import ROOT, Stack
from training.checkpoint import load_checkpoint, save_checkpoint


def verify(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "verify.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_what_is_served_is_the_checkpoint(stack: Stack, checkpoint: Path, dataset: Path) -> None:
    done = verify(checkpoint, dataset / "test", "--url", stack.url)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    count = 8 * len(TEN)
    assert first.startswith(f"{count} of {count} images have the same class; probabilities differ by ")
    assert second.endswith(f"of {count} in folders named as classes")


def test_another_checkpoint_is_found_out(stack: Stack, checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    other = load_checkpoint(checkpoint)
    generator = torch.Generator().manual_seed(0)
    for name, weights in other.weights.items():
        if name.endswith("weight") and weights.is_floating_point():
            weights += 0.01 * torch.randn(weights.shape, generator=generator).to(weights.dtype)
    save_checkpoint(other, tmp_path / "other.pth")
    assert verify(tmp_path / "other.pth", dataset / "test", "--url", stack.url).returncode == 1


def test_says_what_cannot_be_compared(stack: Stack, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    for arguments, said in (
        (["none.pth", tmp_path], "There is no checkpoint none.pth"),
        ([checkpoint, tmp_path], "broken.png: The file cannot be read"),
        ([checkpoint, tmp_path / "none"], "There is no file or folder"),
        ([checkpoint, tmp_path, "--url", "http://127.0.0.1:9"], "There is no model to ask"),
    ):
        done = verify("--url", stack.url, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr

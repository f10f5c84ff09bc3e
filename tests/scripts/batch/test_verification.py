"""The proof that serving equals training, where it does and where it does not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scripts.verify import main
from tests.drawing import TEN, draw
from tests.stack import Stack
from training.checkpoint import load_checkpoint, save_checkpoint

Verify = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    """Run the command in this process; returns its status, what it printed and its errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        return main([*map(str, arguments)], standalone_mode=False), *capsys.readouterr()

    return run


def test_what_is_served_is_the_checkpoint(verify: Verify, stack: Stack, checkpoint: Path, dataset: Path) -> None:
    status, printed, _ = verify(checkpoint, dataset / "test", "--url", stack.url)
    assert status == 0
    first, second = printed.splitlines()
    count = 8 * len(TEN)
    assert first.startswith(f"{count} of {count} images have the same class; probabilities differ by ")
    assert second.endswith(f"of {count} in folders named as classes")


def test_machines_get_one_document(verify: Verify, stack: Stack, checkpoint: Path, dataset: Path) -> None:
    status, printed, _ = verify(checkpoint, "--url", stack.url, dataset / "test" / "cyan", "--json")
    found = json.loads(printed)
    assert (status, found["same"], found["images"], found["labelled"]) == (0, True, 8, 8)
    assert found["right_served"] == found["right_offline"] <= 8


def test_images_deeper_in_the_folder_of_a_class_are_of_that_class(
    verify: Verify, stack: Stack, checkpoint: Path, tmp_path: Path
) -> None:
    for place in ("test/cyan/2024", "test/lost+found"):
        (tmp_path / place).mkdir(parents=True)
        draw("cyan", 1).save(tmp_path / place / "1.png")
    status, printed, errors = verify(checkpoint, "--url", stack.url, tmp_path / "test", "--json")
    found = json.loads(printed)
    assert (status, found["images"], found["labelled"]) == (0, 1, 1)
    assert errors == "Left out 1 file or folder that systems leave behind: lost+found.\n"


def test_another_checkpoint_is_found_out(
    verify: Verify, stack: Stack, checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    other = load_checkpoint(checkpoint)
    generator = torch.Generator().manual_seed(0)
    for name, weights in other.weights.items():
        if name.endswith("weight") and weights.is_floating_point():
            weights += 0.01 * torch.randn(weights.shape, generator=generator).to(weights.dtype)
    save_checkpoint(other, tmp_path / "other.pth")
    assert verify(tmp_path / "other.pth", dataset / "test", "--url", stack.url)[0] == 1


def test_says_what_cannot_be_compared(verify: Verify, stack: Stack, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    for arguments, said in (
        (["none.pth", tmp_path], "There is no checkpoint none.pth"),
        ([checkpoint, tmp_path], "broken.png: The file cannot be read"),
        ([checkpoint, tmp_path / "none"], "There is no file or folder"),
        ([checkpoint, tmp_path, "--url", "http://127.0.0.1:9"], "There is no gateway at http://127.0.0.1:9;"),
    ):
        status, printed, errors = verify("--url", stack.url, *arguments)
        assert (status, printed) == (2, "")
        assert said in errors

"""How files of the project are named from any folder."""

from pathlib import Path

import pytest

from training.project import ROOT, from_recipe


def test_a_path_in_a_recipe_counts_from_here_or_else_from_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "model_store/cifar10_cnn.pth"
    assert from_recipe(name) == ROOT / name
    assert from_recipe("runs/none.pth") == Path("runs/none.pth")
    (tmp_path / "model_store").mkdir()
    (tmp_path / name).touch()
    assert from_recipe(name) == Path(name)

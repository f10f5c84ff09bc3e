import re
import sys
from pathlib import Path

import pytest
import yaml

from scripts.bench.training_speed import STEPS, in_own_process, measure
from tests.conftest import QUICK_RECIPE, CommandFailed, run_module
from training.config import load_recipe


@pytest.mark.slow
def test_prints_a_row_for_every_measure_a_network_can_take(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_this_process(path: Path, step: int) -> float:
        """Save the seconds that PyTorch takes to load, but for the measure that needs an environment of its own."""
        return in_own_process(path, step) if step == 3 else measure(load_recipe(path), step)

    monkeypatch.setattr("scripts.bench.training_speed.in_own_process", in_this_process)
    printed = run_module("scripts.bench.training_speed", "--recipe", recipe, "--rounds", 1)
    rows = re.findall(r"^(.+?) +([\d.]+) ms an image +\d+ s an epoch", printed, re.MULTILINE)
    assert [name for name, _ in rows] == list(STEPS[:4])
    assert all(float(time) > 0 for _, time in rows)


def test_says_in_a_sentence_what_is_missing(tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandFailed, match=r"There is no recipe .*none\.yaml"):
        run_module("scripts.bench.training_speed", "--recipe", tmp_path / "none.yaml")
    taught = tmp_path / "taught.yaml"
    taught.write_text(yaml.safe_dump(QUICK_RECIPE | {"distillation": {"teacher": str(tmp_path / "none.pth")}}))
    with pytest.raises(CommandFailed, match=r"There is no checkpoint .*none\.pth"):
        run_module("scripts.bench.training_speed", "--recipe", taught, "--step", 0)  # as in a process of its own
    monkeypatch.setattr(sys, "executable", "false")  # a process that fails
    with pytest.raises(SystemExit, match="1"):
        run_module("scripts.bench.training_speed", "--recipe", recipe)

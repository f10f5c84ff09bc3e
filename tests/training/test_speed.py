import re
from pathlib import Path

from tests.conftest import run_module
from training.speed import STEPS


def test_prints_a_row_for_every_measure_a_network_can_take(recipe: Path) -> None:
    printed = run_module("training.speed", "--recipe", recipe, "--rounds", 1)
    rows = re.findall(r"^(.+?) +([\d.]+) ms an image +\d+ s an epoch", printed, re.MULTILINE)
    assert [name for name, _ in rows] == list(STEPS[:4])
    assert all(float(time) > 0 for _, time in rows)

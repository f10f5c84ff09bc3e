"""Tuning serves an archive with other settings, proves that they are in force, and ranks what it measured."""

from pathlib import Path

import pytest

from scripts.bench import tune_serving
from scripts.bench.tune_serving import Setting, measure, table
from tests.stack import write_config
from training.outcome import Stopped


def test_measures_with_the_setting_in_force(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_serving, "WARMING_SECONDS", 1)
    config = write_config(tmp_path / "config.properties")
    one, four = measure(archive, Setting(2, 4, 3), config, tmp_path, [1, 4], seconds=1)
    assert one["rate"] > 1
    assert four["rate"] > 1
    with pytest.raises(Stopped, match=r"'maxBatchDelay': 0.*'maxBatchDelay': 100.* in force"):
        measure(archive, Setting(1, 4, 0), config, tmp_path, [1], seconds=1)


def test_the_table_has_the_medians_the_fastest_on_top() -> None:
    def rounds(rate: float) -> list[list[dict[str, float]]]:
        return [[{"rate": rate * day, "p50": 10 / rate, "p99": 20 / rate}] for day in (1, 2, 30)]

    lines = table({Setting(1, 8, 1): rounds(100), Setting(2, 16, 5): rounds(400)}, [32]).splitlines()
    assert lines[0] == "| workers | batch | delay | 32 connections: answers/s (p50, p99 ms) |"
    assert lines[2] == "| 2 | 16 | 5 | 800 (0.0, 0.1) |"
    assert lines[3] == "| 1 | 8 | 1 | 200 (0.1, 0.2) |"

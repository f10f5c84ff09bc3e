from contextlib import chdir
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from scripts.bench import scaling
from scripts.bench.capacity import STAGES, Assumptions, capacity, tables
from scripts.bench.scaling import DAY, STABILISATION_SECONDS, Strategy, desired, rates, simulate, strategies, summary
from tests.conftest import run_module
from tests.stack import ROOT

DOCS = ROOT / "docs"
EACH = 200.0  # images a second of a pod
NOON = rates(Assumptions())[DAY // 2 - 1800 : DAY // 2 + 5400]  # with the flash crowd


def at_noon(target: float, start: float) -> dict[str, float]:
    return summary(simulate(Strategy("", 4, target, start), NOON, EACH), NOON, Assumptions())


def test_the_plan_is_what_the_command_prints(tmp_path: Path) -> None:
    page = (DOCS / "scaling.md").read_text()
    for block in run_module("scripts.bench.scaling", "--output", tmp_path / "scaling").strip().split("\n\n"):
        assert block in page
    assert (tmp_path / "scaling.json").read_text() == (DOCS / "scaling.json").read_text()
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_your_own_plan_lies_where_you_stand(tmp_path: Path) -> None:
    before = (DOCS / "scaling.json").read_bytes()
    with chdir(tmp_path):
        assert scaling.main(["--peak", "2000"], standalone_mode=False) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["scaling.json", "scaling.png"]
    assert (DOCS / "scaling.json").read_bytes() == before


def test_what_the_plan_sets_out_from_is_what_was_measured() -> None:
    said = (DOCS / "performance.md").read_text()
    for spent in STAGES.values():
        assert f"{spent:.2f} |" in said
    assert round(capacity("cnn")) == 2173
    assert round(capacity("whitened_resnet")) == 496


def test_the_tables_mark_the_measured_figures_and_the_simulated_ones() -> None:
    _, networks, mixtures, stages = tables(Assumptions())
    measured = [line.split("|")[1].strip(" `") for line in (networks + mixtures).splitlines() if "| measured |" in line]
    assert measured == ["cnn", "whitened_resnet", "0%"]
    assert networks.count("| computed |") == 2
    assert "ms of a core, measured |" in stages
    assert "| refused, simulated | late, simulated |" in (DOCS / "scaling.md").read_text()


def test_without_a_flash_crowd_nothing_is_refused_at_three_fifths_of_the_cost() -> None:
    assumed = Assumptions(flash=1)
    arrivals = np.random.default_rng(2).poisson(rates(assumed)).astype(float)
    days = {
        each.name: summary(simulate(each, arrivals, capacity("whitened_resnet")), arrivals, assumed)
        for each in strategies(assumed)
    }
    assert all(day["refused"] == day["late"] == 0 for day in days.values())
    fixed, scaled = days["fixed, for the evening"], days["autoscaled to 70%, nodes that are there"]
    assert scaled["dollars"] / fixed["dollars"] == pytest.approx(0.6, abs=0.05)


def test_more_headroom_refuses_less_and_costs_more() -> None:
    days = [at_noon(target, 60) for target in (0.8, 0.6, 0.4)]
    for tighter, looser in pairwise(days):
        assert tighter["refused"] > looser["refused"]
        assert tighter["dollars"] < looser["dollars"]


def test_pods_that_start_faster_refuse_less() -> None:
    shares = [at_noon(0.6, start)["refused"] for start in (10, 60, 240)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_every_request_is_answered_or_refused_or_waits() -> None:
    arrivals = np.full(DAY, 3 * EACH)
    day = simulate(Strategy("", 1), arrivals, EACH)
    assert day.refused[-1] == 2 * EACH
    assert arrivals.sum() == day.limit.sum() + day.refused.sum() + 300
    assert day.late[-1] == EACH


@pytest.mark.parametrize(
    ("ready", "starting", "use", "wanted"),
    [
        (10, 0, 0.5, 10),
        (10, 0, 0.549, 10),  # within a tenth
        (10, 0, 0.6, 12),
        (10, 0, 1.0, 20),
        (10, 0, 0.31, 7),  # 6.2, rounded up
        (10, 10, 1.0, 20),  # those on their way are enough
        (10, 5, 1.0, 20),
    ],
)
def test_wants_what_kubernetes_documents(ready: int, starting: int, use: float, wanted: int) -> None:
    assert desired(ready, starting, use, target=0.5) == wanted


def test_gives_pods_back_only_after_they_were_not_needed_for_a_while() -> None:
    arrivals = np.concatenate([np.full(3600, 10 * EACH), np.full(3600, 2 * EACH)])
    pods = simulate(Strategy("", 1, 0.5), arrivals, EACH).pods
    fewer = np.flatnonzero(np.diff(pods) < 0)
    assert fewer[0] - 3600 == pytest.approx(STABILISATION_SECONDS, abs=15)
    assert pods[-1] == 4

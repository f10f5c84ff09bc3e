"""A version that meets live traffic: nobody else loses a request to it, or waits longer because of it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from gateway.traffic import LOOK_SECONDS, TOGETHER_SECONDS, Split, seen_file
from scripts.serving.defaults import BACKENDS
from scripts.serving.traffic import FILE
from tests.archives import numbered, rebuild
from tests.faults.ledger import Ledger, Pictures
from tests.scripts.serving.test_versions import models
from tests.stack import LONG, Record, Stack, serve, times

pytestmark = pytest.mark.alone
RATE = 60  # requests a second
MOST = 1.1  # times the p99 without such a version
SETTLING = 1  # seconds in which connections are made


@pytest.fixture(scope="module", params=times(BACKENDS[1:], BACKENDS))
def stack(request: pytest.FixtureRequest, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The product with two versions, of which the second one has the same network."""
    store = tmp_path_factory.mktemp("traffic") / "store"
    store.mkdir()
    for name, version in (("first", "1.0"), ("second", "2.0")):
        rebuild(archive, store / f"{name}.mar", numbered(version))
    with serve(store / "first.mar", store.parent / "stack", request.param) as running:
        models(running, "register", "second.mar")
        yield running


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_nobody_waits_for_a_version_that_meets_live_traffic(
    stack: Stack, pictures: Pictures, kind: str, record_property: Record
) -> None:
    file, alone, beside, outcomes, asked = stack.run / FILE, [], [], set(), 0
    seconds = times(2, 12)
    for _ in range(times(1, 7)):
        before, during = (Ledger(stack.url, pictures) for _ in range(2))
        before.open_loop(RATE, SETTLING + seconds)
        canary, until = kind == "canary", time.time() + 600
        split: Split = {"roll": "1", "version": "2.0", "canary": canary, "share": 0.1, "until": until}
        file.write_text(json.dumps(split))
        time.sleep(2 * LOOK_SECONDS)
        during.open_loop(RATE, SETTLING + seconds)
        file.unlink()
        time.sleep(2 * LOOK_SECONDS + TOGETHER_SECONDS)
        answers = [json.loads(line) for line in seen_file(file).read_text().splitlines()]
        seen_file(file).unlink()
        assert not [each for each in answers if each.get("failed")]
        by_new = {each["id"] for each in answers if each["version"] == "2.0"}
        asked += len(by_new)
        alone.append(p99(before, set()))
        beside.append(p99(during, by_new if kind == "canary" else set()))
        outcomes |= set(before.outcomes()) | set(during.outcomes())
    times_as_long = median(beside) / median(alone)
    record_property(
        f"10% of {RATE} requests a second for a {kind}, {len(alone)} times {seconds} s",
        f"{asked} answers by it, p99 of the others {times_as_long:.2f} times the {1000 * median(alone):.1f} ms without",
    )
    assert outcomes == {"right"}
    assert asked
    if LONG:  # a percentile of a few seconds is chance
        assert times_as_long <= MOST


def p99(ledger: Ledger, without: set[str]) -> float:
    """Return the 99th percentile of the seconds of all requests but some, and those at the start of the load."""
    settled = min(entry.sent for entry in ledger.entries) + SETTLING
    seconds = [entry.seconds for entry in ledger.entries if entry.id not in without and entry.sent >= settled]
    return float(np.percentile(seconds, 99))

"""What a new version has to show on live traffic, told from what both have answered."""

import io
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from threading import Timer
from unittest.mock import Mock

import pytest

from gateway.traffic import Compared, Split, seen_file
from scripts.serving import traffic
from scripts.serving.deployment import Limits, Refused
from scripts.serving.traffic import (
    FILE,
    LEASE_SECONDS,
    LEAST,
    Answers,
    Live,
    _judge,
    _read,
    _report,
    _stop_early,
    meet,
)

OLD, NEW = "1.0", "2.0"
CANARY, SHADOW = Live(True, 0.1, 60), Live(False, 0.1, 60)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often at what was answered, and wait for no gateway."""
    monkeypatch.setattr(traffic, "LOOK_SECONDS", 0)
    monkeypatch.setattr(traffic, "POLL_SECONDS", 0.01)


def answers(
    count: int = 100, seconds: float = 0.01, confidence: float = 0.9, failures: int = 0, skipped: int = 0
) -> Answers:
    made = Answers(skipped=skipped)
    for _ in range(failures):
        made.add({"id": "", "version": "", "failed": "Dead."})
    for number in range(count):
        spread = 0.05 if number % 2 else -0.05
        compared: Compared = {
            "id": str(number),
            "version": "",
            "seconds": seconds,
            "predicted_class": "cat",
            "confidence": confidence + spread,
            "agrees": number % 4 > 0,
        }
        made.add(compared)
    return made


@pytest.mark.parametrize(
    ("its", "limits", "said"),
    [
        (answers(failures=2), Limits(), "version 2.0 fails on 2 of 102 .*first with: Dead."),
        (answers(confidence=math.nan), Limits(), "version 2.0 is nan% sure"),
        (answers(LEAST - 1), Limits(), "version 2.0 answered 19 live requests, and 20 are needed. Take a longer time"),
        (answers(0, skipped=7), Limits(), "answered 0 live requests, and had no time for 7, and 20 are needed"),
        (answers(seconds=0.04), Limits(), "version 2.0 takes 40.0 ms for a live request and 1.0 10.0 ms"),
        (answers(seconds=0.02), Limits(slower=1.5), "--slower allows more"),
        (answers(confidence=0.8), Limits(), "version 2.0 is 80.0% sure .* and 1.0 90.0%, so it is probably less"),
    ],
)
def test_a_version_that_does_worse_is_refused(its: Answers, limits: Limits, said: str) -> None:
    with pytest.raises(Refused, match=said):
        _judge(CANARY, OLD, NEW, {OLD: answers(), NEW: its}, limits, same_classes=True, measured=False)


@pytest.mark.parametrize(
    ("its", "limits"),
    [
        (answers(failures=1), Limits()),
        (answers(confidence=0.88), Limits()),  # which may be chance
        (answers(confidence=0.8), Limits(tolerance=0.2)),
        (answers(seconds=0.001), Limits()),
    ],
)
def test_a_version_that_does_no_worse_is_served(its: Answers, limits: Limits) -> None:
    _judge(CANARY, OLD, NEW, {OLD: answers(), NEW: its}, limits, same_classes=True, measured=False)


@pytest.mark.parametrize(
    ("live", "its", "same_classes", "measured"),
    [
        (CANARY, answers(confidence=0.6, seconds=0.1), False, False),
        (CANARY, answers(confidence=0.6), True, True),
        (SHADOW, answers(seconds=0.1), True, False),
    ],
    ids=["other classes", "its accuracy was measured", "a shadow has a part of a call"],
)
def test_what_tells_nothing_is_not_judged(live: Live, its: Answers, same_classes: bool, measured: bool) -> None:
    _judge(live, OLD, NEW, {OLD: answers(), NEW: its}, Limits(), same_classes, measured)


@pytest.mark.parametrize(
    ("its", "stopped"),
    [
        (answers(LEAST - 1, failures=1), False),  # which chance explains
        (answers(LEAST - 4, failures=4), True),
        (answers(1000, failures=14), False),
        (answers(1000, failures=20), True),
    ],
)
def test_is_stopped_early_by_more_failures_than_chance_explains(its: Answers, stopped: bool) -> None:
    with pytest.raises(Refused) if stopped else nullcontext():
        _stop_early(NEW, its, Limits())


def test_is_stopped_early_if_it_breaks_late() -> None:
    its = answers(10_000)
    for _ in range(LEAST):
        _stop_early(NEW, its, Limits())
        its.add({"id": "", "version": NEW, "failed": "Dead."})
    with pytest.raises(Refused, match="fails on 20 of 10020"):
        _stop_early(NEW, its, Limits())


def test_tells_time_certainty_and_on_how_much_both_agree() -> None:
    its = answers(seconds=0.012)
    assert _report(OLD, NEW, {OLD: answers(), NEW: its}) == (
        "It answered 100 live requests, and failed on 0. It took 12.0 ms in the median and 12.0 at p99; 1.0 took 10.0 "
        "ms in the median and 10.0 at p99. It was 90.0% sure, in the mean, and 1.0 90.0%. Both agree on 75.0%."
    )
    its.agreed = []
    assert "agree" not in _report(OLD, NEW, {OLD: answers(), NEW: its})


def test_reads_what_is_whole_and_the_rest_later() -> None:
    lines = io.BytesIO()
    split: Split = {"roll": "1", "version": NEW, "canary": True, "share": 0.1, "until": 0}
    read = {NEW: Answers()}
    line, other, late = (
        json.dumps({"id": "1", "version": version, "failed": "Dead.", "roll": roll}).encode()
        for version, roll in ((NEW, "1"), ("7", "1"), (NEW, "of an earlier roll"))
    )
    torn = b"{" + line + b"\n"
    for piece, known in (
        (line[:10], 0),
        (line[10:] + b"\n" + other + b"\n" + late + b"\n" + torn + line, 1),
        (b"\n", 2),
    ):
        at = lines.tell()
        lines.seek(0, io.SEEK_END)
        lines.write(piece)
        lines.seek(at)
        _read(lines, split, read)
        assert len(read[NEW].failures) == known


@pytest.mark.parametrize("canary", [True, False])
def test_a_version_that_fails_is_taken_back_at_once(
    canary: bool, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []

    def fail() -> None:
        found.append(json.loads((tmp_path / FILE).read_text()))
        line = {"id": "1", "version": NEW, "failed": "Dead.", "roll": found[0]["roll"]}
        seen_file(tmp_path / FILE).write_text(f"{json.dumps(line)}\n" * LEAST)

    Timer(0.1, fail).start()
    with pytest.raises(Refused, match="fails on 20 of 20 live requests"):
        meet(Live(canary, 0.125, seconds=60), OLD, NEW, tmp_path, Limits(), same_classes=True)
    assert {"version": NEW, "canary": canary, "share": 0.125}.items() <= found[0].items()
    assert not (tmp_path / FILE).exists()
    assert "12.5% of the requests" in capsys.readouterr().err


@pytest.mark.parametrize("ended", [KeyboardInterrupt, Refused])
def test_the_share_ends_with_the_command(
    ended: type[BaseException], tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "_read", Mock(side_effect=ended))
    with pytest.raises(ended):
        meet(CANARY, OLD, NEW, tmp_path, Limits(), same_classes=True)
    assert not (tmp_path / FILE).exists()


def test_the_share_ends_soon_if_the_command_is_killed(tmp_path: Path, quick: None) -> None:
    (split, *_), _ = while_it_has_a_share(tmp_path, lambda: None)
    assert time.time() < split["until"] <= time.time() + LEASE_SECONDS


def test_the_share_is_renewed(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "LEASE_SECONDS", 0.3)
    (first, last), _ = while_it_has_a_share(tmp_path, lambda: time.sleep(0.5))
    assert last["until"] > first["until"]


def test_it_ends_if_the_server_is_started_again(tmp_path: Path, quick: None) -> None:
    _, why = while_it_has_a_share(tmp_path, (tmp_path / FILE).unlink)
    assert "the server was started again meanwhile" in why
    assert not (tmp_path / FILE).exists()


def test_it_is_judged_by_what_was_written_if_no_more_can_be(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(traffic, "MAX_SEEN_BYTES", 50)
    line = json.dumps({"id": "1", "version": NEW, "failed": None, "roll": "1"}) + "\n"
    _, why = while_it_has_a_share(tmp_path, lambda: seen_file(tmp_path / FILE).write_text(2 * line), seconds=60)
    assert "20 are needed" in why
    assert "No more answers can be written down" in capsys.readouterr().err


def while_it_has_a_share(run: Path, act: Callable[[], object], seconds: float = 1) -> tuple[list[Split], str]:
    """Do something while a version has a share; returns what its file said before and after, and why it is refused."""
    file, found = run / FILE, []

    def later() -> None:
        found.append(json.loads(file.read_text()))
        act()
        if file.exists():
            found.append(json.loads(file.read_text()))

    thread = Timer(0.1, later)
    thread.start()
    with pytest.raises(Refused) as refused:
        meet(Live(True, 0.1, seconds), OLD, NEW, run, Limits(), same_classes=True)
    thread.join()
    return found, str(refused.value)

"""What a new version has to show on live traffic, told from what both have answered."""

import io
import json
from pathlib import Path
from threading import Timer

import pytest

from gateway.traffic import Compared, seen_file
from scripts.serving import traffic
from scripts.serving.deployment import Limits, Refused
from scripts.serving.traffic import FILE, LEAST, Answers, Live, _judge, _read, _report, meet

OLD, NEW = "1.0", "2.0"


def answers(
    count: int = 100, seconds: float = 0.01, confidence: float = 0.9, failures: int = 0, skipped: int = 0
) -> Answers:
    made = Answers(failures=["Dead."] * failures, skipped=skipped)
    for number in range(count):
        spread = 0.05 if number % 2 else -0.05
        compared: Compared = {
            "id": str(number),
            "version": "",
            "seconds": seconds,
            "predicted_class": "cat" if number % 4 else "dog",
            "confidence": confidence + spread,
        }
        made.add(compared)
    return made


@pytest.mark.parametrize(
    ("its", "limits", "said"),
    [
        (answers(failures=2), Limits(), "version 2.0 fails on 2 of 102 .*first with: Dead."),
        (answers(LEAST - 1), Limits(), "version 2.0 answered 19 live requests, and 20 are needed. Take a longer time"),
        (answers(0, skipped=7), Limits(), "answered 0 live requests, and had no time for 7, and 20 are needed"),
        (answers(seconds=0.04), Limits(), "version 2.0 takes 40.0 ms for a live request and 1.0 10.0 ms"),
        (answers(seconds=0.02), Limits(slower=1.5), "--slower allows more"),
        (answers(confidence=0.8), Limits(), "version 2.0 is 80.0% sure .* and 1.0 90.0%, so it is probably less"),
    ],
)
def test_a_version_that_does_worse_is_refused(its: Answers, limits: Limits, said: str) -> None:
    with pytest.raises(Refused, match=said):
        _judge(OLD, NEW, {OLD: answers(), NEW: its}, limits, measured=False)


@pytest.mark.parametrize(
    ("its", "limits"),
    [
        (answers(failures=1), Limits()),
        (answers(confidence=0.88), Limits()),  # which may be chance
        (answers(confidence=0.8), Limits(tolerance=0.2)),
        (answers(confidence=0.6, seconds=0.1), Limits(new_classes=True)),
        (answers(seconds=0.001), Limits()),
    ],
)
def test_a_version_that_does_no_worse_is_served(its: Answers, limits: Limits) -> None:
    _judge(OLD, NEW, {OLD: answers(), NEW: its}, limits, measured=False)


def test_a_measured_accuracy_counts_more_than_confidence() -> None:
    _judge(OLD, NEW, {OLD: answers(), NEW: answers(confidence=0.6)}, Limits(), measured=True)


def test_tells_time_certainty_and_on_how_much_both_agree() -> None:
    its = answers(seconds=0.012)
    its.classes = dict.fromkeys(its.classes, "cat")
    assert _report(OLD, NEW, {OLD: answers(), NEW: its}) == (
        "It answered 100 live requests, and failed on 0. It took 12.0 ms in the median and 12.0 at p99; 1.0 took 10.0 "
        "ms in the median and 10.0 at p99. It was 90.0% sure, in the mean, and 1.0 90.0%. Both agree on 75.0%."
    )
    its.classes = {}
    assert "agree" not in _report(OLD, NEW, {OLD: answers(), NEW: its})


def test_reads_what_is_whole_and_the_rest_later() -> None:
    lines = io.BytesIO()
    read = {NEW: Answers()}
    line = json.dumps({"id": "1", "version": NEW, "failed": "Dead."}).encode()
    other = json.dumps({"id": "1", "version": "7", "failed": "Dead."}).encode()
    for piece, known in ((line[:10], 0), (line[10:] + b"\n" + other + b"\n" + line, 1), (b"\n", 2)):
        at = lines.tell()
        lines.seek(0, io.SEEK_END)
        lines.write(piece)
        lines.seek(at)
        _read(lines, read)
        assert len(read[NEW].failures) == known


@pytest.mark.parametrize("canary", [True, False])
def test_a_version_that_fails_is_taken_back_at_once(
    canary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(traffic, "LOOK_SECONDS", 0)
    monkeypatch.setattr(traffic, "TOGETHER_SECONDS", 0)
    monkeypatch.setattr(traffic, "POLL_SECONDS", 0.01)
    found = []

    def fail() -> None:
        found.append(json.loads((tmp_path / FILE).read_text()))
        seen_file(tmp_path / FILE).write_text('{"id": "1", "version": "2.0", "failed": "Dead."}\n' * LEAST)

    Timer(0.1, fail).start()
    with pytest.raises(Refused, match="fails on 20 of 20 live requests"):
        meet(Live(canary, 0.1, seconds=60), OLD, NEW, tmp_path, Limits())
    assert {"version": NEW, "canary": canary, "share": 0.1}.items() <= found[0].items()
    assert not (tmp_path / FILE).exists()
    assert "10% of the requests" in capsys.readouterr().err

"""`classifier drift`: the logged predictions beside the figures of the card."""

import io
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from gateway import request_log
from gateway.app import create_app
from scripts.batch import drift as module
from scripts.batch.drift import drift
from tests.conftest import run_module
from tests.drawing import TEN, draw, encode
from tests.stack import Stack
from training.outcome import Stopped

CARD = {
    "version": "1.0",
    "classes": ["cat", "dog"],
    "metrics": {"validation": {"accuracy": 0.9}},
    "calibration": {"in_distribution": {"accepted": 0.95}},
    "data": {"class_counts": [100, 100]},
}


def entry(name: str = "cat", confidence: float = 0.9, inside: bool = True, version: str = "1.0") -> dict[str, Any]:
    return {"predicted_class": name, "confidence": confidence, "in_distribution": inside, "version": version}


def log(path: Path, *predictions: dict[str, Any]) -> Path:
    lines = [
        json.dumps({"time": f"2026-01-01T00:00:{at % 60:02}", "predictions": [each]})
        for at, each in enumerate(predictions)
    ]
    path.write_text("\n".join(["[INFO] starting", *lines, '{"time": "x", "predictions": [{"cut', '{"id": "1"}', ""]))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *logs: Path, card: dict[str, Any] = CARD) -> tuple[int, dict[str, Any], str]:
    monkeypatch.setattr(module.Gateway, "card", lambda gateway: card)
    outcome = drift(logs, "http://127.0.0.1:1", connections=1)
    return outcome.status, outcome.document["versions"], outcome.text


def test_predictions_as_in_validation_have_not_drifted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = log(tmp_path / "gateway.log", *[entry("cat"), entry("dog")] * 50)
    status, versions, text = run(monkeypatch, file)
    assert status == 0
    assert (versions["1.0"]["predictions"], versions["1.0"]["class_distance"]) == (100, 0)
    assert versions["1.0"]["expected_accuracy"] == pytest.approx(0.9)
    assert "expected accuracy 90.0% (validation: 90.0%)" in text
    assert "This has drifted" not in text


@pytest.mark.parametrize(
    ("other", "words"),
    [(entry(confidence=0.5), "expected accuracy 50.0%"), (entry(inside=False), "in distribution 0.0%")],
)
def test_less_sure_predictions_and_outliers_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: dict[str, Any], words: str
) -> None:
    status, versions, text = run(monkeypatch, log(tmp_path / "gateway.log", *[other] * 100))
    assert (status, versions["1.0"]["drifted"]) == (1, True)
    assert words in text
    assert "learn from it with 'classifier learn'" in text
    status, _, text = run(monkeypatch, log(tmp_path / "gateway.log", *[other] * 10))
    assert status == 0
    assert "too little" in text


def test_names_the_classes_that_are_sent_more_often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, versions, text = run(monkeypatch, log(tmp_path / "gateway.log", *[entry("cat")] * 100))
    assert (status, versions["1.0"]["class_distance"]) == (1, pytest.approx(0.5))
    assert "classes differ from training by 0.50: cat 100% instead of 50%, dog 0% instead of 50%" in text


def test_few_predictions_a_class_do_not_tell_the_shares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = CARD | {"classes": list("abcdefgh"), "data": {"class_counts": [10] * 8}}
    status, versions, _ = run(monkeypatch, log(tmp_path / "gateway.log", *[entry("a")] * 100), card=card)
    assert (status, versions["1.0"]["class_distance"]) == (0, pytest.approx(7 / 8))


def test_several_logs_and_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    older, newer = log(tmp_path / "1", entry(), entry(version="0.9")), log(tmp_path / "2", entry())
    _, versions, text = run(monkeypatch, older, newer, card={**CARD, "data": {}})
    assert {version: seen["predictions"] for version, seen in versions.items()} == {"1.0": 2, "0.9": 1}
    assert versions["0.9"]["validation_accuracy"] is None
    assert "classes differ" not in text


def test_without_logged_predictions_it_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="GATEWAY_LOG_PREDICTIONS=1"):
        drift((log(tmp_path / "gateway.log"),), "http://127.0.0.1:1", connections=1)
    with pytest.raises(Stopped, match="cannot be read"):
        drift((tmp_path / "nothing.log",), "http://127.0.0.1:1", connections=1)


def test_the_running_product_tells_it(stack: Stack, tmp_path: Path) -> None:
    """The gateway writes such lines, and its card has the figures."""
    client = create_app(
        {
            "MODEL_DIR": "",
            "TORCHSERVE_CONFIG": str(stack.config),
            "KEY_FILE": str(stack.run / "key_file.json"),
            "LOG_PREDICTIONS": 1,
        }
    ).test_client()
    lines: list[str] = []
    with patch.object(request_log._LOG, "add", lines.append):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        for name in TEN:
            client.post(
                "/predict", data={"file": (io.BytesIO(encode(draw(name, 3))), "image")}, headers={"traceparent": trace}
            )
    assert json.loads(lines[0])["traceparent"] == trace
    (tmp_path / "gateway.log").write_text("".join(lines))
    told = json.loads(run_module("scripts.drift", tmp_path / "gateway.log", "--url", stack.url, "--json"))
    assert told["versions"]["1.0"]["predictions"] == len(TEN)
    assert told["versions"]["1.0"]["validation_accuracy"] is not None
    assert told["versions"]["1.0"]["class_distance"] == pytest.approx(0, abs=0.2)

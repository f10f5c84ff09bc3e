"""Where commands look for the gateway if you do not say."""

from pathlib import Path

import pytest

from scripts.serving import defaults


def test_the_gateway_is_the_one_that_was_started_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "RUN", tmp_path)
    assert defaults.served_url() == "http://127.0.0.1:5001"
    (tmp_path / "url").write_text("http://127.0.0.1:5002")
    assert defaults.served_url() == "http://127.0.0.1:5002"

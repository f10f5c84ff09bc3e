"""What is said to who finds no place: by the gateway's door, and to a page by Flask."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from gateway import batches, create_app
from gateway.batches import Batches
from tests.gateway.test_batches import Held
from tests.stack import wait_until, write_config


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    """A client of a gateway in which one image is being looked at and another waits, which is all that may."""
    monkeypatch.setattr(batches, "MAX_WAITING", 1)
    app = create_app({"TORCHSERVE_CONFIG": write_config(tmp_path / "config.properties")})
    torchserve = Held()
    held = app.extensions["batches"] = Batches(torchserve, calls=1, timeout=10)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(held.predict, b"1")
        wait_until(lambda: torchserve.calls == [[b"1"]])
        pool.submit(held.predict, b"2")
        wait_until(held._small.full)
        yield app.test_client()
        torchserve.go_on.set()


@pytest.mark.parametrize("page", [{}, {"Origin": "null"}], ids=["program", "page"])
@pytest.mark.parametrize("path", ["/predict", "/predict_base64", "/explain"])
def test_is_told_to_come_again(
    full: FlaskClient, capsys: pytest.CaptureFixture[str], path: str, page: dict[str, str]
) -> None:
    form = {"file": (io.BytesIO(b"3"), "3.png")}
    reply = full.post(path, data=form, headers={"X-Request-ID": "mine", **page})
    assert (reply.status_code, reply.headers["Retry-After"], reply.headers["X-Request-ID"]) == (503, "1", "mine")
    assert reply.get_json() == {"error": "Too many images are waiting.", "success": False}
    assert reply.headers.get("Access-Control-Allow-Origin") == page.get("Origin")
    line = json.loads(capsys.readouterr().out)
    assert (line["id"], line["route"], line["status"]) == ("mine", path, 503)


def test_a_full_gateway_is_live_but_not_ready(full: FlaskClient) -> None:
    assert full.get("/live").status_code == 200
    ready = full.get("/ready")
    assert (ready.status_code, ready.headers["Retry-After"]) == (503, "1")
    assert ready.get_json() == {"status": "unavailable", "reason": "Too many images are waiting."}

"""The id of a request, and the line it leaves in the log."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import requests

from gateway.app import create_app
from tests.drawing import draw, encode
from tests.fake_backend import prediction
from tests.stack import ROOT, Stack, free_ports, wait_until, write_config

PICTURE = encode(draw("red", 1))


def logged(stack: Stack, request_id: str) -> list[dict[str, object]]:
    lines = (stack.run / "gateway.log").read_text().splitlines()
    return [
        entry
        for entry in map(json.loads, (line for line in lines if line.startswith("{")))
        if entry["id"] == request_id
    ]


def test_a_request_leaves_one_line_under_its_id(stack: Stack) -> None:
    response = requests.post(f"{stack.url}/predict", files={"file": PICTURE}, headers={"X-Request-ID": "mine.1"})
    assert response.headers["X-Request-ID"] == "mine.1"
    wait_until(lambda: logged(stack, "mine.1"))
    (line,) = logged(stack, "mine.1")
    assert (line["method"], line["route"], line["status"], line["version"]) == ("POST", "/predict", 200, "1.0")
    assert 0 < float(str(line["gateway_ms"])) < float(str(line["upstream_ms"])) < 1000


@pytest.mark.parametrize("given", [None, "x" * 65, "a b", "<script>", 'a"}'])
def test_a_request_without_a_usable_id_gets_one(stack: Stack, given: str | None) -> None:
    headers = {"X-Request-ID": given} if given else {}
    replies = [requests.get(f"{stack.url}/{path}", headers=headers) for path in ("live", "nothing", "predict")]
    made = {reply.headers["X-Request-ID"] for reply in replies}
    assert len(made) == 3
    assert all(len(each) == 32 for each in made)
    wait_until(lambda: all(logged(stack, each) for each in made))
    assert {logged(stack, reply.headers["X-Request-ID"])[0]["status"] for reply in replies} == {200, 404, 405}


def answers(url: str) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"{url}/live").status_code == 200
    return False


@contextlib.contextmanager
def gateway_alone(folder: Path, log: str, processes: int = 1) -> Iterator[Stack]:
    """Run the gateway without a model, its output in the file `log`."""
    (port,) = free_ports(1)
    config, counts = write_config(folder / "config.properties"), folder / "counts"
    counts.mkdir()
    settings = {
        "GATEWAY_TORCHSERVE_CONFIG": str(config),
        "GATEWAY_KEY_FILE": str(folder / "key_file.json"),
        "PROMETHEUS_MULTIPROC_DIR": str(counts),
    }
    command = [sys.executable, "-m", "gunicorn", "--config", "gateway/gunicorn.conf.py", "--workers", str(processes)]
    command += ["--bind", f"127.0.0.1:{port}"]
    with Path(log).open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | settings, stdout=output, stderr=output, text=True
        )
    alone = Stack(f"http://127.0.0.1:{port}", process, config, folder, [])
    try:
        wait_until(lambda: answers(alone.url))
        yield alone
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_a_log_on_a_full_disk_costs_its_lines_alone(tmp_path: Path) -> None:
    with gateway_alone(tmp_path, "/dev/full") as alone:
        paths = ("live", "health", "classes", "metrics", "nothing", "")
        replies = [requests.get(f"{alone.url}/{path}") for path in paths]
        replies.append(requests.post(f"{alone.url}/predict", files={"file": PICTURE}))
    assert [reply.status_code for reply in replies] == [200, 503, 503, 200, 404, 200, 503]


def test_a_log_whose_reader_has_gone_costs_its_lines_alone(tmp_path: Path) -> None:
    app = create_app({"TORCHSERVE_CONFIG": write_config(tmp_path / "config.properties")})
    app.extensions["backend"].predict = lambda image, version=None: prediction("red")
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w") as log, patch.object(sys, "stdout", log):
        reply = app.test_client().post("/predict", data={"file": (io.BytesIO(PICTURE), "picture.png")})
    assert reply.get_json()["predicted_class"] == "red"

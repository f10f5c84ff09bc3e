"""Connections and memory that are kept, and how connections end when the gateway stops."""

import json
import resource
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.gateway.test_request_log import gateway_alone
from tests.stack import GATEWAY, ROOT, listens, wait_until

BALANCER_IDLE = 60  # seconds for which the balancers of the large clouds keep a connection, as they are installed

PHOTOS = """
import runpy, sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

def photo(megabytes):
    body = b"".join([bytes(2**16) for _ in range(16 * megabytes)])
    return body[100:]

def faults():
    photo(2)
    before = getrusage(RUSAGE_SELF).ru_minflt
    for _ in range(20):
        photo(2)
    return getrusage(RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

if sys.argv[1] == "keep":
    runpy.run_path("gateway/gunicorn.conf.py")["post_worker_init"](None)
print(faults())
before = resident()
photo(60)
print(resident() - before)
"""


def pages(how: str) -> list[int]:
    """Return how many pages the kernel clears for 20 photos of 2 MB, and how many more 60 MB leave behind."""
    command = [sys.executable, "-c", PHOTOS, how]
    return [int(line) for line in subprocess.check_output(command, cwd=ROOT, text=True).split()]


def test_keeps_the_memory_of_a_photo_for_the_next_one_and_gives_back_that_of_a_huge_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "anywhere")
    cleared, left = pages("keep")
    assert 10 * cleared < pages("give back")[0]
    assert left * resource.getpagesize() < 10 * 2**20


def test_keeps_a_connection_for_longer_than_balancers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "anywhere")
    assert runpy.run_path(str(ROOT / "gateway" / "gunicorn.conf.py"))["keepalive"] > BALANCER_IDLE


@pytest.mark.slow
def test_stops_while_clients_keep_their_connections_but_answers_what_is_under_way(tmp_path: Path) -> None:
    body = b"x" * 1000
    head = f"POST /predict_base64 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with gateway_alone(tmp_path, str(tmp_path / "log")) as alone, requests.Session() as idle, alone.connect() as busy:
        idle.get(f"{alone.url}/live")
        unused = alone.connect()
        busy.sendall(head.encode() + body[:500])
        busy.settimeout(20)
        alone.process.terminate()
        started = time.monotonic()
        wait_until(lambda: not listens(int(alone.url.rpartition(":")[2])))
        busy.sendall(body[500:])
        status, _, answer = busy.makefile("rb").read().partition(b"\r\n")
        assert b" 400 " in status
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["success"] is False
        alone.process.wait(20)
        assert time.monotonic() < started + 15  # a kept connection would hold it for graceful_timeout, 30 s
        unused.close()


@pytest.mark.slow
def test_stops_at_once_while_a_process_is_starting(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with gateway_alone(tmp_path, str(log)) as alone:
        (process,) = alone.processes(GATEWAY)
        process.kill()
        wait_until(lambda: log.read_text().count("Booting worker") == 2)
        alone.process.terminate()
        alone.process.wait(10)  # it would wait for graceful_timeout, 30 s

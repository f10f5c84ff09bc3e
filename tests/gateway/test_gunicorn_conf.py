"""Connections that are kept, and how they end when the gateway stops."""

import json
import runpy
import time
from pathlib import Path

import pytest
import requests

from tests.gateway.test_request_log import gateway_alone
from tests.stack import GATEWAY, ROOT, listens, wait_until

BALANCER_IDLE = 60  # seconds for which the balancers of the large clouds keep a connection, as they are installed


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

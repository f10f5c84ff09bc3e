"""Processes that die, are killed, or are told to stop, under load."""

import json
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from scripts.serving.defaults import BACKENDS
from tests.drawing import draw, encode
from tests.faults.ledger import FORM, Ledger, Pictures, form
from tests.stack import JAVA, WORKER, Record, Stack, seconds_until, serve, times, wait_until

PHOTO = encode(draw("red", 1).resize((4000, 3000)), "JPEG")

pytestmark = pytest.mark.alone


@pytest.mark.timeout(1200)
def test_no_request_is_lost_with_a_worker_that_is_killed(
    stack: Stack, capacity: float, pictures: Pictures, record_property: Record
) -> None:
    def kill_one() -> float:
        victim = random.choice(stack.processes(WORKER))
        victim.kill()
        return seconds_until(lambda: len(ready := stack.workers()) == 2 and victim.pid not in ready)

    ledger, again = Ledger(stack.url, pictures), []
    with ledger.under_load(capacity / 2):
        for _ in range(times(3, 20)):
            time.sleep(1)
            again.append(kill_one())
    record_property(
        f"{len(again)} workers killed at {capacity / 2:.0f}/s", f"ready after {max(again):.1f} s, {ledger.outcomes()}"
    )
    assert set(ledger.outcomes()) == {"right"}
    assert max(again) <= 10


@pytest.mark.timeout(1200)
def test_torchserve_is_killed_and_comes_back(
    lone: Path, pictures: Pictures, tmp_path: Path, record_property: Record
) -> None:
    def status(path: str) -> int:
        return requests.get(stack.url + path).status_code

    known, again = [], []
    with serve(lone, tmp_path) as stack:
        ledger = Ledger(stack.url, pictures)
        with ledger.under_load(20):
            for _ in range(times(1, 5)):
                time.sleep(times(2, 12))
                (java,) = stack.processes(JAVA)
                java.kill()
                known.append(seconds_until(lambda: status("/health") == 503))
                assert status("/live") == 200
                assert status("/ready") == 503
                again.append(seconds_until(lambda: status("/ready") == 200))
        assert ledger.outcomes()["right"]
    record_property(
        f"TorchServe killed {len(again)} times",
        f"/health 503 after {max(known):.2f} s, serving after {max(again):.1f} s, {ledger.outcomes()}",
    )
    assert set(ledger.outcomes()) <= {"right", "refused"}
    assert max(known) <= 2


@pytest.mark.timeout(1200)
def test_no_request_fails_while_keys_expire(
    lone: Path, pictures: Pictures, tmp_path: Path, record_property: Record
) -> None:
    def key() -> str:
        return stack.torchserve._api.tokens.read("inference")

    keys: set[str] = set()
    with serve(lone, tmp_path, token_expiration_min=1 / 60) as stack:
        ledger = Ledger(stack.url, pictures)
        with ledger.under_load(50):
            while len(keys) <= times(5, 100):
                keys.add(key())
                time.sleep(0.1)
    record_property(f"{len(keys) - 1} expiries of a key", str(ledger.outcomes()))
    assert set(ledger.outcomes()) == {"right"}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backend", times(BACKENDS[:1], BACKENDS))
def test_what_is_in_flight_is_finished_on_sigterm(
    lone: Path, backend: str, tmp_path: Path, record_property: Record
) -> None:
    def send(stack: Stack) -> socket.socket:
        body = form(PHOTO)
        connection = stack.connect(timeout=40)
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (FORM.encode(), len(body)) + body
        )
        return connection

    def refuses(url: str) -> bool:
        try:
            return not requests.get(f"{url}/live").ok
        except requests.ConnectionError:
            return True

    def receive(connection: socket.socket) -> bytes:
        with connection, connection.makefile("rb") as reply:
            return reply.read()

    took = []
    for number in range(times(1, 50)):
        with serve(lone, tmp_path / str(number), backend) as stack:
            connections = [send(stack) for _ in range(8)]
            time.sleep(0.1)  # until they are accepted
            started = time.monotonic()
            stack.process.send_signal(signal.SIGTERM)
            with ThreadPoolExecutor(8) as pool:
                replies = list(pool.map(receive, connections))
            wait_until(lambda: refuses(stack.url), seconds=5)  # a gateway worker looks once a second if it shall stop
            assert stack.process.wait(40) == 0
            took.append(time.monotonic() - started)
        for reply in replies:
            head, body = reply.split(b"\r\n\r\n", 1)
            assert head.startswith(b"HTTP/1.1 200")
            assert json.loads(body)["predicted_class"] == "red"
    record_property(f"SIGTERM with 8 photos in flight, {len(took)} times", f"all finished, ended in {max(took):.1f} s")

"""The model in the gateway's own process: what test_routes does not ask of every backend."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from scripts.serve import LOCAL
from tests.drawing import draw, encode
from tests.stack import GATEWAY, JAVA, WORKER, Stack, serve, wait_until

PICTURE = encode(draw("purple", 21))


@pytest.fixture(scope="module")
def local(archive: Path, workspace: Path) -> Iterator[Stack]:
    with serve(archive, workspace / "alone", LOCAL) as running:
        yield running


def test_there_is_nothing_but_the_gateway(local: Stack) -> None:
    assert local.output[0] == "Starting Gateway …\n"
    assert len(local.processes(GATEWAY)) == 3
    assert not local.processes(JAVA) + local.processes(WORKER)


def test_lives_on_while_it_computes(local: Stack) -> None:
    """A class is explained in a second of computing; nobody who asks something else waits for that."""
    with ThreadPoolExecutor(4) as pool:
        explained = [
            pool.submit(requests.post, f"{local.url}/explain", files={"file": ("ship.jpg", PICTURE)}) for _ in range(4)
        ]
        waited = []
        while not all(each.done() for each in explained):
            started = time.monotonic()
            assert requests.get(f"{local.url}/live").ok
            waited.append(time.monotonic() - started)
    assert {each.result().status_code for each in explained} <= {200, 503}
    assert max(waited) < 0.5


def test_a_process_that_dies_is_started_again(local: Stack) -> None:
    _, *processes = sorted(process.pid for process in local.processes(GATEWAY))
    for process in local.processes(GATEWAY):
        if process.pid in processes:
            process.send_signal(signal.SIGKILL)
    wait_until(lambda: len({process.pid for process in local.processes(GATEWAY)} - set(processes)) == 3)
    assert requests.post(f"{local.url}/predict", files={"file": PICTURE}).json()["predicted_class"] == "purple"

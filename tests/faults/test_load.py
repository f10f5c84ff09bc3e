"""More load than can be served, for long, and from clients that dawdle."""

import base64
import contextlib
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import requests

from gateway.limits import MAX_IMAGE_BYTES, READ_SECONDS
from scripts.serving.defaults import BACKENDS, RELEASED
from scripts.serving.product import gateway
from tests.drawing import draw, encode
from tests.faults.ledger import CLIENTS, FORM, Ledger, Pictures, form, labelled_pictures
from tests.stack import GATEWAY, JAVA, LONG, Record, Stack, free_ports, seconds_until, serve, times, wait_until

pytestmark = pytest.mark.alone
CONNECTIONS = times(320, 1000)  # of a flood: more than wait in the product, and than are refused within 0.1 s


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return labelled_pictures(RELEASED)


@pytest.fixture(scope="module", params=times(BACKENDS[:1], BACKENDS))
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The product with the released default, whose network takes its time."""
    with serve(RELEASED.with_suffix(".mar"), tmp_path_factory.mktemp("released"), request.param) as running:
        yield running


def sustained(ledger: Ledger) -> float:
    """Return right answers a second to as many clients as ask again when they have one."""
    seconds = times(2, 10)
    ledger.flood(1e6, seconds, CLIENTS)
    return ledger.rate(seconds)


@pytest.fixture(scope="module")
def sustainable(stack: Stack, pictures: Pictures) -> float:
    return sustained(Ledger(stack.url, pictures))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("factor", "least", "longest"), [(2, 0.9, 0.1), (10, 0.5, 0.5)], ids=["2", "10"])
def test_overload(
    stack: Stack,
    sustainable: float,
    pictures: Pictures,
    factor: int,
    least: float,
    longest: float,
    record_property: Record,
) -> None:
    """It answers `least` of what is sustained, and refuses within `longest` seconds.

    The client is on the same cores, and takes a third of one for ten times the load.
    """
    seconds = times(2, 60)
    ledger, after = (Ledger(stack.url, pictures) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(ledger.flood, factor * sustainable, seconds, CONNECTIONS, sustainable)
        states = set()
        while not load.done():
            states.add(tuple(requests.get(f"{stack.url}/{path}").status_code for path in ("live", "health", "ready")))
            time.sleep(0.2)
        load.result()
    goodput = ledger.rate(seconds) / sustainable
    recovered = sustained(after) / sustainable
    record_property(
        f"{factor} times the sustainable {sustainable:.0f}/s for {seconds} s",
        f"goodput {goodput:.2f}, refusals {ledger.took('refused', 50) * 1e3:.0f} ms in the median and "
        f"{ledger.took('refused', 99) * 1e3:.0f} at p99, {recovered:.2f} at once after, {ledger.outcomes()}",
    )
    assert set(ledger.outcomes()) <= {"right", "refused"}
    assert states <= {(200, 200, 200), (200, 200, 503)}
    assert set(after.outcomes()) == {"right"}
    if LONG:
        assert ledger.outcomes()["refused"]
        assert goodput >= least
        assert ledger.took("refused", 99) <= longest


@pytest.mark.timeout(900)
def test_a_flood_of_whatever_costs(stack: Stack, record_property: Record) -> None:
    """Of 10 MB each: together they are more than TorchServe's Java process holds in its 512 MB."""
    large = encode(draw("red", 1), "JPEG").ljust(MAX_IMAGE_BYTES, b"\0")
    half = large[: MAX_IMAGE_BYTES // 2]
    kinds = [
        ("/predict", [large]),
        ("/predict?version=1.0", [large]),
        ("/predict", [half, half]),
        ("/predict?version=1.0", [half, half]),
        ("/explain", [large]),
    ]

    def send(number: int) -> str:
        path, images = kinds[number % len(kinds)]
        headers = {"Origin": "null"} if number % 2 else {}
        reply = requests.post(stack.url + path, files=[("file", image) for image in images], headers=headers)
        later = reply.status_code == 503 and "Retry-After" in reply.headers
        return "refused" if later else str(reply.status_code)

    alive = set(stack.processes(""))
    with ThreadPoolExecutor(times(30, 100)) as pool:
        outcomes = Counter(pool.map(send, range(times(30, 1000))))
    record_property(f"{outcomes.total()} requests of 10 MB, {times(30, 100)} at once", dict(outcomes))
    assert set(outcomes) <= {"200", "refused"}
    assert outcomes["200"]
    assert set(stack.processes("")) == alive
    wait_until(lambda: requests.get(f"{stack.url}/ready").ok)


def test_slow_clients(stack: Stack, record_property: Record) -> None:
    half = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
    half += f"Content-Type: {FORM}\r\n".encode()
    connections = [stack.connect() for _ in range(200)]
    for number, connection in enumerate(connections):
        connection.sendall(half + b"\r\n--x" if number % 2 else half)
    took = []
    for _ in range(100):
        started = time.monotonic()
        assert requests.get(f"{stack.url}/health").status_code == 200
        took.append(time.monotonic() - started)
    for connection in connections:
        connection.close()
    p99 = float(np.percentile(took, 99))
    record_property("/health beside 200 half-sent requests", f"p99 {p99 * 1e3:.0f} ms")
    assert p99 < 0.5


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway that may open 256 files in each process, and write none of more than 2 MB."""
    folder = tmp_path_factory.mktemp("limited")
    shutil.unpack_archive(RELEASED.with_suffix(".mar"), folder / "model", "zip")
    (port,) = free_ports(1)
    service = gateway("127.0.0.1", port, {"MODEL_DIR": folder / "model"}, folder, folder)
    service.command = ["bash", "-c", 'ulimit -n 256 -f 2000 && exec "$@"', "bash", *service.command]
    service.start()
    try:
        wait_until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        service.stop()


def answers(port: int) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"http://127.0.0.1:{port}/live").ok
    return False


def test_more_slow_clients_than_descriptors(limited: str, record_property: Record) -> None:
    address = limited.removeprefix("http://").split(":")
    half = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\nContent-Type: {FORM}\r\n\r\n--x".encode()
    with contextlib.ExitStack() as connections:
        for _ in range(600):
            connection = connections.enter_context(socket.create_connection((address[0], int(address[1]))))
            connection.sendall(half)
        took = seconds_until(lambda: requests.get(f"{limited}/live").ok)
        record_property("/live beside 600 half-sent uploads, and 256 descriptors a process", f"after {took:.1f} s")
        assert took < READ_SECONDS


def test_an_upload_needs_no_temporary_file(limited: str) -> None:
    large = encode(draw("red", 1), "JPEG").ljust(MAX_IMAGE_BYTES, b"\0")
    assert requests.post(f"{limited}/predict", files={"file": large}).status_code == 200


@pytest.mark.timeout(2400)
def test_memory_and_descriptors_stay(
    stack: Stack, capacity: float, pictures: Pictures, record_property: Record
) -> None:
    seconds = times(6, 1800 if stack.processes(JAVA) else 600)
    ledger = Ledger(stack.url, pictures)
    ledger.open_loop(0.7 * capacity, seconds / 3)
    memory, descriptors = megabytes(stack.processes("")), opened(stack)
    ledger.open_loop(0.7 * capacity, seconds * 2 / 3)
    more, also = megabytes(stack.processes("")) - memory, opened(stack) - descriptors
    record_property(
        f"{seconds} s at 0.7 of what is sustained",
        f"in the last two thirds {more:+.0f} MB of {memory:.0f}, {also:+d} descriptors of {descriptors}, "
        f"{ledger.outcomes()}",
    )
    assert set(ledger.outcomes()) <= {"right", "refused"}  # refused while other work has the machine
    assert more < 0.1 * memory
    assert also < 20


def test_refused_requests_leave_no_memory_behind(stack: Stack, record_property: Record) -> None:
    large = bytes(MAX_IMAGE_BYTES + 1)

    def send(number: int) -> int:
        if number % 3 == 0:
            return requests.post(f"{stack.url}/predict", files={"file": large}).status_code
        if number % 3 == 1:
            text = base64.b64encode(large).decode()
            return requests.post(f"{stack.url}/predict_base64", json={"image": text}).status_code
        without_length = iter([form(large)])
        return requests.post(f"{stack.url}/predict", data=without_length, headers={"Content-Type": FORM}).status_code

    gateways = stack.processes(GATEWAY)
    with ThreadPoolExecutor(4) as pool:
        before, busy = megabytes(gateways), cpu_seconds(gateways)
        assert set(pool.map(send, range(30))) == {413}
        more, busy = megabytes(gateways) - before, cpu_seconds(gateways) - busy
    record_property("30 requests of 10 MB + 1", f"refused, gateway {more:+.0f} MB, {busy / 30:.2f} s of CPU each")
    assert more <= 20
    assert busy < 30 * 0.5


def megabytes(processes: list[psutil.Process]) -> float:
    return sum(process.memory_full_info().uss for process in processes) / 2**20


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def opened(stack: Stack) -> int:
    return sum(process.num_fds() for process in stack.processes(""))

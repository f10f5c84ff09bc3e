"""Two machines with TorchServe, of which one is killed under load and comes back: behind nginx, and without it."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pytest
import requests

from gateway.backend import BackendError
from gateway.torchserve.api import Api
from gateway.torchserve.client import MAX_SILENCE_SECONDS
from gateway.torchserve.inference import Inference
from gateway.torchserve.nodes import CONNECT_TIMEOUT
from scripts.serving import served
from scripts.serving.defaults import TORCHSERVE
from scripts.serving.product import find_java, gateway, keep_memory, torchserve
from scripts.serving.supervisor import Service
from tests.deploy import NGINX
from tests.faults.ledger import Ledger, Pictures
from tests.machines import Machine, machines
from tests.stack import ROOT, Record, free_ports, seconds_until, times, wait_until

RATE = 30  # requests a second
WORKERS = 2  # of a node
STARTING = 7  # seconds, proxy_read_timeout of nginx, which cannot see that a node is only starting
WAYS = ["through nginx", "by their addresses"]
TOKEN = "letters123"
CONFIG = ROOT / "deploy" / "torchserve.properties"
TEMPLATE = ROOT / "deploy" / "nginx" / "torchserve.conf.template"


@dataclass
class Node:
    """A machine with TorchServe."""

    machine: Machine
    service: Service

    @property
    def url(self) -> str:
        return f"http://{self.machine.address}:8080"

    def kill(self) -> None:
        assert self.service.process
        os.killpg(self.service.process.pid, signal.SIGKILL)
        self.service.process.wait()

    def predictions(self) -> int:
        """Return how many predictions it was asked for since it was started; 0 where it does not answer."""
        try:
            counted = requests.get(f"{self.url}/metrics", timeout=1).text
        except requests.RequestException:
            return 0
        return sum(int(float(count)) for count in re.findall(r"^ts_inference_requests_total\{.*} (\S+)", counted, re.M))


@dataclass
class Cluster:
    """Two nodes, the address of the nginx before them, and the file with the token that it asks for."""

    nodes: list[Node]
    nginx: str
    token_file: Path


@pytest.fixture(scope="module")
def cluster(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("nodes")
    token_file = folder / "token"
    token_file.write_text(TOKEN)
    nodes = []
    with machines(3) as (front, *others), contextlib.ExitStack() as running:
        for machine in others:
            run = folder / machine.name
            memory = run / "memory"
            keep_memory(memory, run)
            served.begin(archive, run, TORCHSERVE)
            service = torchserve(CONFIG, run, find_java(), memory)
            service.command = machine.command(service.command)
            address = f"http://{machine.address}:8080"
            service.env |= {"TS_INFERENCE_ADDRESS": address, "TS_MANAGEMENT_ADDRESS": address}
            nodes.append(Node(machine, service))
            service.start()
            running.callback(nodes[-1].kill)
        servers = "".join(f"server {machine.address}:8080 fail_timeout=5s; " for machine in others)
        (folder / "nginx.conf").write_text(NGINX)
        filled = Template(TEMPLATE.read_text()).safe_substitute(SERVERS=servers, TOKEN=TOKEN)
        (folder / "torchserve.conf").write_text(filled)
        command = front.command(["nginx", "-e", "stderr", "-p", f"{folder}/", "-c", "nginx.conf"])
        nginx = Service("nginx", command, folder, {}, folder / "nginx.log")
        nginx.start()
        running.callback(nginx.stop)
        wait_until(lambda: all(workers(node, token_file) == WORKERS for node in nodes), seconds=120)
        yield Cluster(nodes, f"http://{front.address}:8000", token_file)


def workers(node: Node, token_file: Path) -> int:
    time.sleep(0.2)  # as it has better things to do than to answer
    try:
        return Inference(Api.of_several_nodes([node.url], token_file, timeout=10)).details()["workers"]
    except BackendError:
        return 0


def serves(node: Node, token_file: Path) -> bool:
    """Return whether a node is ready and is asked: one that starts is asked too, and keeps that until it is ready."""
    if workers(node, token_file) < WORKERS:
        return False
    before = node.predictions()
    return bool(before) and seconds_until(lambda: node.predictions() > before + RATE / 4) > 0


@contextlib.contextmanager
def gateway_before(addresses: list[str], token_file: Path, folder: Path) -> Iterator[str]:
    """Run a gateway on this machine that asks these; yields its address."""
    (port,) = free_ports(1)
    settings = {"TORCHSERVE": ",".join(addresses), "TOKEN_FILE": token_file}
    service = gateway("127.0.0.1", port, settings, folder, folder)
    service.start()
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: status(url, "ready") == 200)
        yield url
    finally:
        service.stop()


def status(url: str, path: str) -> int:
    try:
        return requests.get(f"{url}/{path}").status_code
    except requests.ConnectionError:
        return 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", WAYS[: times(1, 2)])
def test_nothing_is_lost_with_a_node_that_is_killed(
    cluster: Cluster, way: str, pictures: Pictures, tmp_path: Path, record_property: Record
) -> None:
    addresses = [cluster.nginx] if way == WAYS[0] else [node.url for node in cluster.nodes]
    again, states = [], set()
    with gateway_before(addresses, cluster.token_file, tmp_path) as url:
        ledger = Ledger(url, pictures)
        with ledger.under_load(RATE):
            for number in range(times(1, 10)):
                time.sleep(1)
                victim = cluster.nodes[number % 2]
                victim.kill()
                until = time.monotonic() + 1
                while time.monotonic() < until:
                    states.add(status(url, "health"))
                victim.service.start()
                again.append(seconds_until(lambda: serves(victim, cluster.token_file)))  # noqa: B023
    record_property(
        f"{len(again)} times one of two nodes killed, asked {way} {RATE} times a second",
        f"{dict(ledger.outcomes())}, {slowest(ledger):.1f} s at most, both serve {max(again):.1f} s after its start",
    )
    assert set(ledger.outcomes()) == {"right"}
    assert states == {200}
    assert slowest(ledger) < STARTING + CONNECT_TIMEOUT + 1


@pytest.mark.timeout(1200)
def test_nothing_is_lost_with_a_machine_that_vanishes(
    cluster: Cluster, pictures: Pictures, tmp_path: Path, record_property: Record
) -> None:
    again = []
    with gateway_before([node.url for node in cluster.nodes], cluster.token_file, tmp_path) as url:
        ledger = Ledger(url, pictures)
        with ledger.under_load(RATE):
            for number in range(times(1, 10)):
                time.sleep(1)
                node = cluster.nodes[number % 2]
                before = node.predictions()
                node.machine.unplug()
                time.sleep(times(8, 15))
                node.machine.plug()
                again.append(seconds_until(lambda: node.predictions() > before + RATE / 4))  # noqa: B023
    record_property(
        f"{len(again)} times one of two machines unplugged, asked {RATE} times a second",
        f"{dict(ledger.outcomes())}, {slowest(ledger):.1f} s at most, both serve {max(again):.1f} s after",
    )
    assert set(ledger.outcomes()) == {"right"}
    assert slowest(ledger) < MAX_SILENCE_SECONDS + CONNECT_TIMEOUT + 3


def slowest(ledger: Ledger) -> float:
    return max(entry.seconds for entry in ledger.entries)

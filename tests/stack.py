"""The product as its users run it, on ports that are free: `python -m scripts.serve` as a child process."""

import contextlib
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import psutil
from filelock import FileLock, Timeout

from gateway.torchserve.management import Management
from gateway.torchserve.properties import read_properties
from scripts.serving.defaults import TORCHSERVE

ROOT = Path(__file__).resolve().parent.parent
HOWTO = ROOT / "docs" / "howto" / "several_machines.md"
WORKER, JAVA, GATEWAY = "model_service_worker", "ModelServer", "gunicorn"


PORTS = iter(random.sample(range(20_000, 32_000), 12_000))  # below those that the system hands out
# A server binds its port only later. So a lock keeps it from all other tests on this machine, while this process lives.
LOCKS = Path(tempfile.gettempdir()) / "classifier-test-ports"
CLAIMED: list[FileLock] = []

T = TypeVar("T")
LONG = os.environ.get("FAULTS") == "long"  # as `make faults` runs the tests
Record = Callable[[str, object], None]  # pytest's record_property: a promise, and what was measured of it


def times(short: T, long: T) -> T:
    """Return how often, for how long or to what something is done in `make test`, or else in `make faults`."""
    return long if LONG else short


@dataclass
class Stack:
    """A running product: the gateway's address, the command's process, its files and all it has printed."""

    url: str
    process: subprocess.Popen[str]
    config: Path
    run: Path
    output: list[str]

    @property
    def torchserve(self) -> Management:
        return Management(self.config, self.run / "key_file.json", timeout=60)

    def connect(self, timeout: float | None = None) -> socket.socket:
        """Open a connection to the gateway, for what no client library would send."""
        address = urlsplit(self.url)
        return socket.create_connection((address.hostname or "", address.port or 0), timeout)

    def processes(self, word: str) -> list[psutil.Process]:
        """Return the processes of the product with a word in their command line: one of WORKER, JAVA, GATEWAY."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if any(word in part for part in process.cmdline()):
                    found.append(process)
        return found

    def workers(self) -> list[int]:
        """Return the process id of every worker that is ready."""
        workers = self.torchserve.describe()[0]["workers"]
        return [worker["pid"] for worker in workers if worker["status"] == "READY"]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until `condition` returns something true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def documented(page: Path, start: str, places: dict[str, object]) -> list[str]:
    """Return the command of a page that starts so, with what a test has in the place of what a reader has."""
    lines = page.read_text().replace("\\\n", "").splitlines()
    (command,) = (line for line in lines if line.startswith(start))
    for place, substitute in places.items():
        command = command.replace(place, str(substitute))
    return shlex.split(command)


def seconds_until(condition: Callable[[], object]) -> float:
    started = time.monotonic()
    wait_until(condition)
    return time.monotonic() - started


def free_ports(count: int) -> list[int]:
    return list(islice(filter(_claim, PORTS), count))


def _claim(port: int) -> bool:
    """Return whether a port is free, and from now on this process's."""
    LOCKS.mkdir(exist_ok=True)
    lock = FileLock(LOCKS / str(port), blocking=False)
    with contextlib.suppress(Timeout):
        lock.acquire()
        CLAIMED.append(lock)
    return lock.is_locked and not listens(port)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def write_config(path: Path, **changes: object) -> Path:
    """Copy config.properties with free ports and other changes."""
    ports = iter(free_ports(5))
    properties = read_properties(ROOT / "config.properties")
    for name in properties:
        if name.endswith("_address"):
            properties[name] = f"http://127.0.0.1:{next(ports)}"
        elif name.startswith("grpc_"):
            properties[name] = str(next(ports))
    properties |= {name: str(value) for name, value in changes.items()}
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    return path


@contextlib.contextmanager
def serve(archive: Path, folder: Path, backend: str = TORCHSERVE, **changes: object) -> Iterator[Stack]:
    """Serve an archive until the block ends; what the command prints goes to `output`."""
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    config, run = write_config(folder / "config.properties", **changes), folder / "run"
    command = [sys.executable, "-m", "scripts.serve", str(archive), "--port", str(port)]
    command += ["--config", str(config), "--run", str(run), "--backend", backend]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stack = Stack(f"http://127.0.0.1:{port}", process, config, run, [])
    try:
        for line in process.stdout or ():
            stack.output.append(line)
            if "health" in line:
                break
        else:
            raise AssertionError("it did not start: " + "".join(stack.output))
        threading.Thread(target=lambda: stack.output.extend(process.stdout or ()), daemon=True).start()
        yield stack
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)

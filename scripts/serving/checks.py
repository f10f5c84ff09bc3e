"""The checks of the doctor. Each looks for one reason why the product cannot serve, and says how to mend it."""

# The checks report missing packages, so this imports the standard library alone, and nothing that Python 3.8 lacks.
from __future__ import annotations

import json
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from importlib.metadata import distribution, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

from scripts.serving.defaults import KEY_FILE, KEY_HEADER, KEY_VARIABLE, is_this_machine
from training.outcome import Outcome, Stopped
from training.project import MAR, ONNX_ZIP, ROOT

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PROJECT = "image-classifier"  # its name in pyproject.toml
EMBEDDED, ALL = (
    ("gateway", "embedded"),
    ("gateway", "embedded", "torchserve", "serve"),
)  # those of its extras that serve
EVERYTHING = "'make install' installs what TorchServe and training need"
REINSTALL = "run 'make clean', then 'make serve'"
MIN_DISK_BYTES = 2 * 10**9  # for the unpacked model and logs
TIMEOUT_SECONDS = 20
MAX_HEALTH_BYTES = 100_000
HEALTHY, UNHEALTHY = {"status", "model", "version", "workers"}, {"status", "reason"}  # what the gateway's health has
HTTP = 80  # the port of a URL without one
UNAUTHORIZED = 401


class Finding(NamedTuple):
    """The result of a check: its name, whether all is right, and `said`, a sentence with the facts or the remedy."""

    name: str
    right: bool
    said: str


def examine(model: Path, url: str, config: Path, run: Path) -> Iterator[Finding]:
    """Yield a finding for each thing that serving needs; with a Python that cannot serve, that alone."""
    python = _finding("python", _python)
    yield python
    if not python.right:
        return
    for name, look in (
        ("packages", _packages),
        ("java", _java),
        ("disk", lambda: _disk(run)),
        ("archive", lambda: _archive(model, _archive_of(model, run))),
        ("gateway", lambda: _gateway(url, config, run, _archive_of(model, run).name)),
        ("keys", lambda: _keys(run / KEY_FILE)),
    ):
        yield _finding(name, look)


def _finding(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except ImportError as error:  # PackageNotFoundError is one
        return Finding(name, False, f"{error.name or error} is not installed, or is damaged; {REINSTALL}.")
    except (OSError, RuntimeError, Stopped, ValueError) as error:
        return Finding(name, False, str(error))


def _python() -> str:
    running, project = platform.python_version(), (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest, too_new = re.findall(r"\d+\.\d+", re.findall(r"^requires-python = .*", project, re.MULTILINE)[0])
    if not _numbers(oldest) <= sys.version_info < _numbers(too_new):
        raise Stopped(
            f"{sys.executable} is {running}, but {oldest} or newer, and older than {too_new}, is needed; {REINSTALL}, "
            f"with such a one as PYTHON=/usr/bin/python{oldest}."
        )
    return running


def _numbers(python: str) -> tuple[int, ...]:
    return tuple(map(int, python.split(".")))


def _packages() -> str:
    from packaging.requirements import Requirement

    extras = EMBEDDED if _is_small() else ALL
    wanted = [package for package in map(Requirement, requires(PROJECT) or ()) if _serves(package, extras)]
    for package in wanted:
        installed = version(package.name)
        if installed not in package.specifier:
            raise Stopped(f"{package.name} is {installed}, not {package.specifier}; {REINSTALL}.")
    place = json.loads(distribution(PROJECT).read_text("direct_url.json") or "{}").get("url", "")
    folder = Path(url2pathname(urlsplit(place).path))
    if folder.resolve() != ROOT:
        raise Stopped(f"They run the code in {folder}, not that in {ROOT}; {REINSTALL}.")
    right = f"the {len(wanted)} that serve are as pyproject.toml has them"
    return f"{right}, for the embedded backend alone; {EVERYTHING}" if _is_small() else right


def _serves(package: Requirement, extras: tuple[str, ...]) -> bool:
    serves = any(package.marker and package.marker.evaluate({"extra": extra}) for extra in extras)
    return serves and package.name != PROJECT


def _is_small() -> bool:
    """Return whether only the embedded backend is installed. Raises ImportError if nothing is."""
    distribution(PROJECT)
    return not any(find_spec(name) for name in ("torch", "ts"))


def _archive_of(model: Path, run: Path) -> Path:
    """Return the archive of a checkpoint that is served from the folder `run`, or an archive as it is."""
    if model.name.endswith((MAR, ONNX_ZIP)):
        return model
    return model.with_suffix(ONNX_ZIP if _is_embedded(run) else MAR)


def _is_embedded(run: Path) -> bool:
    """Return whether the embedded backend serves from the folder `run`, or would."""
    from scripts.serving import defaults, served

    return _is_small() or served.backend(run) == defaults.EMBEDDED


def _java() -> str:
    if _is_small():
        return "none is needed, because only the embedded backend is installed"
    from scripts.serving.product import find_java

    return f"in {find_java()}"


def _disk(run: Path) -> str:
    folder = next(parent for parent in (run, *run.resolve().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < MIN_DISK_BYTES:
        raise Stopped(f"{free / 1e9:.1f} GB are free where {folder} is; make room for {MIN_DISK_BYTES / 1e9:.0f} GB.")
    return f"{free / 1e9:.0f} GB free"


def _archive(model: Path, archive: Path) -> str:
    if model != archive and model.exists() and not archive.exists() and not _is_small():
        return f"{archive} is not there yet; 'classifier serve' makes it of {model}"
    from scripts.serving.archives import check_archive

    check_archive(archive)
    return f"{archive} is whole"


def _gateway(url: str, config: Path, run: Path, archive: str) -> str:
    address = urlsplit(url)
    if not address.hostname:
        raise Stopped(f"{url!r} is no URL; name one with --url, such as http://127.0.0.1:5001.")
    health = _health(address, is_this_machine(address.hostname))
    if health is None:
        from gateway.torchserve.properties import read_properties
        from scripts.serving.product import check_ports

        check_ports(address.hostname, address.port or HTTP, {} if _is_embedded(run) else read_properties(config))
        return "not running, and its ports are free; start it with 'classifier serve'"
    if health["status"] != "healthy":
        from gateway.backend import NO_MODEL

        if health["reason"] == NO_MODEL:
            raise Stopped(f"It runs, but no model is registered; run 'classifier models register {archive}'.")
        raise Stopped(f"It runs but cannot predict: {health['reason']} The log of TorchServe may say why.")
    return f"serves {health['model']}, version {health['version']}, with {health['workers']} workers"


def _health(address: SplitResult, here: bool) -> dict[str, Any] | None:
    """Return the gateway's reply about its health, or None if nothing listens on this machine.

    It connects directly, because a proxy for the web does not lead back here. Raises Stopped if another program
    answers.
    """
    kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=TIMEOUT_SECONDS)
    try:
        key = os.environ.get(KEY_VARIABLE)
        connection.request("GET", f"{address.path}/health", headers={KEY_HEADER: key} if key else {})
        response = connection.getresponse()
        health = json.loads(response.read(MAX_HEALTH_BYTES))
    except (HTTPException, OSError) as error:
        if here and isinstance(error, ConnectionRefusedError):
            return None
        health, reason = None, str(error) or type(error).__name__
    except (ValueError, RecursionError):
        health, reason = None, "its answer is no JSON"
    else:
        reason = "its answer has other keys"
    finally:
        connection.close()
    if isinstance(health, dict) and response.status == UNAUTHORIZED and health.get("success") is False:
        remedy = "ask for a new one" if key else f"set {KEY_VARIABLE} to yours"
        asks = "does not take the API key that was sent" if key else "asks for an API key"
        raise Stopped(f"The gateway at {address.geturl()} {asks}: {remedy}.")
    if isinstance(health, dict) and (HEALTHY if health.get("status") == "healthy" else UNHEALTHY) <= health.keys():
        return health
    remedy = (
        "stop the program that listens there, or take another port with 'classifier serve --port 5002'"
        if here
        else "start the gateway there, or name another --url"
    )
    raise Stopped(f"The gateway does not answer at {address.geturl()} ({reason}): {remedy}.")


def _keys(key_file: Path) -> str:
    if not key_file.exists():
        return "none, because TorchServe was not started here"
    if stat.S_IMODE(key_file.stat().st_mode) & 0o077:
        raise Stopped(f"Others can read {key_file}; run 'chmod 600 {key_file}' and start the product again.")
    return f"{key_file} is for its owner alone"


def doctor(model: Path, url: str, config: Path, run: Path) -> Outcome:
    """Look at everything; the status is 1 if something is wrong."""
    findings = list(examine(model, url, config, run))
    lines = [f"{'ok   ' if finding.right else 'WRONG'}  {finding.name:9} {finding.said}" for finding in findings]
    status = 0 if all(finding.right for finding in findings) else 1
    return Outcome(status, "\n".join(lines), [finding._asdict() for finding in findings])

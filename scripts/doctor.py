#!/usr/bin/env python3
"""Look for what keeps the product from serving, and say what to do about it.

    scripts/doctor.py
    scripts/doctor.py model_store/cifar10_cnn.mar --url http://127.0.0.1:5002 --json

Exit status: 0 nothing is wrong, 1 something is, 2 stopped before the end.
"""

import argparse
import platform
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gateway.torchserve import read_properties
from scripts import options
from scripts.options import ROOT, Outcome
from scripts.serve import ServeError, check_ports, find_java
from training.files import DigestError, check_digest

PROJECT = "image-classifier"  # its name in pyproject.toml
SERVING = ("gateway", "torchserve", "serve")  # those of its extras; the last names the others
ANEW = "run 'make clean', then 'make serve'"
ENOUGH_DISK = 2 * 10**9  # bytes, for the unpacked model and logs
TIMEOUT = 20  # seconds
HTTP = 80  # the port of a URL without one


class WrongError(RuntimeError):
    """Something that is wrong; the message says what to do."""


class Finding(NamedTuple):
    """What was looked at, whether it is right, and what was found or is to be done."""

    name: str
    right: bool
    said: str


def examine(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield a finding for each thing that serving needs."""
    for name, look in (
        ("python", _python),
        ("packages", _packages),
        ("java", lambda: f"in {find_java()}"),
        ("disk", lambda: _disk(arguments.run)),
        ("archive", lambda: _archive(arguments.archive)),
        ("gateway", lambda: _gateway(arguments.url, arguments.config)),
        ("keys", lambda: _keys(arguments.run / "key_file.json")),
    ):
        yield _finding(name, look)


def _finding(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except (WrongError, ServeError, DigestError) as error:
        return Finding(name, False, str(error))


def _python() -> str:
    wanted, found = metadata(PROJECT)["Requires-Python"], platform.python_version()
    if found not in SpecifierSet(wanted):
        raise WrongError(f"It is {found}, but must be {wanted}; {ANEW} with another PYTHON=.")
    return found


def _packages() -> str:
    known = map(Requirement, requires(PROJECT) or ())
    wanted = [each for each in known if each.name != PROJECT and _serves(each)]
    for each in wanted:
        try:
            found = version(each.name)
        except PackageNotFoundError:
            raise WrongError(f"{each.name} is not there; {ANEW}.") from None
        if found not in each.specifier:
            raise WrongError(f"{each.name} is {found}, not {each.specifier}; {ANEW}.")
    return f"the {len(wanted)} that serve are as pyproject.toml has them"


def _serves(package: Requirement) -> bool:
    return any(package.marker and package.marker.evaluate({"extra": extra}) for extra in SERVING)


def _disk(run: Path) -> str:
    folder = next(parent for parent in (run, *run.resolve().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < ENOUGH_DISK:
        raise WrongError(f"{free / 1e9:.1f} GB are free where {folder} is; make room for {ENOUGH_DISK / 1e9:.0f} GB.")
    return f"{free / 1e9:.0f} GB free"


def _archive(archive: Path) -> str:
    check_digest(archive)
    return f"{archive} is whole"


def _gateway(url: str, config: Path) -> str:
    with requests.Session() as session:
        session.trust_env = False  # a proxy for the web does not lead to this machine
        try:
            health = session.get(f"{url}/health", timeout=TIMEOUT).json()
        except requests.ConnectionError:
            address = urlsplit(url)
            if not _is_here(address.hostname or ""):
                raise WrongError(f"Nothing answers at {url}; start the gateway there, or name another --url.") from None
            check_ports(address.hostname or "", address.port or HTTP, read_properties(config))
            return "not running, and its ports are free; start it with 'make serve'"
        except requests.RequestException as error:
            raise WrongError(f"Something else than the gateway is at {url} ({type(error).__name__}).") from None
    if health.get("status") != "healthy":
        raise WrongError(f"It runs but cannot predict: {health.get('reason')} The log of TorchServe may say why.")
    return f"serves {health['model']}, version {health['version']}, with {health['workers']} workers"


def _is_here(host: str) -> bool:
    """Say whether a host of a URL is this machine, `0.0.0.0` included, which `make serve HOST=` may have named."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def _keys(key_file: Path) -> str:
    if not key_file.exists():
        return "none, as TorchServe was not started here"
    if stat.S_IMODE(key_file.stat().st_mode) & 0o077:
        raise WrongError(f"Others can read {key_file}; run 'chmod 600 {key_file}' and start the product again.")
    return f"{key_file} is for its owner alone"


def doctor(arguments: argparse.Namespace) -> Outcome:
    """Carry out the command."""
    findings = list(examine(arguments))
    lines = [f"{'ok   ' if each.right else 'WRONG'}  {each.name:9} {each.said}" for each in findings]
    status = 0 if all(each.right for each in findings) else 1
    return Outcome(status, "\n".join(lines), [each._asdict() for each in findings])


def main() -> int:
    parser = options.new_parser(__doc__)
    default = ROOT / "model_store" / "cifar10_whitened_resnet.mar"
    parser.add_argument("archive", type=Path, nargs="?", default=default, help="what is or shall be served")
    options.add_gateway(parser)
    options.add_product(parser)
    return options.execute(doctor, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())

"""The command that says what is wrong, on a running product and where something is."""

import ast
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import patch

import pytest

from scripts import doctor as module
from tests.stack import ROOT, Stack, free_ports, write_config

Found = dict[str, tuple[bool, str]]


def doctor(*arguments: object, script: Path = ROOT / "scripts" / "doctor.py") -> tuple[int, Found]:
    return run([sys.executable, str(script), "--json", *map(str, arguments)])


def run(command: list[str]) -> tuple[int, Found]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    return done.returncode, {each["name"]: (each["right"], each["said"]) for each in json.loads(done.stdout)}


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """Another program on a port of this machine; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", free_ports(1)[0]), Handler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"


def gateway(url: str) -> tuple[bool, str]:
    found = module._finding("gateway", lambda: module._gateway(url, ROOT / "config.properties"))
    return found.right, found.said


def test_a_running_product_is_well(stack: Stack, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):  # one for the web does not lead to this machine
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    status, found = doctor(archive, "--url", stack.url, "--config", stack.config, "--run", stack.run)
    assert status == 0, found
    assert found["gateway"] == (True, "serves drawn, version 1.0, with 2 workers")
    assert all(right for right, _ in found.values())


def test_says_what_is_wrong_and_what_to_do(stack: Stack, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    config = write_config(tmp_path / "config.properties")
    (tmp_path / "key_file.json").write_text("{}")
    (tmp_path / "key_file.json").chmod(0o644)
    status, found = doctor(tmp_path / "none.mar", "--url", url, "--config", config, "--run", tmp_path)
    assert status == 1
    assert found["archive"][1].startswith(f"There is no archive {tmp_path / 'none.mar'}; build it with")
    assert found["gateway"][0]
    assert "run 'chmod 600" in found["keys"][1]
    status, found = doctor(tmp_path / "none.mar", "--url", url, "--config", stack.config, "--run", tmp_path)
    assert "free it, or set another" in found["gateway"][1]
    status, found = doctor("--url", url, "--config", tmp_path / "none.properties", "--run", tmp_path)
    assert "none.properties" in found["gateway"][1]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"status": "healthy"}', 200),
        (b'["ok"]', 200),
        (b"<html>Grafana</html>", 200),
        (b"\xff\xfe", 200),
        (b"[" * 90_000, 200),
        (b"", 302),
        (b'{"error": "unauthorized"}', 401),
    ],
)
def test_another_program_on_the_port(body: bytes, status: int) -> None:
    with answering(body, status) as url:
        right, said = gateway(url)
    assert not right
    assert said.startswith(f"The gateway does not answer at {url} (")
    assert "take another port with 'make serve PORT=5002'" in said


def test_a_program_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as silent, patch.object(module, "TIMEOUT", 0.2):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert gateway(url)[1].startswith(f"The gateway does not answer at {url} (timed out): stop the program")


def test_a_program_that_speaks_something_else() -> None:
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as server:
        Thread(target=lambda: server.accept()[0].sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert "(SSH-2.0-OpenSSH_9.2" in gateway(url)[1]


@pytest.mark.parametrize("url", ["", "localhost:5001", "http://"])
def test_what_is_no_url(url: str) -> None:
    assert "is no URL; name one with --url" in gateway(url)[1]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A clone that was never set up."""
    for part in ("gateway", "handler", "scripts", "training"):
        shutil.copytree(ROOT / part, tmp_path / "clone" / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "config.properties"):
        shutil.copy(ROOT / part, tmp_path / "clone")
    return tmp_path / "clone" / "scripts" / "doctor.py"


def test_a_python_without_packages_is_told_which_are_missing(bare: Path) -> None:
    status, found = run([sys.executable, "-I", "-S", str(bare), "--json"])
    assert status == 1
    for name in ("packages", "java"):
        right, said = found[name]
        assert not right
        assert said.endswith("is not installed, or is damaged; run 'make clean', then 'make serve'.")
    assert found["disk"][0]


def test_an_environment_that_runs_the_code_of_another_clone(bare: Path) -> None:
    right, said = doctor(script=bare)[1]["packages"]
    assert not right
    assert said.startswith(f"They run the code in {ROOT}, not that in {bare.parent.parent}; run 'make clean'")


def test_a_python_that_cannot_serve_is_told_which_can(bare: Path) -> None:
    project = bare.parent.parent / "pyproject.toml"
    project.write_text(project.read_text().replace(">=3.11,<3.14", ">=3.6,<3.8"))
    status, found = doctor(script=bare)
    assert (status, list(found)) == (1, ["python"])
    assert "but 3.6 or newer, and older than 3.8, is needed; run 'make clean', then 'make serve'" in found["python"][1]


def test_goes_over_to_the_python_of_the_environment(bare: Path) -> None:
    binaries = bare.parent.parent / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").write_text('#!/bin/sh\necho "$@"\n')
    (binaries / "python").chmod(0o755)
    done = subprocess.run([sys.executable, bare, "--json"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{bare} --json\n"


@pytest.mark.parametrize("script", ["doctor.py", "options.py", "__init__.py"])
def test_an_old_python_can_read_it(script: str) -> None:
    ast.parse((ROOT / "scripts" / script).read_text(), feature_version=(3, 8))

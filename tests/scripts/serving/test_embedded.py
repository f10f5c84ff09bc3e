"""Versions of the embedded backend, on running products of their own: all processes serve them, and nothing is lost."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from gateway.backend import Unavailable
from gateway.embedded import control
from gateway.embedded.versions import Unpacked, read
from scripts.serving.defaults import EMBEDDED, MEMORY, SCRATCH
from scripts.serving.deployment import Refused
from scripts.serving.embedded import EmbeddedDeployment, _write
from scripts.serving.traffic import FILE
from tests.archives import numbered, rebuild
from tests.conftest import CommandFailed, run_module
from tests.drawing import TEN, draw_dataset
from tests.scripts.serving.test_rolling import FUSSY, PICTURE, asked
from tests.scripts.serving.test_versions import models
from tests.stack import GATEWAY, Record, Stack, serve, times, wait_until
from training.outcome import STOPPED

ROLLS = times(4, 40)  # every other one a rollback
# What archives that must not be served have in the place of lines of the released code.
BAD_CODE = {
    "confused": ("handler/onnx_engine.py", "return logits, scores", "return -logits, scores"),
    "unsure": ("handler/onnx_engine.py", "return logits, scores", "return logits / 4, scores"),
    "raising": ("handler/predictor.py", "image = decode_for(bytes(file), self.inputs)", "raise RuntimeError('raw')"),
    "refusing": ("handler/predictor.py", "image = decode_for(bytes(file), self.inputs)", "raise ImageError('None.')"),
    "broken": ("handler/onnx_engine.py", "predictor.warm()", "raise RuntimeError('no weights')"),
    "dying": ("handler/onnx_engine.py", "predictor.warm()", "__import__('os')._exit(3)"),
    "sleeping": (
        "handler/onnx_engine.py",
        "logits, scores = session",
        "__import__('time').sleep(0.25)\n        logits, scores = session",
    ),
    "renamed": ("index_to_name.json", "azure", "teal"),
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("sample"), TEN, train=0, test=1) / "test"


@pytest.fixture(scope="module")
def store(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "store"
    folder.mkdir()
    rebuild(archive, folder / "first.mar", numbered("1.0"))
    rebuild(archive, folder / "second.mar", numbered("2.0"))
    rebuild(archive, folder / "taken.mar", numbered("1.0") | {"index_to_name.json": ("azure", "teal")})
    rebuild(archive, folder / "fussy.mar", numbered("3.0") | FUSSY)
    for name, (file, old, new) in BAD_CODE.items():
        rebuild(archive, folder / f"{name}.mar", numbered("3.0") | {file: (old, new)})
    return folder


@pytest.fixture(scope="module")
def embedded(store: Path) -> Iterator[Stack]:
    with serve(store / "first.mar", store.parent / "stack", EMBEDDED) as running:
        yield running


def served(stack: Stack) -> list[tuple[str, str]]:
    return [(each["version"], each["archive"]) for each in json.loads(models(stack, "list", "--json"))]


def processes(stack: Stack) -> list[int]:
    """Return the processes that answer requests."""
    server, *_ = sorted(stack.processes(GATEWAY), key=lambda process: process.create_time())
    return [process.pid for process in server.children()]


def versions_that_answer(stack: Stack) -> set[str]:
    """Return the versions by which requests are answered, and by which each process would answer one."""
    folder = (stack.run / MEMORY).readlink() / SCRATCH
    with contextlib.ExitStack() as connections:
        asked = [connections.enter_context(connection) for connection in control._connections(folder, 60)]
        versions = {control._ask(connection, PICTURE, None)["version"] for connection in asked}
    return versions | {requests.post(f"{stack.url}/predict", files={"file": PICTURE}).json()["version"]}


@pytest.mark.timeout(120 + 20 * ROLLS)
def test_no_request_is_lost_while_versions_are_rolled(embedded: Stack, sample: Path, record_property: Record) -> None:
    assert "there is nothing to return to" in models(embedded, "rollback", succeeds=False)
    with asked(embedded) as outcomes:
        for number in range(ROLLS):
            if number % 2:
                assert "Version 1.0 of first.mar is served, in the place of 2.0" in models(embedded, "rollback")
                assert served(embedded) == [("1.0", "first.mar")]
                assert versions_that_answer(embedded) == {"1.0"}
            else:
                printed = models(embedded, "roll", "second.mar", "--sample", str(sample), "--slower", "20")
                assert "Version 2.0 of second.mar is served, in the place of 1.0" in printed
                assert "% of 10 images right; before it was" in printed
                assert served(embedded) == [("2.0", "second.mar")]
                assert versions_that_answer(embedded) == {"2.0"}
    record_property(f"{ROLLS} rolls and rollbacks of the embedded backend under load", sorted(outcomes))
    assert outcomes == {(200, "azure")}


@pytest.mark.parametrize("kind", ["--shadow", "--canary"])
def test_a_version_meets_live_traffic_first(embedded: Stack, kind: str) -> None:
    with asked(embedded) as outcomes:
        printed = models(embedded, "roll", "second.mar", kind, "50%", "--for", "3s", "--slower", "20")
        assert "live requests, and failed on 0" in printed
        assert ("Both agree on 100.0%" in printed) == (kind == "--shadow")
        models(embedded, "rollback")
    assert outcomes == {(200, "azure")}


@pytest.mark.parametrize(
    ("name", "sampled", "said"),
    [("fussy", True, "fails on"), ("unsure", False, "so it is probably less accurate")],
    ids=["fails", "unsure"],
)
def test_a_canary_that_does_worse_on_live_traffic_goes_back(
    embedded: Stack, sample: Path, name: str, sampled: bool, said: str
) -> None:
    with asked(embedded) as outcomes:
        command = [
            "roll",
            f"{name}.mar",
            "--canary",
            "30%",
            "--for",
            "4s",
            "--slower",
            "20",
            *(["--sample", str(sample)] * sampled),
        ]
        assert said in models(embedded, *command, succeeds=False)
    assert versions_that_answer(embedded) == {"1.0"}
    assert outcomes == {(200, "azure")}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("renamed", [], r"version 3.0 has other classes: it adds teal and lacks azure\. Add --new-classes"),
        ("confused", [], "version 3.0 has .* of the sample right and 1.0 "),
        ("raising", [], "raising.mar fails when it is tried: RuntimeError: raw"),
        ("refusing", [], r"version 3.0 fails on .*\.png: None\."),
        ("broken", [], "broken.mar fails when it is tried: RuntimeError: no weights"),
        ("dying", [], "dying.mar fails when it is tried: its process ended with status 3"),
        ("sleeping", [], "version 3.0 takes .* more than 3 times as long"),
        ("sleeping", ["--limit", "0.2"], "version 3.0 takes .* --limit allows 0.2 s"),
        ("taken", [], "version 1.0 is already registered.* --version"),
        ("first", [], "first.mar is already the served version"),
    ],
)
def test_a_version_that_is_no_good_is_refused(
    embedded: Stack, sample: Path, name: str, options: list[str], said: str
) -> None:
    before = processes(embedded)
    command = ["--config", embedded.config, "--run", embedded.run, "roll", f"{name}.mar", "--sample", sample]
    with pytest.raises(CommandFailed, match=f"Nothing was changed: .*{said}"):
        run_module("scripts.models", *command, *options)
    assert served(embedded) == [("1.0", "first.mar")]
    assert versions_that_answer(embedded) == {"1.0"}
    assert processes(embedded) == before


def test_versions_side_by_side_outlive_a_process_and_the_server(store: Path, tmp_path: Path) -> None:
    with serve(store / "first.mar", tmp_path, EMBEDDED) as stack:
        line = "1.0      default  first.mar, 2 of 2 workers ready"
        wait_until(lambda: models(stack, "list").startswith(line))  # it serves as soon as the first process is ready
        assert models(stack, "register", "second.mar") == "Version 2.0 of second.mar is registered.\n"
        assert [each["default"] for each in requests.get(f"{stack.url}/models").json()["models"]] == [True, False]
        for version in ("1.0", "2.0"):
            asked = requests.post(f"{stack.url}/predict?version={version}", files={"file": PICTURE})
            assert asked.json()["version"] == version
        assert requests.post(f"{stack.url}/predict?version=3.0", files={"file": PICTURE}).status_code == 404
        (described,) = json.loads(models(stack, "describe", "2.0"))
        assert (described["archive"], described["card"]["name"]) == ("second.mar", "drawn")

        assert models(stack, "set-default", "2.0") == "Version 2.0 is the default.\n"
        assert versions_that_answer(stack) == {"2.0"}
        os.kill(processes(stack)[0], signal.SIGKILL)
        wait_until(lambda: models(stack, "list").count("2 of 2 workers ready") == 2)
        assert versions_that_answer(stack) == {"2.0"}
        assert "nothing to scale" in models(stack, "scale", "3", succeeds=False)
        assert "There is no version 7; name one of: 2.0 (the default), 1.0." in models(
            stack, "unregister", "7", succeeds=False
        )
    for command in (["list"], ["describe"], ["set-default", "1.0"]):
        assert models(stack, *command, succeeds=False).startswith(f"No gateway runs in {stack.run}; start one with")

    with serve(store / "first.mar", tmp_path, EMBEDDED) as stack:
        assert any(
            "Version 2.0 of second.mar is served, because it has replaced first.mar" in line for line in stack.output
        )
        assert served(stack) == [("2.0", "second.mar"), ("1.0", "first.mar")]
        assert versions_that_answer(stack) == {"2.0"}
        assert models(stack, "unregister", "1.0") == "Version 1.0 is unregistered.\n"
        changed = json.loads(models(stack, "--json", "unregister", "2.0", "--leave-none"))
        assert changed["versions"] == []
        refused = requests.post(f"{stack.url}/predict", files={"file": PICTURE})
        assert (refused.status_code, refused.json()["error"]) == (503, "No model is registered.")
        models(stack, "register", "first.mar")
        assert versions_that_answer(stack) == {"1.0"}


def test_a_signal_ends_a_canary_and_no_other_command_comes_between(embedded: Stack) -> None:
    command = [sys.executable, "-m", "scripts.models", "--config", str(embedded.config), "--run", str(embedded.run)]
    command += ["roll", "second.mar", "--canary", "50%", "--for", "1h", "--slower", "20"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any("answers 50% of the requests now" in line for line in process.stderr)
        assert "another command changes what is served now" in models(embedded, "rollback", succeeds=False)
        process.terminate()
    assert process.returncode == STOPPED
    assert served(embedded) == [("1.0", "first.mar")]
    assert not (embedded.run / FILE).exists()


def test_a_change_meets_a_server_that_was_started_again(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    (memory / SCRATCH).mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MEMORY).symlink_to(memory)
    _write(memory / SCRATCH, [])
    deployment = EmbeddedDeployment(tmp_path / "run", 5)
    shutil.rmtree(memory)
    with pytest.raises(Refused, match="started again meanwhile"):
        deployment.set_default("2.0")
    assert not memory.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Unavailable("It does not run.")])
def test_a_change_that_is_interrupted_or_fails_is_undone(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory" / "scratch").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MEMORY).symlink_to(tmp_path / "memory")
    before: list[Unpacked] = [{"version": f"{n}.0", "archive": f"{n}.mar", "folder": f"{n}"} for n in (1, 2)]
    _write(tmp_path / "memory" / "scratch", before)
    told = []

    def knock(folder: Path, seconds: float) -> int:
        told.append([version["version"] for version in read(folder)])
        if len(told) == 1:
            raise error
        return 2

    monkeypatch.setattr(control, "knock", knock)
    with pytest.raises((KeyboardInterrupt, Refused)):
        EmbeddedDeployment(tmp_path / "run", 5).set_default("2.0")
    assert told == [["2.0", "1.0"], ["1.0", "2.0"]]
    assert read(tmp_path / "memory" / "scratch") == before


def test_a_damaged_version_beside_the_default_is_left_out(store: Path, tmp_path: Path) -> None:
    with serve(store / "first.mar", tmp_path, EMBEDDED) as stack:
        models(stack, "register", "second.mar")
        (folder,) = (each["folder"] for each in json.loads(models(stack, "describe", "2.0")))
        (stack.run / SCRATCH / folder / "network.onnx").write_bytes(b"torn")
        for process in processes(stack):
            os.kill(process, signal.SIGKILL)
        wait_until(lambda: len(processes(stack)) == 2)
        wait_until(lambda: requests.get(f"{stack.url}/ready").ok)
        assert versions_that_answer(stack) == {"1.0"}
        assert requests.post(f"{stack.url}/predict?version=2.0", files={"file": PICTURE}).status_code == 404

"""A watched process: how its log stays bounded, how it ends with its parent, and what an earlier one left behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scripts.serving import supervisor as service_module
from scripts.serving.supervisor import Service, end_left_behind, pid_file, put_aside
from tests.stack import ROOT, wait_until

SLEEP = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"]


def service(folder: Path, command: list[str]) -> Service:
    made = Service("Sleeper", command, folder, {}, folder / "sleeper.log")
    made.start()
    wait_until(lambda: made.log.read_text())
    return made


def test_a_full_log_begins_again_and_the_older_lines_are_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = service(tmp_path, SLEEP)
    monkeypatch.setattr(service_module, "MAX_LOG_BYTES", 3)
    try:
        sleeper.watch()
        assert sleeper.log.read_text() == ""
        assert (tmp_path / "sleeper.log.1").read_text() == "ready\n"
    finally:
        sleeper.stop()


def test_a_log_of_an_earlier_start_is_kept(tmp_path: Path) -> None:
    (tmp_path / "sleeper.log").write_text("why it died\n")
    service(tmp_path, SLEEP).stop()
    assert (tmp_path / "sleeper.log").read_text() == "ready\n"
    assert (tmp_path / "sleeper.log.1").read_text() == "why it died\n"


def test_the_log_of_another_model_is_kept_where_nothing_reads_it(tmp_path: Path) -> None:
    for name in ("gateway.log", "gateway.log.1"):
        (tmp_path / name).write_text(f"{name} of another model")
    put_aside(tmp_path / "gateway.log")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("gateway.log.before", "gateway.log of another model")
    ]


def test_a_process_ends_with_the_command_that_started_it_however_that_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from scripts.serving.supervisor import Service\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"Service('Sleeper', {SLEEP!r}, folder, {{}}, folder / 'sleeper.log').start()\n"
        "time.sleep(600)"
    )
    command = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    log = tmp_path / "sleeper.log"
    wait_until(lambda: log.exists() and log.read_text())
    (sleeper,) = psutil.Process(command.pid).children()
    command.kill()
    command.wait()
    sleeper.wait(20)


def test_what_was_left_behind_is_ended_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "LEFT_TIMEOUT", 0)
    sleeper = service(tmp_path, SLEEP)
    assert sleeper.process
    end_left_behind("Sleeper", sleeper.log)
    assert sleeper.process.wait(20) == -signal.SIGKILL
    assert f"Sleeper, process {sleeper.process.pid}, was left behind" in capsys.readouterr().out
    assert not pid_file(sleeper.log).exists()


def test_a_copy_of_the_folder_ends_no_service_of_the_original(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    sleeper = service(original, SLEEP)
    assert sleeper.process
    shutil.copytree(original, tmp_path / "copy")
    end_left_behind("Sleeper", tmp_path / "copy" / sleeper.log.name)
    assert sleeper.process.poll() is None
    assert not pid_file(tmp_path / "copy" / sleeper.log.name).exists()
    sleeper.stop()


def test_another_process_with_the_number_of_one_that_ended_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pid_file(tmp_path / "sleeper.log").write_text(f"{os.getpid()} of-another-boot/1 {tmp_path}/sleeper.log")
    end_left_behind("Sleeper", tmp_path / "sleeper.log")
    assert capsys.readouterr().out == ""

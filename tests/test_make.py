"""The Makefile as its users call it, with files and ports of the test's own; test_tutorial has `make train`."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from tests.stack import ROOT, free_ports, write_config

# What the make that runs these tests hands down is not what a user's shell has.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def make(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["make", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)


def test_serve_builds_what_is_not_current_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "it's $HOME, größer"
    folder.mkdir()
    own = folder / "my own.pth"
    own.write_bytes(checkpoint.read_bytes())
    config, (port,) = write_config(folder / "config.properties"), free_ports(1)
    options = [f"CHECKPOINT={own}", f"CONFIG={config}", f"PORT={port}", f"RUN={folder / 'run'}"]

    assert make("archive", "VERSION=2.0", *options).stdout.startswith(f"wrote {folder / 'my own.mar'}, version 2.0, ")
    command = ["make", "serve", *options]
    plain = ENVIRONMENT | {"LC_ALL": "C"}  # with which Java alone would not find what is in größer
    process = subprocess.Popen(command, cwd=ROOT, env=plain, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert process.stdout
        printed = [process.stdout.readline() for _ in range(6)]
        assert printed[0] == f"{folder / 'my own.mar'} is current, version 2.0\n"
        assert printed[1].startswith("Starting TorchServe")  # neither installed nor built again
        health = requests.get(f"http://127.0.0.1:{port}/health").json()
        assert (health["model"], health["version"]) == ("drawn", "2.0")
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 5
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does; test_serve has SIGTERM
        process.wait(60)
    assert not psutil.wait_procs(family, timeout=20)[1]


def test_serve_without_torchserve_by_its_earlier_name(checkpoint: Path, tmp_path: Path) -> None:
    own, (port,) = tmp_path / "drawn.pth", free_ports(1)
    shutil.copy(checkpoint, tmp_path)
    command = ["make", "serve", "BACKEND=local", f"CHECKPOINT={own}", f"PORT={port}", f"RUN={tmp_path / 'run'}"]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert process.stdout
        assert any("health" in line for line in process.stdout)
        assert requests.get(f"http://127.0.0.1:{port}/classes").json()["total_classes"] == 10
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def test_serve_names_a_missing_checkpoint(tmp_path: Path) -> None:
    done = make("serve", f"CHECKPOINT={tmp_path / 'none.pth'}")
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith(f"There is no checkpoint {tmp_path / 'none.pth'}; 'classifier train' makes one.")


def test_archive_refuses_a_version_that_no_one_could_ask_for(tmp_path: Path) -> None:
    done = make("archive", f"CHECKPOINT={tmp_path / 'none.pth'}", "VERSION=v 2")
    assert done.stderr.startswith("'v 2' cannot be a version: use only")


@pytest.mark.parametrize("value", ["my own", "it's", 'a "b"', "$HOME", "$$(x)", "größe", "a#b;c", "two  blanks"])
def test_settings_reach_the_command_as_they_were_given(value: str) -> None:
    settings = [f"{name}={value}" for name in ("RECIPE", "DATA", "OUTPUT", "CONFIG", "RUN", "VERSION")]
    train = shlex.split(make("-n", "train", *settings).stdout.replace("\\\n", ""))
    assert train[train.index("--recipe") :] == ["--recipe", value, "--data", value, "--output", value]
    planned = (
        make("-n", "archive", "serve", *settings, f"CHECKPOINT={value}.pth").stdout.replace("\\\n", "").splitlines()
    )
    script = "show() { printf '%s\\n' \"${@:3}\"; }; " + "; ".join(
        line.replace(".venv/bin/python", "show") for line in planned
    )
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[:4] == ["archive", f"{value}.pth", "--version", value]
    assert shown[4:6] + shown[10:14] == ["serve", f"{value}.pth", "--config", value, "--run", value]
    assert shown[14:] == ["--backend", "torchserve", "--version", value]


def test_variables_that_shells_export_open_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "HOST", "x86_64-conda-linux-gnu")
    monkeypatch.setitem(ENVIRONMENT, "VERSION", "22.04")
    planned = shlex.split(make("-n", "serve").stdout.replace("\\\n", ""))
    assert planned[planned.index("--host") + 1] == "127.0.0.1"
    assert "--version" not in planned


def test_bench_and_screenshot_take_what_serve_takes() -> None:
    for target, before in (("bench", "serving"), ("screenshot", "tests.screenshot")):
        words = shlex.split(make("-n", target, "CHECKPOINT=cifar10_cnn").stdout.replace("\\\n", ""))
        assert words[words.index(before) + 1] == "cifar10_cnn"


PYTHON = """#!/bin/sh
# Makes an environment as Python does, only that nothing can be installed into it.
if [ "$2" = venv ]; then
    mkdir -p .venv/bin && cp "$0" .venv/bin/python && touch .venv/bin/pip
    echo "command = python3.11 -m venv $PWD/.venv" > .venv/pyvenv.cfg
fi
"""


def clone_into(folder: Path) -> Path:
    folder.mkdir()
    (folder / "deploy").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "deploy/install.sh"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_a_copied_environment_is_made_again(tmp_path: Path) -> None:
    # It would run the code of the clone that it was made in.
    python, clone, copy = tmp_path / "python", clone_into(tmp_path / "a 'clone'"), tmp_path / "größer"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def archive(folder: Path) -> str:
        return make("archive", f"PYTHON={python}", "-C", folder, "--no-print-directory").stdout

    assert archive(clone).startswith("Installing what requirements.lock names")
    assert archive(clone) == ""
    shutil.copytree(clone, copy)
    made, installed = archive(copy).splitlines()
    assert made == f"The environment in .venv was made as {clone}/.venv; making a new one here."
    assert installed.startswith("Installing what requirements.lock names")
    assert archive(copy) == ""


def test_an_environment_that_is_linked_to_is_never_cleared(tmp_path: Path) -> None:
    clone, elsewhere = clone_into(tmp_path / "clone"), tmp_path / "elsewhere"
    (elsewhere / "bin").mkdir(parents=True)
    (clone / ".venv").symlink_to(elsewhere)
    planned = make("-n", "archive", "-C", clone).stdout
    assert "-m venv  .venv" in planned
    (elsewhere / "bin" / "python").symlink_to(sys.executable)
    (elsewhere / "bin" / "pip").touch()
    (elsewhere / "pyvenv.cfg").write_text(f"command = python3.11 -m venv {ROOT}/.venv\n")
    planned = make("-n", "archive", "-C", clone).stdout
    assert "-m pip install" in planned
    assert "-m venv" not in planned


def test_torch_for_a_cpu_needs_to_know_where_from() -> None:
    assert "pytorch.org/get-started/locally names the index" in make("install", "TORCH=cpu").stderr


def test_help_lists_the_targets() -> None:
    listed = {line.split()[0] for line in make("help").stdout.splitlines()}
    assert {"serve", "train", "archive", "test", "check", "docs", "screenshot", "lock", "clean"} <= listed


@pytest.mark.slow
def test_docs_are_built_without_a_warning() -> None:
    site = ROOT / "build" / "site"
    shutil.rmtree(site, ignore_errors=True)
    done = make("docs")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "classifier predict my-images/test" in (site / "reference" / "commands" / "index.html").read_text()

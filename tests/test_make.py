"""The Makefile as its users call it, with files and ports of the test's own; test_tutorial has `make train`."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import requests

from tests.stack import ROOT, free_ports, write_config

# What the make that runs these tests hands down is not what a user's shell has.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def make(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["make", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)


def test_serve_builds_what_is_not_current_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.pth"
    own.write_bytes(checkpoint.read_bytes())
    config, (port,) = write_config(tmp_path / "config.properties"), free_ports(1)
    options = [f"CHECKPOINT={own}", f"CONFIG={config}", f"PORT={port}", f"RUN={tmp_path / 'run'}"]

    assert make("archive", *options).stdout == f"wrote {tmp_path / 'mine.mar'}\n"
    command = ["make", "serve", *options]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert process.stdout
        printed = [process.stdout.readline() for _ in range(5)]
        assert printed[0].startswith("Starting TorchServe")  # neither installed nor built again
        assert requests.get(f"http://127.0.0.1:{port}/health").json()["model"] == "drawn"
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 5
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does; test_serve has SIGTERM
        process.wait(60)
    assert not psutil.wait_procs(family, timeout=20)[1]


def test_serve_without_torchserve(checkpoint: Path, tmp_path: Path) -> None:
    own, (port,) = tmp_path / "mine.pth", free_ports(1)
    own.write_bytes(checkpoint.read_bytes())
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
    assert done.stderr.startswith(f"There is no checkpoint {tmp_path / 'none.pth'}; train one with 'make train' and")


def test_help_lists_the_targets() -> None:
    listed = {line.split()[0] for line in make("help").stdout.splitlines()}
    assert {"serve", "train", "archive", "test", "check", "docs", "screenshot", "lock", "clean"} <= listed


def test_docs_are_built_without_a_warning() -> None:
    site = ROOT / "build" / "site"
    shutil.rmtree(site, ignore_errors=True)
    done = make("docs")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "scripts/batch_predict.py" in (site / "reference" / "commands" / "index.html").read_text()

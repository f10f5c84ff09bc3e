"""Commands as a reader types them. Python's own run in a fork that has PyTorch already, as its import takes seconds."""

import multiprocessing
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.stack import ROOT

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = ["train", "archive", "export", "evaluate", "tune", "ensemble"]  # and what they load only when they need it
LATER = [
    "torchvision",
    "torchmetrics.functional.classification",
    "onnx_ir.passes.common",
    "onnxruntime",
    "onnxscript",
    "torch._dynamo",
]
FORKS.set_forkserver_preload([*(f"training.{name}" for name in PRELOADED), *LATER])
SHELL = re.compile(r"[|&;<>()$`*?\[\]#~]")  # what only a shell understands
TIMEOUT = 200  # seconds
ACTIVATED = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # as bin/activate does


def run_line(line: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell, as `subprocess.run` does with its output and errors as text."""
    words = [] if SHELL.search(line) else shlex.split(line)
    if words[:1] == [sys.executable]:
        return _run_forked(words[1:], cwd)
    if words[:1] == ["classifier"]:
        return _run_forked(["-m", "scripts.cli", *words[1:]], cwd)
    shell = ["bash", "-euo", "pipefail", "-c", line]
    return subprocess.run(shell, cwd=cwd, env=ACTIVATED, capture_output=True, text=True, timeout=TIMEOUT)


def _run_forked(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = FORKS.Process(target=_be_python, args=(arguments, cwd, output, errors))
        process.start()
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, TIMEOUT)
        return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text(), errors.read_text())


def _be_python(arguments: list[str], cwd: Path, output: Path, errors: Path) -> None:
    """Do what `python arguments` does in `cwd`: a module behind -m, or a file."""
    for descriptor, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")

"""The command that says what is wrong: on a running product, where something is, and in a clone never set up."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import cli
from tests.stack import ROOT, Stack, free_ports, wait_until, write_config

Found = dict[str, tuple[bool, str]]


def doctor(*arguments: object, script: Path = ROOT / "scripts" / "doctor.py") -> tuple[int, Found]:
    return run([sys.executable, str(script), "--json", *map(str, arguments)])


def run(command: list[str]) -> tuple[int, Found]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    return done.returncode, {each["name"]: (each["right"], each["said"]) for each in json.loads(done.stdout)}


def test_a_running_product_is_well(stack: Stack, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):  # one for the web does not lead to this machine
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    wait_until(lambda: len(stack.workers()) == 2)  # it serves as soon as the first is ready
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


def test_a_model_has_the_name_by_which_you_serve_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, (port,) = ROOT / "model_store" / "cifar10_cnn.mar", free_ports(1)
    command = ["doctor", "cifar10_cnn", "--json", "--url", f"http://127.0.0.1:{port}", "--run", str(tmp_path)]
    cli.main(command, standalone_mode=False)
    said = {each["name"]: each["said"] for each in json.loads(capsys.readouterr().out)}
    assert str(archive) in said["archive"]


def test_an_archive_that_the_next_start_makes_is_not_missed(checkpoint: Path, tmp_path: Path) -> None:
    fresh = Path(shutil.copy(checkpoint, tmp_path))
    _, found = doctor(fresh, "--url", f"http://127.0.0.1:{free_ports(1)[0]}", "--run", tmp_path)
    said = f"{fresh.with_suffix('.mar')} is not there yet; 'classifier serve' makes it of {fresh}"
    assert found["archive"] == (True, said)


def test_looks_for_the_archive_of_the_backend_that_served_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "served.json").write_text(json.dumps({"backend": "embedded"}))
    command = [
        "doctor",
        "cifar10_pair",
        "--json",
        "--run",
        str(tmp_path),
        "--url",
        f"http://127.0.0.1:{free_ports(1)[0]}",
    ]
    cli.main(command, standalone_mode=False)
    said = {each["name"]: each["said"] for each in json.loads(capsys.readouterr().out)}
    assert said["archive"] == f"{ROOT / 'model_store' / 'cifar10_pair.onnx.zip'} is whole"


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


OLD = ["doctor.py", "__init__.py", "serving/__init__.py", "serving/checks.py", "serving/defaults.py"]


@pytest.mark.parametrize("module", ["training/outcome.py", "training/project.py", *(f"scripts/{name}" for name in OLD)])
def test_an_old_python_can_read_it(module: str) -> None:
    ast.parse((ROOT / module).read_text(), feature_version=(3, 8))

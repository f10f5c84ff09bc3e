"""The lock files are written whole, and keep out a package that is not the one that was locked."""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stack import ROOT, Record, times

LOCKED = re.compile(r"^filetype==.*(?:\n +--hash=\S+.*)+", re.MULTILINE)  # small, and of Python alone

LOCKS = (
    "requirements.lock",
    "requirements-test.lock",
    "deploy/gateway.lock",
    "deploy/torchserve.lock",
    "deploy/embedded.lock",
)


def download(requirements: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "requirements.lock").write_text(requirements)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--require-hashes"]
    command += ["--dest", str(folder / "packages"), "-r", str(folder / "requirements.lock")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_package_of_another_digest_is_refused(tmp_path: Path) -> None:
    found = LOCKED.search((ROOT / "requirements.lock").read_text())
    assert found
    assert download(found[0], tmp_path).returncode == 0
    (package,) = (tmp_path / "packages").iterdir()
    package.unlink()

    done = download(re.sub(r"sha256:\w{8}", "sha256:00000000", found[0]), tmp_path)
    assert done.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
    assert not list((tmp_path / "packages").iterdir())


@pytest.mark.slow
def test_the_locks_hold_all_that_their_packages_want(tmp_path: Path) -> None:
    """`make lock` without --upgrade changes nothing, or else pip would refuse to install what is not locked."""
    (tmp_path / "deploy").mkdir()
    for name in ("pyproject.toml", "README.md", *LOCKS):
        shutil.copy2(ROOT / name, tmp_path / name)
    recipe = (ROOT / "Makefile").read_text().replace("\\\n", "")
    options = shlex.split(re.findall(r"pip compile (.*?)pyproject\.toml", recipe)[0].replace("--upgrade", ""))
    locked = re.findall(r"\$\$lock ((?:--extra \w+ )+)", recipe)
    assert len(locked) == len(LOCKS)
    for name, extras in zip(LOCKS, locked, strict=True):
        constraint = ["-c", LOCKS[0]] if name != LOCKS[0] else []
        command = ["uv", "pip", "compile", *options, "pyproject.toml", *extras.split(), *constraint, "-o", name]
        subprocess.run(command, executable=Path(sys.executable).with_name("uv"), cwd=tmp_path, check=True)
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()


@pytest.mark.timeout(3600)
def test_killed_at_any_moment_a_lock_is_whole(tmp_path: Path, record_property: Record) -> None:
    locks = [tmp_path / name for name in LOCKS]
    (tmp_path / "deploy").mkdir()
    for name in ("Makefile", "pyproject.toml", "README.md", *LOCKS):
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")

    old = [lock.read_bytes() for lock in locks]

    def renew(**environment: str) -> subprocess.Popen[bytes]:
        for lock, content in zip(locks, old, strict=True):
            lock.write_bytes(content)
        shutil.copystat(ROOT / "pyproject.toml", locks[1])  # or else its being younger would ask for an installation
        return subprocess.Popen(["make", "lock"], cwd=tmp_path, env={**os.environ, **environment}, process_group=0)

    assert renew().wait(300) == 0
    started, new = time.monotonic(), [lock.read_bytes() for lock in locks]
    assert renew(UV_OFFLINE="1").wait(300) == 0  # from what the first one has fetched, so it spends no time on waiting
    seconds = time.monotonic() - started
    assert [lock.read_bytes() for lock in locks] == new
    kills, dice = times(1, 100), random.Random(5)
    for _ in range(kills):
        process = renew(UV_OFFLINE="1")
        time.sleep(dice.uniform(0, seconds))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for lock, *versions in zip(locks, old, new, strict=True):
            assert lock.read_bytes() in versions
    record_property(f"make lock killed {kills} times", "the old or the new")

"""The lock files keep out a package that is not the one that was locked."""

import re
import subprocess
import sys
from pathlib import Path

from tests.stack import ROOT

LOCKED = re.compile(r"^filetype==.*(?:\n +--hash=\S+.*)+", re.MULTILINE)  # small, and of Python alone


def download(requirements: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "requirements.lock").write_text(requirements)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--require-hashes"]
    command += ["--dest", str(folder / "packages"), "-r", str(folder / "requirements.lock")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


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

"""The command that says what is wrong, on a running product and where something is."""

import json
import subprocess
import sys
from pathlib import Path

from tests.stack import ROOT, Stack, free_ports, write_config


def doctor(*arguments: object) -> tuple[int, dict[str, tuple[bool, str]]]:
    command = [sys.executable, str(ROOT / "scripts" / "doctor.py"), "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, {each["name"]: (each["right"], each["said"]) for each in json.loads(done.stdout)}


def test_a_running_product_is_well(stack: Stack, archive: Path) -> None:
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

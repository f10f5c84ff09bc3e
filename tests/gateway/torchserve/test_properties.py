"""TorchServe's configuration, read by commands that start and end in a moment."""

import subprocess
import sys
from pathlib import Path

from gateway.torchserve.properties import read_properties


def test_reads_properties(tmp_path: Path) -> None:
    path = tmp_path / "some.properties"
    path.write_text("# comment\n\na = 1\nvmargs=-Dx=y -Xmx1g\n")
    assert read_properties(path) == {"a": "1", "vmargs": "-Dx=y -Xmx1g"}


def test_loads_no_server_and_no_client() -> None:
    code = "import sys, gateway.torchserve.properties; print({'flask', 'gevent', 'httptools'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

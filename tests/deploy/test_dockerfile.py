"""deploy/Dockerfile: linted, held against this tree, and its commands run as it says, but for the building itself."""

import json
import re
import subprocess
import sysconfig
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from gateway.torchserve import MODEL, read_properties
from scripts.serve import START_TIMEOUT
from scripts.service import STOP_TIMEOUT
from tests.deploy.image import DOCKERFILE, Container, container, locked, read
from tests.drawing import TEN, draw, encode
from tests.stack import ROOT, wait_until
from training.files import digest_path, write_digest

LOCKS = {target: ROOT / "deploy" / f"{target}.lock" for target in ("gateway", "torchserve")}
VERSION_OR_HASH = re.compile(r"==[^ ]+|sha256:\w+")
CLASSIFY = """
import sys
from urllib.request import Request, urlopen
image = bytes.fromhex(sys.argv[1])
address = "http://127.0.0.1:8080/predictions/classifier"
print(urlopen(Request(address, image, {"Content-Type": "application/octet-stream"})).read().decode())
"""


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sysconfig.get_path("scripts")) / name, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def test_the_linters_find_nothing() -> None:
    for done in (tool("hadolint", DOCKERFILE), tool("shellcheck", "deploy/torchserve.sh", "tests/deploy/container.sh")):
        assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", LOCKS)
def test_an_image_is_of_a_user_without_rights_and_of_what_is_here(target: str) -> None:
    image = read(target)
    assert re.fullmatch(r"([1-9]\d{3,}):\1", image.user)
    assert image.healthcheck
    assert f"{target}.lock" in " ".join(read(image.packages).copied)
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for source in image.copied:
        assert any(Path(source).match(pattern.removeprefix("!")) for pattern in allowed if pattern.startswith("!")), (
            source
        )
        if not source.startswith("model_store/"):  # what `make archive` builds
            assert (ROOT / source).exists(), source


@pytest.mark.parametrize("target", LOCKS)
def test_an_image_has_what_is_locked(target: str) -> None:
    everything = locked(ROOT / "requirements.lock")
    for name, entry in locked(LOCKS[target]).items():
        assert VERSION_OR_HASH.findall(entry) == VERSION_OR_HASH.findall(everything[name])


def test_torch_for_a_cpu_leaves_the_rest_hashed_and_whole(tmp_path: Path) -> None:
    install = next(run for run in read("torchserve-packages").runs if "TORCH_INDEX" in run)
    command = re.search(r"sed '.*?' torchserve\.lock", install)
    assert command
    left = subprocess.run(["sh", "-c", command[0]], cwd=ROOT / "deploy", capture_output=True, text=True, check=True)
    (tmp_path / "left.lock").write_text(left.stdout)
    rest, whole = locked(tmp_path / "left.lock"), locked(LOCKS["torchserve"])
    assert rest.items() <= whole.items()
    gone = whole.keys() - rest.keys()
    assert all(re.match("torch$|triton|nvidia-|cuda-", name) for name in gone)
    assert not any(re.match("torch$|triton|nvidia-|cuda-", name) for name in rest)
    needed = map(Requirement, requires("torch") or ())
    names = {each.name for each in needed if not each.marker or each.marker.evaluate({"extra": ""})}
    assert names <= rest.keys() | gone


def healthy(running: Container) -> bool:
    assert running.process.poll() is None, running.log.read_text()
    return running.run("env", "http_proxy=http://127.0.0.1:9", *running.image.healthcheck).returncode == 0


def stops(running: Container) -> bool:
    running.process.terminate()
    return running.process.wait(STOP_TIMEOUT) in (0, 143)  # Java's own status for SIGTERM is 143


def test_the_gateway_runs_without_torch_and_writes_nowhere_else(tmp_path: Path) -> None:
    image = read("gateway")
    image.environment |= {"GATEWAY_TORCHSERVE": "http://nginx:8000", "GATEWAY_TOKEN_FILE": "/run/secrets/token"}
    with container(image, LOCKS["gateway"], tmp_path) as running:
        wait_until(lambda: healthy(running), 20)
        assert running.run("python", "-c", "import torch").stderr.endswith("'torch'\n")
        assert running.run("touch", "here").returncode != 0
        assert running.run("id", "-u").stdout == f"{image.user.split(':')[0]}\n"
        assert stops(running), running.log.read_text()


def test_a_node_serves_its_archive_and_writes_nowhere_else(archive: Path, tmp_path: Path) -> None:
    image = read("torchserve")
    image.environment["ARCHIVE"] = archive.name
    store = image.folder / image.environment["MODEL_STORE"]
    image.copied = {source: place for source, place in image.copied.items() if place.parent != store}
    image.copied |= {str(file): store / file.name for file in (archive, digest_path(archive))}
    with container(image, LOCKS["torchserve"], tmp_path) as running:
        wait_until(lambda: healthy(running), START_TIMEOUT)
        answer = running.run("python", "-c", CLASSIFY, encode(draw("red", 1)).hex())
        assert json.loads(answer.stdout)["predicted_class"] in TEN
        assert running.run("touch", "here").returncode != 0
        assert stops(running), running.log.read_text()


def test_a_node_refuses_an_archive_of_another_digest(tmp_path: Path) -> None:
    (tmp_path / "other.mar").write_bytes(b"not what was built")
    write_digest(tmp_path / "other.mar", ROOT / "README.md")
    environment = {"PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin", "MODEL_STORE": str(tmp_path)}
    environment |= {"ARCHIVE": "other.mar", "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", "deploy/torchserve.sh"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "other.mar: FAILED" in done.stdout


def test_a_node_serves_under_the_name_the_gateway_asks_for() -> None:
    assert f'-m "{MODEL}=$ARCHIVE"' in (ROOT / "deploy/torchserve.sh").read_text()
    assert f"/models/{MODEL}" in (ROOT / "deploy/ready.py").read_text()


def test_a_node_has_the_limits_of_a_single_machine() -> None:
    alone, node = (read_properties(ROOT / name) for name in ("config.properties", "deploy/torchserve.properties"))
    for name in ("max_request_size", "job_queue_size", "allowed_urls", "install_py_dep_per_model", "vmargs"):
        assert node[name] == alone[name]

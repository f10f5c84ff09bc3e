"""deploy/Dockerfile: linted, held against this tree, and its commands run as it says, but for the building itself."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from importlib.metadata import requires
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

from gateway.torchserve.properties import MODEL, read_properties
from scripts.serving.defaults import RELEASED
from scripts.serving.product import START_TIMEOUT
from scripts.serving.supervisor import STOP_TIMEOUT
from tests.deploy.image import DOCKERFILE, Container, container, copy, locked, read
from tests.drawing import TEN, draw, encode
from tests.stack import ROOT, wait_until
from training.files import digest_path, write_digest

LOCKS = {target: ROOT / "deploy" / f"{target}.lock" for target in ("gateway", "torchserve", "embedded")}
SCRIPTS = ("deploy/install.sh", "deploy/torchserve.sh", "tests/deploy/container.sh")
VERSION_OR_HASH = re.compile(r"==[^ ]+|sha256:\w+")
READY = """
from urllib.request import urlopen
print(urlopen("http://127.0.0.1:5001/ready").read().decode())  # after an image was predicted
"""
PREDICT = """
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
    for done in (tool("hadolint", DOCKERFILE), tool("shellcheck", *SCRIPTS)):
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


@pytest.mark.parametrize("lock", [LOCKS["torchserve"], ROOT / "requirements.lock"], ids=lambda lock: lock.name)
def test_torch_for_a_cpu_leaves_the_rest_hashed_and_whole(lock: Path, tmp_path: Path) -> None:
    pip = tmp_path / "pip"  # shows what is to be installed, instead of installing it
    pip.write_text('#!/bin/sh\necho "$@"\n[ "$3" != --requirement ] || cp "$4" left.lock\n')
    pip.chmod(0o755)
    command = ["sh", str(ROOT / "deploy" / "install.sh"), str(lock), str(pip)]
    environment = os.environ | {"TORCH_INDEX": "the-index"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("--require-hashes --no-deps --requirement ")
    rest, whole = locked(tmp_path / "left.lock"), locked(lock)
    assert rest.items() <= whole.items()
    gone = whole.keys() - rest.keys()
    assert all(re.match("torch(vision)?$|triton|nvidia-|cuda-", name) for name in gone)
    assert not any(re.match("torch(vision)?$|triton|nvidia-|cuda-", name) for name in rest)
    pinned = [whole[name].split()[0] for name in ("torch", "torchvision") if name in whole]
    assert second == f"--no-deps --index-url the-index {' '.join(pinned)}"
    needed = map(Requirement, requires("torch") or ())
    names = {each.name for each in needed if not each.marker or each.marker.evaluate({"extra": ""})}
    assert names <= rest.keys() | gone


@pytest.mark.parametrize("target", LOCKS)
def test_all_may_read_an_image_of_a_clone_that_only_its_owner_may_read(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read(target)
    for source in image.copied:
        place = tmp_path / "clone" / source
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place)
        else:
            place.write_text("such as an archive")
    for place in (tmp_path / "clone").rglob("*"):
        place.chmod(0o700 if place.is_dir() else 0o600)
    monkeypatch.setattr("tests.deploy.image.ROOT", tmp_path / "clone")
    copy(image, tmp_path / "image")
    copied = [each for place in image.copied.values() for each in (tmp_path / "image" / place.relative_to("/"),)]
    found = [each for place in copied for each in (place, *place.rglob("*"))]
    assert len(found) >= len(image.copied)
    assert [each for each in found if each.stat().st_mode & (0o055 if each.is_dir() else 0o044) == 0] == []


def test_a_user_that_the_cluster_chose_may_write(tmp_path: Path) -> None:
    assert os.geteuid() == 0, "Becoming another user takes root: run this test as root, or in a container."
    (make,) = read("runtime").runs
    write = "setpriv --reuid=1000680000 --regid=0 --clear-groups touch /run/classifier/state"
    script = f"mount -t tmpfs tmpfs /run && useradd() {{ :; }} && {make} && {write}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ["ready", "live"])
@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (None, "does not answer"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", "status 500"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer as"),
    ],
    ids=["nothing", "failure", "no HTTP"],
)
def test_a_health_check_fails_with_a_sentence(script: str, reply: bytes | None, sentence: str) -> None:
    done = check(script, reply)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b'{"status": "healthy"}', "not answer as TorchServe does"),
        (b'["ok"]', "not answer as TorchServe does"),
        (b"<html>", "not answer as TorchServe does"),
        (b'[{"workers": []}]', "No worker is ready yet."),
        (b'[{"workers": [{"status": "READY"}]}]', ""),
    ],
)
def test_a_node_is_ready_with_a_worker(reply: bytes, sentence: str) -> None:
    done = check("ready", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(reply), reply))
    assert done.returncode == bool(sentence)
    assert sentence in done.stderr
    assert done.stderr.count("\n") <= 1


def check(script: str, reply: bytes | None) -> subprocess.CompletedProcess[str]:
    """Run a health check, in an environment that names a proxy, against what gives such a reply, if any."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (ROOT / "deploy" / f"{script}.py").read_text()
        code = re.sub(r'HTTPConnection\("127.0.0.1", \d+', f'HTTPConnection("127.0.0.1", {port}', code)

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(reply or b"")

        if reply is None:
            server.close()
        else:
            threading.Thread(target=answer, daemon=True).start()
        proxy = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
        return subprocess.run([sys.executable, "-c", code], env=os.environ | proxy, capture_output=True, text=True)


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


def test_the_small_image_predicts_and_writes_nowhere_else(tmp_path: Path) -> None:
    image = read("embedded")
    (unpack,) = (run for run in image.runs if "zipfile" in run)
    script = unpack.removeprefix("--mount=type=bind,source=model_store,target=/model_store ")
    assert script != unpack
    place = tmp_path / "unpacked"
    place.mkdir()
    script = script.replace("/model_store", str(ROOT / "model_store")).replace("python", sys.executable)
    environment = {"PATH": os.environ["PATH"], "ARCHIVE": f"{RELEASED.stem}.onnx.zip"}
    subprocess.run(["sh", "-c", script], cwd=place, env=environment, check=True)
    folder = PurePosixPath(image.environment["GATEWAY_MODEL_DIR"])
    image.copied[str(place / "model")] = folder
    with container(image, LOCKS["embedded"], tmp_path / "container") as running:
        wait_until(lambda: healthy(running), 60)
        done = running.run("python", "-c", READY)
        assert json.loads(done.stdout) == {"status": "ready"}, done.stderr + running.log.read_text()
        assert running.run("python", "-c", "import torch").stderr.endswith("'torch'\n")
        assert running.run("touch", "here").returncode != 0
        assert stops(running), running.log.read_text()


def test_images_hold_the_default_model() -> None:
    given = re.findall(r"^ARG ARCHIVE=(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert sorted(given) == [f"{RELEASED.stem}.mar", f"{RELEASED.stem}.onnx.zip"]


def test_a_node_serves_its_archive_and_writes_nowhere_else(archive: Path, tmp_path: Path) -> None:
    image = read("torchserve")
    image.environment["ARCHIVE"] = archive.name
    store = image.folder / image.environment["MODEL_STORE"]
    image.copied = {source: place for source, place in image.copied.items() if place.parent != store}
    image.copied |= {str(file): store / file.name for file in (archive, digest_path(archive))}
    with container(image, LOCKS["torchserve"], tmp_path) as running:
        wait_until(lambda: healthy(running), START_TIMEOUT)
        answer = running.run("python", "-c", PREDICT, encode(draw("red", 1)).hex())
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


def test_an_index_for_torch_installs_the_rest_where_there_is_no_torch(tmp_path: Path) -> None:
    command = ["sh", str(ROOT / "deploy" / "install.sh"), str(LOCKS["embedded"]), "echo"]
    environment = os.environ | {"TORCH_INDEX": "the-index"}
    said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert re.fullmatch(r"--require-hashes --no-deps --requirement \S+\n", said)


def test_a_node_serves_under_the_name_the_gateway_asks_for() -> None:
    assert f'-m "{MODEL}=$ARCHIVE"' in (ROOT / "deploy/torchserve.sh").read_text()
    assert f"/models/{MODEL}" in (ROOT / "deploy/ready.py").read_text()


def test_a_node_has_the_limits_of_a_single_machine() -> None:
    alone, node = (read_properties(ROOT / name) for name in ("config.properties", "deploy/torchserve.properties"))
    for name in ("max_request_size", "job_queue_size", "allowed_urls", "install_py_dep_per_model"):
        assert node[name] == alone[name]
    assert node["vmargs"] == alone["vmargs"].replace("-Xmx512m", "-Xmx1g")  # for the large calls of two gateways

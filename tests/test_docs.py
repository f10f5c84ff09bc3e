"""README is run: its commands, one after another as they stand there, and its Python, against the running product."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run_line
from tests.stack import ROOT, Stack, serve
from training.files import write_digest

README = (ROOT / "README.md").read_text()
RUN_BY_CI = {"make test"}
NEEDS_CIFAR10 = {".venv/bin/python -m training.data data/cifar10"}  # 170 MB to download; test_data runs its parts
RUN_BY_TEST_MAKE = {"make serve", "make serve CHECKPOINT=runs/mine/mine.pth"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


PLACES = ("docs", "model_store", "deploy/*")
DOCS = [str(path.relative_to(ROOT)) for place in PLACES for path in ROOT.glob(f"{place}/*.md")]
COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def released(archive: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A product that the commands may change, its model store as README has it."""
    folder = tmp_path_factory.mktemp("readme")
    store = folder / "model_store"
    store.mkdir()
    (store / "first.mar").write_bytes(archive.read_bytes())
    write_digest(store / "first.mar", archive)
    (folder / "served.pth").write_bytes(checkpoint.read_bytes())
    with serve(store / "first.mar", folder / "stack") as running:
        yield running


def translated(text: str, stack: Stack, recipe: Path, dataset: Path) -> str:
    """Put what this test has in the place of what README's reader has."""
    folder = stack.run.parents[1]
    places = {
        ".venv/bin/python": sys.executable,
        "http://localhost:5001": stack.url,
        "localhost:5001": stack.url,
        "scripts/batch_predict.py": f"scripts/batch_predict.py --url {stack.url}",
        "scripts/doctor.py": (
            f"scripts/doctor.py {stack.run.parents[1]}/model_store/first.mar --config {stack.config} --run {stack.run} "
            f"--url {stack.url}"
        ),
        "scripts/models.py": f"scripts/models.py --config {stack.config} --run {stack.run}",
        "predictions": folder / "predictions",
        "uncertain.png": folder / "uncertain.png",
        "scripts/verify.py model_store/cifar10_whitened_resnet.pth": (
            f"scripts/verify.py --url {stack.url} {folder / 'served.pth'}"
        ),
        "data/cifar10/test": dataset / "test",
        ".venv/bin/torchrun": f"{sys.executable} -m torch.distributed.run",
        "--trials 20 --epochs 3": "--trials 2 --epochs 1",
        "--recipe training/recipes/cnn.yaml": f"--recipe {recipe} --data {dataset}",
        "--recipe training/recipes/fine_tune.yaml": f"--recipe {recipe}",
        "my-images": dataset,
        "runs/mine/mine.pth": folder / "runs/mine/drawn.pth",
        "model_store/cifar10_resnet18.pth": folder / "runs/cnn/drawn.pth",
        "--output runs/ensemble.pth": f"--data {dataset} --output runs/ensemble.pth",
        "model_store/cifar10_whitened_resnet.pth": folder / "runs/mine/drawn.pth",
        "model_store/": f"{folder}/model_store/",
        "runs/": f"{folder}/runs/",
        "build/": f"{folder}/build/",
    }
    for place, substitute in places.items():
        text = re.sub(rf"(?<![\w/]){re.escape(place)}", str(substitute).replace("\\", r"\\"), text)
    return text


@pytest.mark.timeout(900)
def test_commands(released: Stack, recipe: Path, dataset: Path) -> None:
    for command in COMMANDS:
        if command in RUN_BY_CI | RUN_BY_TEST_MAKE | NEEDS_CIFAR10:
            continue
        line = translated(command, released, recipe, dataset)
        done = run_line(line)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if "curl" in line:
            assert '"error"' not in done.stdout


def test_python(released: Stack, recipe: Path, dataset: Path) -> None:
    for block in blocks("python"):
        code = translated(block, released, recipe, dataset)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert re.fullmatch(r"\w+ [01]\.\d+\n", done.stdout)


def test_every_command_is_run_somewhere() -> None:
    assert set(COMMANDS) >= RUN_BY_CI | RUN_BY_TEST_MAKE
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    make_tests = (ROOT / "tests" / "test_make.py").read_text()
    assert all(shlex.split(command)[1] in make_tests for command in RUN_BY_TEST_MAKE)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", *DOCS])
def test_links_lead_somewhere(document: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / document).read_text())
    assert all(link.startswith("https://") or (ROOT / document).parent.joinpath(link).exists() for link in links)


def test_the_map_shows_what_is_there() -> None:
    drawn = (ROOT / "CONTRIBUTING.md").read_text()
    for room in ("training", "handler", "gateway", "ui", "scripts"):
        assert f"{room}/ " in drawn
        modules = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__", "gunicorn.conf"}
        assert [name for name in modules if not re.search(rf"\b{name}\b", drawn)] == []

"""README and the how-to pages are run: their commands, in order, and their Python, against the running product."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.archives import rebuild
from tests.commands import run_line
from tests.drawing import TEN
from tests.scripts.serving.test_rolling import asked
from tests.stack import ROOT, Stack, serve

PLACES = ("docs", "docs/howto", "docs/architecture", "model_store", "deploy/*")
DOCS = [str(path.relative_to(ROOT)) for place in PLACES for path in sorted(ROOT.glob(f"{place}/*.md"))]
RUN_ELSEWHERE = ("docs/tutorial.md", "deploy/monitoring/README.md")  # by test_tutorial and test_monitoring
ACTIVATION = {". .venv/bin/activate"}  # the tests run in the environment
RUN_BY_CI = {"make test", "make quick"}
NEEDS_CIFAR10 = {"classifier data data/cifar10"}  # 170 MB to download; test_data runs its parts
RUN_BY_TEST_MAKE = {"make serve", "make serve CHECKPOINT=runs/photos/photos.pth"}
NOT_HERE = ACTIVATION | RUN_BY_CI | NEEDS_CIFAR10 | RUN_BY_TEST_MAKE


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.replace("\\\n", "").splitlines()]


# The pages that say how to train come first, because the others use the checkpoints.
PAGES = sorted(
    (page for page in ("README.md", "CONTRIBUTING.md", *DOCS) if commands(page) and page not in RUN_ELSEWHERE),
    key=lambda page: (page != "README.md", page != "docs/howto/train.md", page),
)


@pytest.fixture(scope="module")
def released(
    archive: Path, checkpoint: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A product that the commands may change, its model store as README has it."""
    folder = tmp_path_factory.mktemp("readme")
    store = folder / "model_store"
    store.mkdir()
    rebuild(archive, store / "first.mar", {})
    (folder / "served.pth").write_bytes(checkpoint.read_bytes())
    shutil.copytree(dataset / "test", folder / "my-photos")
    (folder / "feedback").mkdir()
    merge = {"input": {"size": 64}, "classes": {name: [index] for index, name in enumerate(sorted(TEN))}}
    (folder / "merge.yaml").write_text(yaml.safe_dump(merge))
    with serve(store / "first.mar", folder / "stack") as running:
        yield running


def translated(text: str, stack: Stack, recipe: Path, dataset: Path) -> str:
    """Put what this test has in the place of what a reader has."""
    folder = stack.run.parents[1]
    product = f"--config {stack.config} --run {stack.run}"
    places = {
        '"localhost:5001"': f'"{urlsplit(stack.url).netloc}"',
        "http://localhost:5001": stack.url,
        "localhost:5001": stack.url,
        "classifier predict": f"classifier predict --url {stack.url}",
        "classifier verify": f"classifier verify --url {stack.url}",
        "classifier models": f"classifier models {product}",
        "classifier doctor": f"classifier doctor {folder}/model_store/first.mar {product} --url {stack.url}",
        "review feedback --checkpoint cifar10_pair": f"review {folder}/feedback -o {folder}/feedback.html",
        "classifier check my-photos": f"classifier check {folder}/my-photos -o {folder}",
        "classifier train my-photos": f"classifier train my-photos --recipe {recipe} --output runs/photos",
        "classifier ": f"{sys.executable} -m scripts.cli ",
        "torchrun": f"{sys.executable} -m torch.distributed.run",
        "predictions": folder / "predictions",
        "--file keys": f"--file {folder}/keys",
        "ann.key": folder / "ann.key",
        "camera-7.key": folder / "camera-7.key",
        "uncertain.png": folder / "uncertain.png",
        "data/cifar10/test": dataset / "test",
        "10% --for 1h": "50% --for 3s --slower 20",
        "--trials 20 --epochs 3": "--trials 2 --epochs 1",
        "--recipe training/recipes/cnn.yaml": f"--recipe {recipe} --data {dataset}",
        "--recipe cnn": f"--recipe {recipe} --data {dataset}",
        "--new-classes": "--new-classes --tolerance 1",  # they are the same here, and learnt from fewer images
        "my-images": dataset,
        "new-photos": dataset / "test",
        "other-photos": dataset / "train",
        "my-photos": folder / "my-photos",
        "runs/photos/photos.pth": folder / "runs/photos/drawn.pth",
        "--merge cifar10": f"--merge {folder}/merge.yaml",
        "--output runs/pair.pth": f"--data {dataset} --output runs/pair.pth",
        "--output runs/ensemble.pth": f"--data {dataset} --output runs/ensemble.pth",
        "runs/lite2/cifar10_lite2.pth": folder / "served.pth",
        "runs/wide_whitened_resnet_further/cifar10_whitened_resnet.pth": folder / "served.pth",
        "model_store/cifar10_pair.pth": folder / "served.pth",
        "model_store/": f"{folder}/model_store/",
        "runs/": f"{folder}/runs/",
        "build/": f"{folder}/build/",
    }
    for place, substitute in places.items():
        whole_word = "" if place.endswith(("/", " ", '"')) else r"(?!\w)"
        text = re.sub(rf"(?<![\w/]){re.escape(place)}{whole_word}", str(substitute).replace("\\", r"\\"), text)
    return text


@pytest.mark.timeout(900)
def test_commands(released: Stack, recipe: Path, dataset: Path) -> None:
    """Run all pages in one test, because a reader who reaches one page has followed those before it."""
    ran = set()
    for page in PAGES:
        for command in commands(page):
            if command in NOT_HERE or (command in ran and "models" not in command):  # two pages may say how to train
                continue
            line = translated(command, released, recipe, dataset)
            with asked(released) if "--canary" in line else nullcontext():
                done = run_line(line)
            assert done.returncode == 0, f"{page}: {line}\n{done.stdout}{done.stderr}"
            if "curl" in line:
                assert '"error"' not in done.stdout
            ran.add(command)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python(page: str, released: Stack, recipe: Path, dataset: Path) -> None:
    for block in blocks(page, "python"):
        code = translated(block, released, recipe, dataset)
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert re.fullmatch(r"\w+ [01]\.\d+\n", ran.stdout)


def test_every_command_is_run_somewhere() -> None:
    assert {command for page in PAGES for command in commands(page)} >= NOT_HERE
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
    assert "make test" in ci
    assert re.search(r"^quick:.* check ", makefile, re.MULTILINE)  # and the tests that `make test` runs too
    make_tests = (ROOT / "tests" / "test_make.py").read_text()
    assert all(shlex.split(command)[1] in make_tests for command in RUN_BY_TEST_MAKE)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", *DOCS])
def test_links_lead_somewhere(document: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)]+)\)", text)
    here = [link for link in links if not link.startswith("https://")]
    assert [link for link in here if not (ROOT / document).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_checkpoints_that_a_page_names_are_there(page: str) -> None:
    names = re.findall(r"model_store/(\w+\.pth)", (ROOT / page).read_text(encoding="utf-8"))
    assert [name for name in names if not (ROOT / "model_store" / name).exists()] == []


def test_the_map_shows_what_is_there() -> None:
    drawn = (ROOT / "CONTRIBUTING.md").read_text()
    for room in ("training", "handler", "gateway", "ui", "scripts"):
        assert f"{room}/ " in drawn
        modules = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__", "gunicorn.conf"}
        assert [name for name in modules if not re.search(rf"\b{name}\b", drawn)] == []

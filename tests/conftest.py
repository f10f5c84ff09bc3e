"""What several tests share: drawn images, a network trained on them, its archive, and the product serving it."""

import contextlib
import gc
import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import requests
import yaml
from filelock import FileLock
from playwright.sync_api import Browser, Page, sync_playwright

from tests.archives import rebuild
from tests.browser import CHROMIUM, CHROMIUM_OPTIONS
from tests.drawing import TEN, draw_dataset
from tests.replies import assert_tells_nothing
from tests.stack import ROOT, Stack, serve

QUICK_RECIPE = {
    "name": "drawn",
    "architecture": "cnn",
    "augment": {"crop_padding": 2, "flip": "random"},
    "optimizer": {"name": "adam", "lr": 0.001, "weight_decay": 0.0001},
    "schedule": {"name": "step"},
    "batch_size": 16,
    "epochs": 2,
    "seed": 1,
}


SLOW = {"trained", "browser", "database", "cluster"}  # fixtures that train, serve or start a program
# The longest files begin first, so that the processes that run the tests end together.
LONGEST = (
    "test_docs",
    "test_engine",
    "test_tutorial",
    "test_rolling",
    "test_served",
    "test_train",
    "test_product",
    "test_files",
    "test_learning",
    "test_distributed",
    "test_benchmark",
    "test_make",
    "test_ensemble",
    "test_run",
)


# Ctrl-C is tested, and a shell lets what it starts in the background ignore that.
signal.signal(signal.SIGINT, signal.default_int_handler)


class CommandFailed(AssertionError):
    """A command of ours ended with a status other than 0; the message is all that it printed."""


def run_module(module: str, *arguments: object) -> str:
    """Run a command of ours, in this process, which has PyTorch already; returns what it printed, with the errors."""
    printed = io.StringIO()
    with (
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        status = importlib.import_module(module).main([*map(str, arguments)], standalone_mode=False)
    if status:
        raise CommandFailed(printed.getvalue())
    return printed.getvalue()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs more than this process: `make quick` leaves it out. Put the longest files first."""
    items.sort(key=lambda item: LONGEST.index(name) if (name := item.path.stem) in LONGEST else len(LONGEST))
    for item in items:
        if SLOW.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _replies_tell_nothing() -> Iterator[None]:
    """Look at every reply of the gateway that a test gets by requests."""
    send = requests.Session.send

    def looked_at(*arguments: Any, **options: Any) -> requests.Response:
        response = send(*arguments, **options)
        if response.headers.get("Server") == "gunicorn":
            assert_tells_nothing(response.status_code, response.text)
        return response

    with patch.object(requests.Session, "send", looked_at):
        yield


@pytest.fixture
def _no_garbage() -> Iterator[None]:
    """Collect none during a test whose JSON is nested so deeply that a finalizer would have no stack left."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is made once for all processes that run tests; nobody changes what lies there."""
    folder = Path(os.environ.get("TESTS_SHARED") or tmp_path_factory.mktemp("shared"))
    (folder / "done").mkdir(parents=True, exist_ok=True)
    return folder


def once(path: Path, make: Callable[[], object]) -> Path:
    """Return a file or folder of `shared`, made by whoever needs it first."""
    done = path.parent / "done" / path.name
    with FileLock(f"{done}.lock"):
        if not done.exists():
            make()
            done.touch()
    return path


@pytest.fixture(scope="session")
def dataset(shared: Path) -> Path:
    """Ten classes of drawn images in train/ and test/."""
    folder = shared / "drawn"
    return once(folder, lambda: draw_dataset(folder, TEN, train=40, test=8))


@pytest.fixture(scope="session")
def recipe(shared: Path) -> Path:
    path = shared / "quick.yaml"
    return once(path, lambda: path.write_text(yaml.safe_dump(QUICK_RECIPE)))


@pytest.fixture(scope="session")
def trained(shared: Path, dataset: Path, recipe: Path) -> Path:
    """The folder of a finished run of two epochs on the drawn images."""
    output = shared / "trained"

    def train() -> None:
        printed = run_module("training.train", "--recipe", recipe, "--data", dataset, "--output", output)
        (output / "printed.txt").write_text(printed)

    return once(output, train)


@pytest.fixture(scope="session")
def checkpoint(trained: Path) -> Path:
    return trained / "drawn.pth"


@pytest.fixture(scope="session")
def archive(shared: Path, checkpoint: Path) -> Path:
    """The archive of that run; its folder is the model store of the products that serve it."""
    store = shared / "store"

    def pack() -> None:
        # In another process, because TorchScript numbers the types of all networks that a process has exported.
        command = [sys.executable, "-m", "training.archive", str(checkpoint), "--output", str(store / "drawn.mar")]
        subprocess.run(command, cwd=ROOT, check=True)

    return once(store, pack) / "drawn.mar"


@pytest.fixture(scope="session")
def lone(shared: Path, archive: Path) -> Path:
    """The same archive with one worker instead of two, which starts sooner, for a product that a test needs alone."""
    path = shared / "lone.mar"
    return once(path, lambda: rebuild(archive, path, {}))


@pytest.fixture(scope="session")
def stack(workspace: Path, archive: Path) -> Iterator[Stack]:
    """The product serving the drawn classes, with keys that last six seconds, so that every test meets expiries."""
    with serve(archive, workspace / "stack", token_expiration_min=0.1) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window, as the distribution ships it, or else as Playwright does."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[[], Page]]:
    """Open pages that may not fail quietly: an error in a script fails the test."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    problems: list[str] = []
    context.on("weberror", lambda error: problems.append(str(error.error)))
    yield context.new_page
    context.close()
    assert not problems


@pytest.fixture
def page(open_page: Callable[[], Page]) -> Page:
    return open_page()

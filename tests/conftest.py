"""What several tests share: drawn images, a network trained on them, its archive, and the product serving it."""

import contextlib
import importlib
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import requests
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import CHROMIUM_OPTIONS
from tests.commands import FORKS as FORKS
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


def run_module(module: str, *arguments: object) -> str:
    """Run a command of ours, in this process, which has PyTorch already; returns what it printed, with the errors."""
    printed = io.StringIO()
    with (
        patch.object(sys, "argv", [module, *map(str, arguments)]),
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        status = importlib.import_module(module).main()
    assert not status, printed.getvalue()
    return printed.getvalue()


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


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def dataset(workspace: Path) -> Path:
    """Ten classes of drawn images in train/ and test/."""
    return draw_dataset(workspace / "drawn", TEN, train=40, test=8)


@pytest.fixture(scope="session")
def recipe(workspace: Path) -> Path:
    path = workspace / "quick.yaml"
    path.write_text(yaml.safe_dump(QUICK_RECIPE))
    return path


@pytest.fixture(scope="session")
def trained(workspace: Path, dataset: Path, recipe: Path) -> Path:
    """The folder of a finished run of two epochs on the drawn images."""
    output = workspace / "trained"
    printed = run_module("training.train", "--recipe", recipe, "--data", dataset, "--output", output)
    (output / "printed.txt").write_text(printed)
    return output


@pytest.fixture(scope="session")
def checkpoint(trained: Path) -> Path:
    return trained / "drawn.pth"


@pytest.fixture(scope="session")
def archive(workspace: Path, checkpoint: Path) -> Path:
    path = workspace / "store" / "drawn.mar"
    run_module("training.archive", checkpoint, "--output", path)
    return path


@pytest.fixture(scope="session")
def stack(workspace: Path, archive: Path) -> Iterator[Stack]:
    """The product serving the drawn classes, with keys that last six seconds, so that every test meets expiries."""
    with serve(archive, workspace / "stack", token_expiration_min=0.1) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium as the distribution ships it, or else as Playwright does."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_OPTIONS)
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

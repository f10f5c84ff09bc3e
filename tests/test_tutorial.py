"""docs/tutorial.md is followed to the letter: its commands, in order, and what the page shows in the end."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.commands import run_line
from tests.drawing import THREE, draw_dataset
from tests.stack import ROOT, Stack, serve
from training.files import write_digest

TEXT = (ROOT / "docs" / "tutorial.md").read_text()
FIRST, *COMMANDS, LAST = [
    line for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


@pytest.fixture(scope="module")
def own(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running product with a model store of its own."""
    store = tmp_path_factory.mktemp("tutorial") / "model_store"
    store.mkdir()
    (store / "first.mar").write_bytes(archive.read_bytes())
    write_digest(store / "first.mar", archive)
    with serve(store / "first.mar", store.parent / "stack") as running:
        yield running


def run(line: str, stack: Stack, images: Path) -> str:
    folder = images.parent
    places = {
        ".venv/bin/python": sys.executable,
        "scripts/models.py": f"scripts/models.py --config {stack.config} --run {stack.run}",
        "my-images": images,
        "runs/mine": folder / "mine",
        "model_store/": f"{stack.run / 'model_store'}/",
        "localhost:5001": stack.url,
    }
    for place, substitute in places.items():
        line = re.sub(rf"(?<![\w/]){re.escape(place)}", str(substitute), line)
    done = run_line(line)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.timeout(600)
def test_own_classes_are_trained_rolled_in_and_shown(own: Stack, page: Page, tmp_path: Path) -> None:
    images = draw_dataset(tmp_path / "my-images", THREE, train=24, test=6)
    assert FIRST == "make serve"
    told = [run(line, own, images) for line in COMMANDS]
    assert float(re.findall(r"test accuracy ([\d.]+)%", "".join(told))[0]) >= 90
    assert json.loads(told[-1]) == {"classes": THREE, "total_classes": 3}

    page.goto(own.url)
    page.set_input_files("#file", images / "test" / "lime" / "0000.png")
    expect(page.locator(".predicted")).to_have_text("lime")
    assert sorted(page.locator(".bars .name").all_inner_texts()) == THREE
    expect(page.locator("#classes")).to_have_text("3 classes: azure, lime, red")

    assert LAST == ".venv/bin/python scripts/models.py rollback"
    run(LAST, own, images)
    page.reload()
    expect(page.locator("#classes")).to_contain_text("10 classes:")

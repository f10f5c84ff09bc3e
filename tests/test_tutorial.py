"""docs/tutorial.md is followed to the letter: its commands, in order, and what the page shows in the end."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.archives import rebuild
from tests.commands import run_line
from tests.drawing import THREE, draw_photo, encode
from tests.stack import ROOT, Stack, serve
from tests.ui.uploads import upload
from training.train import next_commands

TEXT = (ROOT / "docs" / "tutorial.md").read_text()
FIRST, ACTIVATION, *COMMANDS, LAST = [
    line for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


@pytest.fixture(scope="module")
def own(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running product with a model store of its own."""
    store = tmp_path_factory.mktemp("tutorial") / "model_store"
    store.mkdir()
    rebuild(archive, store / "first.mar", {})
    with serve(store / "first.mar", store.parent / "stack") as running:
        yield running


def run(line: str, stack: Stack, photos: Path) -> str:
    folder = photos.parent
    places = {
        "classifier models": f"classifier models --config {stack.config} --run {stack.run}",
        # Calibration and the report measure hundreds of images, which takes five times as long at 224 pixels.
        "classifier train my-photos": f"{line} --set input.size=96 --output {folder}/runs/photos",
        "classifier": f"{sys.executable} -m scripts.cli",
        "my-photos": photos,
        "runs/photos": folder / "runs" / "photos",
        "model_store/": f"{stack.run / 'model_store'}/",
        "localhost:5001": stack.url,
    }
    for place, substitute in places.items():
        line = re.sub(rf"(?<![\w/]){re.escape(place)}", str(substitute), line)
    done = run_line(line)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.timeout(600)
def test_own_photos_are_trained_on_rolled_in_and_shown(own: Stack, page: Page, tmp_path: Path) -> None:
    photos = tmp_path / "my-photos"
    for name in THREE:
        (photos / name).mkdir(parents=True)
        for number in range(10):
            draw_photo(name, number).save(photos / name / f"{number}.jpg")
    assert (FIRST, ACTIVATION) == ("make serve", ". .venv/bin/activate")
    assert COMMANDS[0] == "classifier train my-photos"
    told = [run(line, own, photos) for line in COMMANDS]
    assert float(re.findall(r"test accuracy ([\d.]+)%", "".join(told))[0]) >= 90
    assert json.loads(told[-1]) == {"classes": THREE, "total_classes": 3}

    page.goto(own.url)
    page.set_input_files("#file", upload(encode(draw_photo("lime", 100))))
    expect(page.locator(".predicted")).to_have_text("lime")
    assert sorted(page.locator(".bars .name").all_inner_texts()) == THREE
    expect(page.locator("#classes")).to_have_text("3 classes: azure, lime, red")
    page.get_by_text("Explain the prediction").click()
    expect(page.locator("#where")).to_contain_text("lime")

    assert LAST == "classifier models rollback"
    run(LAST, own, photos)
    page.reload()
    expect(page.locator("#classes")).to_contain_text("10 classes:")


def test_training_prints_the_commands_that_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.train.CHECKPOINTS", tmp_path / "model_store")
    (tmp_path / "my-photos" / "mug").mkdir(parents=True)
    printed = next_commands(Path("runs/photos/photos.pth"), Path("my-photos")).splitlines()
    evaluate, pack, roll = (line.strip() for line in printed[1:-1])
    assert [evaluate, pack, f"{roll} --new-classes"] == COMMANDS[1:4]
    assert "--new-classes" in printed[-1]

"""ImageNet's own network through TorchServe: a thousand classes at 224 pixels, beside the ten drawn classes."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import skimage.data
from PIL import Image
from playwright.sync_api import Page, expect

from tests.conftest import run_module
from tests.drawing import TEN, encode
from tests.stack import Stack
from tests.ui.uploads import upload
from training.archive import archive
from training.checkpoint import load_checkpoint
from training.pretrained import imagenet_classes

COUNT = 1000
CLASSES = imagenet_classes()
COFFEE = encode(Image.fromarray(skimage.data.coffee()))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imagenet") / "imagenet.pth"
    run_module("training.imagenet", "--output", path)
    return path


@pytest.fixture(scope="module")
def server(stack: Stack, network: Path) -> Iterator[Stack]:
    """The product that all tests share; until the end of this file, the network of ImageNet is its default version."""
    path = stack.run / "model_store" / "imagenet.mar"
    archive(load_checkpoint(network), path, "1000.0")
    stack.torchserve.register(path.name)
    stack.torchserve.set_default("1000.0")
    yield stack
    stack.torchserve.set_default("1.0")
    stack.torchserve.unregister("1000.0")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "coffee.png").write_bytes(COFFEE)
    Image.fromarray(skimage.data.chelsea()).save(folder / "cat.jpg")
    return folder


def test_it_knows_a_thousand_classes_and_the_other_version_ten(server: Stack) -> None:
    assert requests.get(f"{server.url}/classes").json() == {"classes": CLASSES, "total_classes": COUNT}
    prediction = requests.post(f"{server.url}/predict?top_k=3", files={"file": COFFEE}).json()
    assert (prediction["predicted_class"], prediction["version"]) == ("espresso", "1000.0")
    assert prediction["top_k"][0] == {"class": "espresso", "probability": prediction["confidence"]}
    assert list(prediction["class_probabilities"]) == CLASSES
    assert sum(prediction["class_probabilities"].values()) == pytest.approx(1, abs=1e-5)
    drawn = requests.post(f"{server.url}/predict?version=1.0", files={"file": COFFEE}).json()
    assert len(drawn["class_probabilities"]) == 10


def test_the_metrics_count_its_classes_together(server: Stack) -> None:
    requests.post(f"{server.url}/predict", files={"file": COFFEE})
    counts = [line for line in requests.get(f"{server.url}/metrics").text.splitlines() if "predictions_total{" in line]
    (mine,) = (line for line in counts if 'version="1000.0"' in line)
    assert 'class="any"' in mine


def test_a_csv_has_a_column_for_each_or_the_likeliest(server: Stack, photos: Path, tmp_path: Path) -> None:
    rows = {}
    for name, options in (("wide", []), ("narrow", ["--top-k", "2"])):
        output = tmp_path / f"{name}.csv"
        run_module("scripts.batch_predict", photos, "--output", output, "--url", server.url, *options)
        with output.open(newline="", encoding="utf-8") as file:
            rows[name] = list(csv.DictReader(file))
    assert list(rows["wide"][0])[5:] == [f"probability_{name}" for name in CLASSES]
    for wide, narrow in zip(rows["wide"], rows["narrow"], strict=True):
        assert len(narrow) == 9
        assert narrow["class_1"] == wide["predicted_class"]
        assert narrow["probability_2"] == pytest.approx(wide[f"probability_{narrow['class_2']}"])
    assert rows["wide"][1]["predicted_class"] == "espresso"


def test_it_is_the_network_that_was_packed(server: Stack, network: Path, photos: Path) -> None:
    printed = run_module("scripts.verify", network, photos, "--url", server.url)
    assert printed.startswith("2 of 2 images have the same class")


def test_the_page_lists_explains_and_compares(server: Stack, page: Page) -> None:
    page.goto(server.url)
    expect(page.locator("#classes")).to_have_text(f"1,000 classes: {', '.join(CLASSES[:20])} and 980 more")
    page.set_input_files("#file", upload(COFFEE))
    expect(page.locator(".predicted")).to_have_text("espresso")
    page.get_by_text("Explain the prediction").click()
    expect(page.locator("#where")).to_be_visible(timeout=20_000)
    page.get_by_role("button", name="Show all 1,000 classes").click()
    expect(page.locator(".bars li")).to_have_count(COUNT)
    page.get_by_label("Compare with").select_option("1.0")
    expect(page.locator("#agreement")).to_contain_text("The versions disagree: 1000.0 predicts espresso, 1.0 predicts")
    together = set(CLASSES) | set(TEN)  # both versions know an orange
    page.get_by_role("button", name=f"Show all {len(together):,} classes").click()
    for column in page.locator(".column").all():
        expect(column.locator(".bars li")).to_have_count(len(together))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

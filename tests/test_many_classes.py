"""A model of a thousand classes with the names of ImageNet's: through API, page, CSV, metrics and verification."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, expect

from handler.transforms import Preprocessing
from scripts.serving.defaults import EMBEDDED
from tests.conftest import run_module
from tests.drawing import draw, encode
from tests.networks import untrained
from tests.stack import Stack, serve
from tests.ui.uploads import upload
from training.checkpoint import save_checkpoint

COUNT = 1000
ODD = [
    "n01440764 tench, Tinca tinca",
    'n02099601 "golden" retriever',
    "n03710637 maillot; Badeanzug für Größen",
    "猫\\犬",
]
CLASSES = [*ODD, *(f"n{number:08} kind {number}, with a comma" for number in range(COUNT - len(ODD)))]
PICTURE = encode(draw("red", 3))


@pytest.fixture(scope="module")
def network(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("thousand") / "thousand.pth"
    save_checkpoint(untrained(checkpoint, "whitened_cnn", Preprocessing(32), CLASSES), path)
    return path


@pytest.fixture(scope="module")
def server(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    run_module("training.archive", network)
    with serve(network.with_suffix(".mar"), tmp_path_factory.mktemp("stack"), backend=EMBEDDED) as running:
        yield running


def test_every_class_has_a_probability_and_few_come_first(server: Stack) -> None:
    assert requests.get(f"{server.url}/classes").json() == {"classes": CLASSES, "total_classes": COUNT}
    reply = requests.post(f"{server.url}/predict?top_k=3", files={"file": PICTURE})
    prediction = reply.json()
    probabilities = prediction["class_probabilities"]
    assert list(probabilities) == CLASSES
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert [each["class"] for each in prediction["top_k"]] == sorted(CLASSES, key=probabilities.__getitem__)[:-4:-1]
    assert len(reply.content) < 100 * COUNT
    several = requests.post(f"{server.url}/predict", files=[("file", PICTURE)] * 32)
    assert [each["predicted_class"] for each in several.json()] == [prediction["predicted_class"]] * 32


def test_any_of_them_is_explained(server: Stack) -> None:
    for name in ODD:
        reply = requests.post(f"{server.url}/explain", params={"class": name}, files={"file": PICTURE})
        assert reply.json()["explained_class"] == name


def test_the_metrics_count_them_together(server: Stack) -> None:
    requests.post(f"{server.url}/predict", files={"file": PICTURE})
    lines = [line for line in requests.get(f"{server.url}/metrics").text.splitlines() if "predictions_total{" in line]
    assert len(lines) == 1
    assert 'class="any"' in lines[0]


def test_a_csv_has_a_column_for_each(server: Stack, dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    run_module("scripts.batch_predict", dataset / "test" / "red", "--output", output, "--url", server.url)
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[5:] == [f"probability_{name}" for name in CLASSES]
    for row in rows:
        best = max(CLASSES, key=lambda name: float(row[f"probability_{name}"]))
        assert row["predicted_class"] == best


def test_it_is_verified_as_any_other(server: Stack, network: Path, dataset: Path) -> None:
    printed = run_module("scripts.verify", network, dataset / "test" / "red", "--url", server.url)
    assert printed.startswith("8 of 8 images have the same class")


def test_the_page_shows_the_best_and_folds_the_rest(server: Stack, page: Page) -> None:
    page.goto(server.url)
    expect(page.locator("#classes")).to_have_text(f"1,000 classes: {'; '.join(CLASSES[:20])} and 980 more")
    page.set_input_files("#file", upload(PICTURE))
    expect(page.locator(".bars li")).to_have_count(10)
    page.get_by_text("Explain the prediction").click()
    expect(page.locator("#where")).to_be_visible()
    page.get_by_label("Class to explain").select_option(f"Why not {ODD[1]}?")
    expect(page.locator("#where")).to_contain_text(ODD[1])
    page.set_viewport_size({"width": 320, "height": 720})
    inside, outside = (page.locator(place).bounding_box() for place in ("#why", "#explain"))
    assert inside
    assert outside
    assert inside["width"] <= outside["width"]
    page.get_by_role("button", name="Show all 1,000 classes").click()
    expect(page.locator(".bars li")).to_have_count(COUNT)
    page.get_by_role("button", name="Model card").click()
    expect(page.get_by_role("dialog")).to_contain_text("32 × 32 pixels (squeeze)")
    expect(page.get_by_role("dialog")).to_contain_text("and 980 more")
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    (row,) = csv.DictReader(download.value.path().read_text("utf-8-sig").splitlines())
    assert {f"probability_{name}" for name in CLASSES} < row.keys()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

"""The whole chain on real processes: images, training, export, archive, TorchServe, gateway, clients, browser.

Tests of classes of one's own follow the tutorial, in test_tutorial.
"""

import base64
import csv
from pathlib import Path

import pytest
import requests
import torch
from playwright.sync_api import Page, expect

from handler import transforms
from tests.conftest import run_module
from tests.drawing import TEN
from tests.stack import Stack
from training.checkpoint import load_checkpoint


def offline(checkpoint: Path, image: bytes) -> dict[str, float]:
    """Predict with the checkpoint itself, in this process."""
    loaded = load_checkpoint(checkpoint)
    with torch.inference_mode():
        seen = transforms.test_transform(transforms.decode_image(image), *loaded.inputs)
        logits, _ = loaded.classifier()(torch.from_numpy(seen)[None])
    probabilities = logits.softmax(dim=1)[0]
    return dict(zip(loaded.card["classes"], probabilities.tolist(), strict=True))


@pytest.fixture(params=TEN)
def image(dataset: Path, request: pytest.FixtureRequest) -> Path:
    return dataset / "test" / request.param / "0003.png"


def test_served_by_file_and_by_base64_as_computed_offline(stack: Stack, checkpoint: Path, image: Path) -> None:
    expected = offline(checkpoint, image.read_bytes())

    by_file = requests.post(f"{stack.url}/predict", files={"file": image.open("rb")}).json()
    encoded = base64.b64encode(image.read_bytes()).decode()
    by_base64 = requests.post(f"{stack.url}/predict_base64", json={"image": encoded}).json()

    assert by_file == by_base64
    assert by_file["class_probabilities"] == pytest.approx(expected, abs=1e-5)
    assert list(by_file["class_probabilities"]) == sorted(TEN)
    assert by_file["predicted_class"] == max(expected, key=expected.__getitem__)


def test_batch_script_agrees_and_learned_the_classes(
    stack: Stack, checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    printed = run_module("scripts.batch_predict", dataset / "test", "-o", output, "--url", stack.url)
    with output.open() as file:
        rows = list(csv.DictReader(file))

    assert len(rows) == 80
    for row in rows[::9]:
        expected = offline(checkpoint, Path(row["file"]).read_bytes())
        assert {name: float(row[f"probability_{name}"]) for name in expected} == pytest.approx(expected, abs=1e-5)
    right = sum(row["predicted_class"] == Path(row["file"]).parent.name for row in rows)
    assert f"accuracy {right / 80:.2%} ({right} of 80" in printed
    assert right >= 60


def test_the_page_shows_what_the_gateway_says(stack: Stack, page: Page, dataset: Path) -> None:
    image = dataset / "test" / "blue" / "0001.png"
    answer = requests.post(f"{stack.url}/predict", files={"file": image.open("rb")}).json()

    page.goto(stack.url)
    page.set_input_files("#file", image)

    expect(page.locator(".predicted")).to_have_text(answer["predicted_class"])
    expect(page.locator(".confidence")).to_have_text(f"{100 * answer['confidence']:.1f} % confidence")
    expect(page.locator("#classes")).to_contain_text("classes")
    expect(page.get_by_label("Compare with")).to_be_hidden()  # as there is one version

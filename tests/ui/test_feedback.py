"""The right class of an image, told on the page."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.fake_backend import serving
from tests.ui.test_accessibility import assert_accessible
from tests.ui.uploads import PICTURE, upload


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "shared"))
    return tmp_path / "feedback"


@pytest.fixture
def asking(page: Page, folder: Path) -> Iterator[Page]:
    """The page of a gateway that keeps feedback, with a prediction on show."""
    with serving(FEEDBACK_DIR=str(folder)) as url:
        page.goto(url)
        page.set_input_files("#file", upload())
        expect(page.locator(".predicted")).to_have_text("cat")
        page.get_by_text("Not right?").click()
        yield page


def test_keeps_the_image_the_class_and_the_note(asking: Page, folder: Path) -> None:
    expect(asking.get_by_text("The server keeps this image, the class and the note")).to_be_visible()
    assert_accessible(asking)
    asking.get_by_label("It is").fill("owl")
    asking.get_by_label("Note").fill("at night")
    asking.get_by_role("button", name="Send").click()
    expect(asking.locator("#told")).to_have_text(
        "Thank you. It is kept as owl until a person has reviewed it, or it is too old."
    )
    expect(asking.get_by_label("It is")).to_be_hidden()
    (image,) = (folder / "owl").glob("*.png")
    assert image.read_bytes() == PICTURE
    line = json.loads(image.with_suffix(".jsonl").read_text())
    assert (line["class"], line["note"], line["predicted_class"]) == ("owl", "at night", "cat")


def test_offers_the_classes_of_the_model_for_each_image_anew(asking: Page) -> None:
    names = asking.locator("#names option").evaluate_all("options => options.map(({ value }) => value)")
    assert names == ["cat"]
    asking.get_by_label("It is").fill("dog")
    asking.get_by_role("button", name="Send").click()
    expect(asking.locator("#told")).to_contain_text("kept as dog")
    asking.set_input_files("#file", upload())
    expect(asking.get_by_label("It is")).to_have_value("")
    expect(asking.locator("#told")).to_have_text("")


def test_says_why_it_is_not_kept(asking: Page) -> None:
    asking.get_by_label("It is").fill("a/b")
    asking.get_by_role("button", name="Send").click()
    expect(asking.locator("#told")).to_contain_text("without marks such as / or :")
    expect(asking.get_by_label("It is")).to_have_value("a/b")


def test_asks_nothing_if_the_server_keeps_none(page: Page) -> None:
    with serving() as url:
        page.goto(url)
        page.set_input_files("#file", upload())
        expect(page.locator(".predicted")).to_have_text("cat")
        expect(page.get_by_text("Not right?")).to_be_hidden()

"""The prediction, and those of two versions side by side; in version 2.0 red and pink are exchanged."""

import csv
import json
import re

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.drawing import TEN, draw, encode
from tests.ui.uploads import upload

pytestmark = pytest.mark.usefixtures("second_version")


@pytest.fixture
def compared(served: Page) -> Page:
    served.set_input_files("#file", upload(encode(draw("red", 5))))
    expect(served.locator(".column")).to_have_count(1)
    served.get_by_label("Compare with").select_option("2.0")
    expect(served.locator(".column")).to_have_count(2)
    return served


def test_shows_class_confidence_and_sorted_bars(served: Page) -> None:
    served.set_input_files("#file", upload())

    expect(served.locator(".predicted")).to_have_text("green")
    expect(served.locator(".confidence")).to_have_text(re.compile(r"^\d+\.\d\s% confidence$"))
    expect(served.locator(".bars li")).to_have_count(10)
    values = [float(text.split()[0]) for text in served.locator(".bars .value").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert sorted(served.locator(".bars .name").all_inner_texts()) == sorted(TEN)
    widths = served.locator(".bars .bar").evaluate_all("bars => bars.map((bar) => bar.offsetWidth)")
    assert widths == sorted(widths, reverse=True)
    heights = served.locator(".bars li").evaluate_all("rows => rows.map((row) => row.offsetHeight)")
    assert len(set(heights)) == 1
    expect(served.locator("#preview")).to_be_visible()


def test_warns_of_an_outlier(served: Page) -> None:
    served.set_input_files("#file", upload())
    expect(served.locator(".bars li")).to_have_count(10)
    expect(served.locator(".outlier")).to_be_hidden()
    served.set_input_files("#file", upload(encode(Image.effect_noise((64, 64), 200).convert("RGB"))))
    expect(served.locator(".outlier")).to_contain_text("Outlier: this image looks different from the training images")
    expect(served.locator("#visit .summary")).to_have_text([re.compile(r"%$"), re.compile(r"% \(outlier\)$")])


def test_says_that_an_image_is_bad(served: Page) -> None:
    served.set_input_files("#file", upload(b"broken"))
    expect(served.get_by_role("alert")).to_contain_text("cannot be read")
    served.set_input_files("#file", upload())
    expect(served.get_by_role("alert")).to_be_hidden()
    expect(served.locator(".predicted")).to_have_text("green")


def test_shows_both_versions_where_they_agree(served: Page) -> None:
    served.get_by_label("Compare with").select_option("2.0")
    served.set_input_files("#file", upload())
    expect(served.locator("#agreement")).to_have_text("The versions agree: both predict green.")
    expect(served.locator(".column .version")).to_have_text(["Version 1.0", "Version 2.0, with differences"])
    expect(served.locator(".predicted")).to_have_text(["green", "green"])
    first, second = (column.locator(".name").all_inner_texts() for column in served.locator(".column").all())
    assert first == second
    assert len(first) == 10
    left, right = (column.bounding_box() for column in served.locator(".column").all())
    assert left
    assert right
    assert left["y"] == right["y"]


@pytest.mark.parametrize(
    "failure", [{"status": 503, "json": {"error": "No.", "success": False}}, None], ids=["503", "away"]
)
def test_the_choice_outlives_a_failure(compared: Page, failure: dict[str, object] | None) -> None:
    compared.get_by_label("Version").select_option("2.0")
    for path in ("**/models", "**/classes"):
        compared.route(path, lambda route: route.fulfill(**failure) if failure else route.abort())
    compared.evaluate("page.server.checkStatus()")
    expect(compared.locator("#classes")).to_contain_text("10 classes")
    compared.unroute_all()
    compared.evaluate("page.server.checkStatus()")
    expect(compared.get_by_label("Version")).to_have_value("2.0")
    expect(compared.get_by_label("Compare with")).to_have_value("2.0")
    expect(compared.locator("#choice")).to_be_visible()


def test_the_choice_outlives_a_new_version(compared: Page) -> None:
    models = [{"version": version, "default": version == "1.0", "workers": 1} for version in ("1.0", "2.0", "3.0")]
    compared.route("**/models", lambda route: route.fulfill(json={"models": models}))
    compared.evaluate("page.server.checkStatus()")
    expect(compared.get_by_label("Version").locator("option")).to_have_count(3)
    expect(compared.get_by_label("Version")).to_have_value("")
    expect(compared.get_by_label("Compare with")).to_have_value("2.0")
    del models[1]
    compared.evaluate("page.server.checkStatus()")
    expect(compared.get_by_label("Compare with")).to_have_value("-")


def test_shows_where_they_differ(compared: Page) -> None:
    expect(compared.locator("#agreement")).to_have_text("The versions disagree: 1.0 predicts red, 2.0 predicts pink.")
    one, other = (float(text.split()[0]) for text in compared.locator(".confidence").all_inner_texts())
    assert one == pytest.approx(other, abs=5)
    row = compared.locator(".column").last.locator("li", has_text="red")
    expect(row.locator(".difference")).to_have_text(re.compile(r"^−\d+\.\d$"))
    compared.get_by_label("Compare with").select_option("none")
    expect(compared.locator(".column")).to_have_count(1)
    expect(compared.locator("#agreement")).to_be_hidden()


def test_history_and_what_is_saved_hold_both(served: Page) -> None:
    served.get_by_label("Version").select_option("2.0")
    served.get_by_label("Compare with").select_option("1.0 (default)")
    served.set_input_files("#file", upload(encode(draw("red", 5))))
    expect(served.locator("#visit .summary")).to_have_text(re.compile(r"2\.0: pink \d+\.\d\s%\s+1\.0: red \d+\.\d\s%"))
    with served.expect_download() as download:
        served.get_by_role("button", name="Save as CSV").click()
    rows = list(csv.DictReader(download.value.path().read_text("utf-8-sig").splitlines()))
    assert [(row["version"], row["predicted_class"]) for row in rows] == [("2.0", "pink"), ("1.0", "red")]
    with served.expect_download() as download:
        served.get_by_role("button", name="Save as JSON").click()
    assert [row["version"] for row in json.loads(download.value.path().read_text())] == ["2.0", "1.0"]


def test_another_version_is_asked_at_once(served: Page) -> None:
    served.set_input_files("#file", upload(encode(draw("red", 5))))
    expect(served.locator(".predicted")).to_have_text("red")
    served.get_by_label("Version").select_option("2.0")
    expect(served.locator(".predicted")).to_have_text("pink")
    expect(served.locator(".spent")).to_contain_text("Version 2.0 answered in")


def test_an_image_that_one_version_has_predicted_is_asked_of_both(served: Page) -> None:
    served.set_input_files("#file", [upload(encode(draw("red", 5)), "red.png"), upload()])
    expect(served.locator("#visit .summary")).to_contain_text(["red", "green"])
    served.get_by_label("Compare with").select_option("2.0")
    expect(served.locator("#agreement")).to_contain_text("disagree")
    served.locator("#visit button").last.click()
    expect(served.locator("#agreement")).to_have_text("The versions agree: both predict green.")
    served.get_by_label("Compare with").select_option("none")
    expect(served.locator(".column")).to_have_count(1)
    served.locator("#visit button").first.click()
    expect(served.locator(".column")).to_have_count(1)
    expect(served.locator(".predicted")).to_have_text("red")


def test_a_screen_reader_hears_the_answer_and_not_all_rows(served: Page) -> None:
    spoken = served.get_by_role("status").and_(served.locator("#spoken"))
    assert not served.locator("#prediction [aria-live], [aria-live] .bars").count()
    served.set_input_files("#file", upload(encode(draw("red", 5))))
    expect(spoken).to_have_text(re.compile(r"^\s*red \d+\.\d\s%$"))
    served.get_by_label("Compare with").select_option("2.0")
    expect(spoken).to_contain_text("The versions disagree: 1.0 predicts red, 2.0 predicts pink.")
    served.set_input_files("#file", upload(b"broken"))
    expect(served.get_by_role("alert")).to_contain_text("cannot be read")
    expect(spoken).to_be_empty()
    served.locator("#visit button").first.click()
    served.get_by_text("Explain the prediction").click()
    expect(spoken).to_contain_text("the probability of red")


def test_shows_what_each_version_sees(compared: Page) -> None:
    seen = compared.locator("#pictures img").first
    compared.get_by_text("Explain the prediction").click()
    expect(compared.locator("#where")).to_be_visible()
    assert seen.evaluate("(image) => image.naturalWidth") == 32
    assert seen.evaluate("(image) => getComputedStyle(image).imageRendering") == "pixelated"
    compared.get_by_label("Compare with").select_option("none")
    compared.get_by_label("Version").select_option("2.0")
    expect(compared.locator(".predicted")).to_have_text(["pink"])
    expect(compared.locator("#where")).to_contain_text("pink")
    assert seen.evaluate("(image) => image.naturalWidth") == 224
    assert seen.evaluate("(image) => getComputedStyle(image).imageRendering") == "auto"
    assert compared.locator("#heat").evaluate("(canvas) => canvas.width") == 32
    box = seen.bounding_box()
    assert box
    assert box["height"] == pytest.approx(box["width"], abs=1)  # whatever its size


def test_stacks_on_a_phone(compared: Page) -> None:
    compared.set_viewport_size({"width": 360, "height": 700})
    upper, lower = (column.bounding_box() for column in compared.locator(".column").all())
    assert upper
    assert lower
    assert upper["x"] == lower["x"]
    assert upper["y"] + upper["height"] <= lower["y"]
    assert compared.evaluate("document.documentElement.scrollWidth") <= 360

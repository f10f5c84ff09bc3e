"""The image as the model sees it, and the parts that support a class."""

import base64
import re

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from tests.drawing import SIZE, draw, encode
from tests.ui.uploads import upload

BLUE = re.compile("(supports|against|of) blue")
PIXEL = f"data:image/png;base64,{base64.b64encode(encode(Image.new('RGB', (1, 1)))).decode()}"
OPACITIES = (
    """(canvas) => [...canvas.getContext("2d").getImageData(0, 0, 2, 2).data].filter((value, at) => at % 4 === 3)"""
)
OPAQUE = """(canvas) => canvas.getContext("2d").getImageData(0, 0, 32, 32).data
    .filter((value, at) => at % 4 === 3 && value > 100).length"""


def corner(left: int, top: int) -> bytes:
    """Return a grey image that is green in one corner."""
    image = Image.new("RGB", SIZE, (128, 128, 128))
    ImageDraw.Draw(image).rectangle((left, top, left + 18, top + 16), fill=(20, 200, 20))
    return encode(image)


@pytest.fixture
def asked(served: Page) -> list[str]:
    """What was asked of the server, by its query."""
    queries: list[str] = []
    served.on("request", lambda request: queries.append(request.url) if "/explain" in request.url else None)
    return queries


@pytest.fixture
def explained(served: Page, asked: list[str]) -> Page:
    served.set_input_files("#file", upload(corner(0, 0)))
    expect(served.locator(".predicted")).to_have_text("green")
    assert not asked
    served.get_by_text("Explain the prediction").click()
    expect(served.locator("#where")).to_contain_text("supports green")
    return served


def test_shows_what_the_model_sees_and_what_supports_the_class(explained: Page) -> None:
    assert explained.locator("#pictures img").first.evaluate("(image) => image.naturalWidth") == 32
    assert explained.locator("#heat").evaluate(OPAQUE) > 0
    expect(explained.locator("#where")).to_contain_text(
        "The upper left supports green most: hiding parts of it lowers the probability by up to"
    )
    expect(explained.get_by_role("img", name="upper left")).to_be_visible()
    expect(explained.get_by_text("Red supports this class, blue counts against it.")).to_be_visible()


def test_what_hardly_changes_the_answer_is_not_exaggerated(served: Page) -> None:
    unchanging = {
        "input": PIXEL,
        "explained_class": "green",
        "heat_map": [[0.004, -0.003], [0, 0.001]],
        "success": True,
    }
    served.route("**/explain?*", lambda route: route.fulfill(json=unchanging))
    served.set_input_files("#file", upload())
    served.get_by_text("Explain the prediction").click()
    expect(served.locator("#where")).to_have_text(
        "Hiding any one part changes the probability of green by at most 0.4 percentage points."
    )
    expect(served.get_by_text("Red supports this class")).to_be_hidden()
    assert max(served.locator("#heat").evaluate(OPACITIES)) < 255 / 20


def test_explains_why_it_is_no_other_class(explained: Page, asked: list[str]) -> None:
    explained.get_by_label("Class to explain").select_option("Why not blue?")
    expect(explained.locator("#where")).to_contain_text(BLUE)
    explained.get_by_label("Class to explain").select_option("Why green?")
    expect(explained.locator("#where")).to_contain_text("supports green")
    assert len(asked) == 2  # and not the first one again


def test_stays_open_for_another_image_and_remembers(explained: Page, asked: list[str]) -> None:
    explained.set_input_files("#file", upload(encode(draw("blue", 3))))
    expect(explained.locator("#where")).to_contain_text(BLUE)
    explained.locator("#visit button").first.click()
    expect(explained.locator("#where")).to_contain_text("supports green")
    assert len(asked) == 2


def test_what_is_not_wanted_any_more_is_not_shown(explained: Page) -> None:
    explained.get_by_label("Class to explain").select_option("Why not blue?")
    explained.set_input_files("#file", upload(b"broken"))
    expect(explained.get_by_role("alert")).to_contain_text("cannot be read")
    explained.locator("#visit button").first.click()
    expect(explained.locator("#where")).to_contain_text("supports green")
    expect(explained.get_by_label("Class to explain")).to_have_value("green")


def test_a_failure_is_told_in_its_place_and_mended(explained: Page) -> None:
    explained.context.set_offline(True)
    explained.get_by_label("Class to explain").select_option("Why not blue?")
    expect(explained.locator("#explaining")).to_contain_text("The server cannot be reached")
    expect(explained.locator(".predicted")).to_be_visible()
    explained.context.set_offline(False)
    expect(explained.locator("#where")).to_contain_text(BLUE, timeout=10_000)


def test_why_not_a_class_that_only_the_other_version_has(served: Page) -> None:
    versions = [{"version": "1.0", "default": True}, {"version": "2.0", "default": False}]
    served.route("**/models", lambda route: route.fulfill(json={"models": versions}))
    owl = {
        "predicted_class": "owl",
        "confidence": 1,
        "in_distribution": True,
        "class_probabilities": {"owl": 1},
        "version": "2.0",
        "success": True,
    }
    served.route("**/predict?version=2.0", lambda route: route.fulfill(json=owl))
    served.locator("#compare").select_option("2.0", timeout=10_000)
    served.set_input_files("#file", upload())
    with served.expect_request("**/explain*"):
        served.get_by_text("Explain the prediction").click()
    with served.expect_request(lambda request: "/explain" in request.url and "owl" in request.url) as sent:
        served.locator("#why").select_option("owl")
    assert "version=2.0" in sent.value.url

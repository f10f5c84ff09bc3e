"""axe-core looks at every state of the page, in light and in dark, on a desk and on a phone."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from tests.drawing import draw, encode
from tests.ui.uploads import upload

NOISE = encode(Image.effect_noise((64, 64), 200).convert("RGB"))


def assert_accessible(page: Page) -> None:
    for width in (360, 1100):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page)
            assert not found.violations_count, found.generate_report()


@pytest.mark.usefixtures("second_version")
def test_axe_finds_nothing_in_any_state(served: Page) -> None:
    expect(served.locator("#classes")).to_contain_text("classes")
    assert_accessible(served)

    served.route("**/predict", lambda route: None)
    served.set_input_files("#file", upload())
    expect(served.locator("#waiting")).to_have_text("Predicting…")
    assert_accessible(served)
    served.unroute("**/predict")
    served.reload()

    many = [upload(encode(draw(name, 5)), f"{name}.png") for name in ("green", "red", "blue")]
    served.set_input_files("#file", [*many, upload(NOISE, "noise.png"), upload(b"broken", "broken.png")])
    visit = served.locator("#visit button")
    expect(visit.last).to_contain_text("cannot be read")
    expect(served.locator(".predicted")).to_have_text("green")
    for summary in served.locator("summary:visible").all():
        summary.click()
    expect(served.locator("#where")).to_be_visible()
    assert_accessible(served)

    visit.nth(3).click()
    expect(served.locator(".outlier")).to_be_visible()
    assert_accessible(served)

    visit.last.click()
    expect(served.get_by_role("alert")).to_be_visible()
    assert_accessible(served)

    visit.nth(1).click()
    served.get_by_label("Compare with").select_option("2.0")
    expect(served.locator("#agreement")).to_contain_text("disagree")
    assert_accessible(served)

    served.get_by_role("button", name="Use the camera").click()
    expect(served.locator("#live")).to_be_visible()
    assert_accessible(served)
    served.get_by_role("button", name="Cancel").click()

    served.get_by_role("button", name="Model card").click()
    expect(served.get_by_role("definition").first).to_be_visible()
    assert_accessible(served)
    served.keyboard.press("Escape")

    served.context.set_offline(True)
    served.set_input_files("#file", upload())
    expect(served.locator("#status")).to_have_text("The server is not ready")
    expect(served.get_by_role("alert")).to_contain_text("cannot be reached")
    assert_accessible(served)

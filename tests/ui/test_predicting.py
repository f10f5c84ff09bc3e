"""The queue of images: the page asks again for predictions that it missed."""

from playwright.sync_api import Page, expect

from tests.drawing import draw, encode
from tests.stack import Stack
from tests.ui.uploads import upload


def test_says_that_the_server_is_away_and_asks_again_when_it_is_back(served: Page) -> None:
    expect(served.locator("#status")).to_have_text("Ready: drawn, version 1.0")
    served.context.set_offline(True)
    served.set_input_files("#file", [upload(), upload(encode(draw("blue", 3)))])
    expect(served.get_by_role("alert")).to_contain_text("The server cannot be reached")
    expect(served.get_by_role("alert")).to_contain_text("The page tries again when the server is ready.")
    expect(served.locator("#status")).to_have_text("The server is not ready")
    served.context.set_offline(False)
    expect(served.locator("#status")).to_have_text("Ready: drawn, version 1.0", timeout=10_000)
    expect(served.locator(".predicted")).to_have_text("green")
    expect(served.locator("#visit")).to_contain_text("blue")


def test_asks_again_when_the_model_is_back(served: Page, stack: Stack) -> None:
    stack.torchserve.scale(0)
    try:
        served.set_input_files("#file", upload())
        expect(served.get_by_role("alert")).to_contain_text("The page tries again when the server is ready.")
    finally:
        stack.torchserve.scale(2)  # other tests share it
    expect(served.locator(".predicted")).to_have_text("green", timeout=10_000)

"""Pictures taken with the camera that Chromium draws for tests."""

import pytest
from playwright.sync_api import JSHandle, Page, Route, expect

from tests.stack import Stack
from tests.ui.uploads import upload

INSECURE = "http://classifier.test"  # a browser trusts an address such as this one less than the machine's own
FORBID = "void (navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError')))"


@pytest.fixture
def track(served: Page) -> JSHandle:
    """What the running camera sends."""
    served.get_by_role("button", name="Use the camera").click()
    expect(served.get_by_label("Live picture of the camera")).to_be_visible()
    expect(served.get_by_role("button", name="Take the picture")).to_be_focused()
    return served.locator("#live").evaluate_handle("(video) => video.srcObject.getVideoTracks()[0]")


def assert_ended(page: Page, track: JSHandle) -> None:
    expect(page.get_by_label("Live picture of the camera")).to_be_hidden()
    assert track.evaluate("(track) => track.readyState") == "ended"


def test_a_picture_goes_the_way_of_a_file(served: Page, track: JSHandle) -> None:
    served.keyboard.press("Enter")
    expect(served.locator(".bars li")).to_have_count(10)
    expect(served.locator("#visit")).to_contain_text("camera.jpg")
    expect(served.locator("#preview")).to_be_visible()
    expect(served.get_by_role("button", name="Use the camera")).to_be_focused()
    assert_ended(served, track)


def test_cancel_takes_none(served: Page, track: JSHandle) -> None:
    served.get_by_role("button", name="Cancel").click()
    expect(served.locator("#history")).to_be_hidden()
    assert_ended(served, track)


def test_another_image_ends_it(served: Page, track: JSHandle) -> None:
    served.set_input_files("#file", upload())
    expect(served.locator(".predicted")).to_have_text("green")
    assert_ended(served, track)


def test_says_that_it_may_not_be_used(served: Page) -> None:
    served.evaluate(FORBID)
    served.get_by_role("button", name="Use the camera").click()
    expect(served.get_by_role("alert")).to_have_text("There is no camera, or the browser may not use it.")
    expect(served.get_by_role("button", name="Use the camera")).to_be_visible()


def test_what_needs_a_trusted_address_is_hidden_elsewhere(page: Page, stack: Stack) -> None:
    def fetch(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace(INSECURE, stack.url)))

    page.route(f"{INSECURE}/**", fetch)
    page.goto(INSECURE)
    page.set_input_files("#file", upload())
    expect(page.locator(".predicted")).to_have_text("green")
    page.get_by_text("Ask from a program").click()
    expect(page.locator("#curl")).to_be_visible()
    for name in ("Use the camera", "Copy as curl"):
        expect(page.get_by_role("button", name=name)).to_be_hidden()

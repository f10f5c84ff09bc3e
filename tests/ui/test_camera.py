"""Pictures taken with the camera that Chromium draws for tests."""

import pytest
from playwright.sync_api import JSHandle, Page, Route, expect

from tests.stack import Stack
from tests.ui.uploads import upload

INSECURE = "http://classifier.test"  # a browser trusts an address such as this one less than the machine's own
FORBID = "void (navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError')))"

CAMERA = "live.srcObject?.getVideoTracks()[0].getSettings().deviceId"
ONE_CAMERA = """void (navigator.mediaDevices.enumerateDevices = () =>
    Promise.resolve([{ kind: "videoinput", deviceId: "" }, { kind: "audioinput", deviceId: "" }]))"""


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


def test_it_is_a_phones_back_camera(track: JSHandle) -> None:
    assert track.evaluate("(track) => track.getConstraints().facingMode") == "environment"


def test_switches_to_the_other_camera_and_stays_there(served: Page, track: JSHandle) -> None:
    first = served.evaluate(CAMERA)
    served.get_by_role("button", name="Switch camera").click()
    second = served.wait_for_function(f"(first) => {CAMERA} !== first && {CAMERA}", arg=first).json_value()
    expect(served.get_by_role("button", name="Switch camera")).to_be_focused()
    assert track.evaluate("(track) => track.readyState") == "ended"  # a phone runs one at once
    served.get_by_role("button", name="Take the picture").click()
    expect(served.locator(".bars li")).to_have_count(10)
    served.get_by_role("button", name="Use the camera").click()
    expect(served.get_by_role("button", name="Take the picture")).to_be_focused()
    assert served.evaluate(CAMERA) == second
    served.get_by_role("button", name="Switch camera").click()
    served.wait_for_function(f"(first) => {CAMERA} === first", arg=first)


def test_one_camera_needs_no_switch(served: Page) -> None:
    served.evaluate(ONE_CAMERA)
    served.get_by_role("button", name="Use the camera").click()
    expect(served.get_by_role("button", name="Take the picture")).to_be_focused()
    expect(served.get_by_role("button", name="Switch camera")).to_be_hidden()


def test_no_picture_is_no_file(served: Page, track: JSHandle) -> None:
    served.evaluate("void (HTMLCanvasElement.prototype.toBlob = (take) => take(null))")
    served.get_by_role("button", name="Take the picture").click()
    expect(served.get_by_role("alert")).to_have_text("The camera gave no picture. Try again.")
    expect(served.locator("#history")).to_be_hidden()
    assert_ended(served, track)


def test_another_image_ends_it(served: Page, track: JSHandle) -> None:
    served.set_input_files("#file", upload())
    expect(served.locator(".predicted")).to_have_text("green")
    assert_ended(served, track)


def test_says_that_it_may_not_be_used(served: Page) -> None:
    served.evaluate(FORBID)
    served.get_by_role("button", name="Use the camera").click()
    expect(served.get_by_role("alert")).to_have_text(
        "There is no camera, or the browser may not use it. Connect one, or allow it in the browser."
    )
    expect(served.get_by_role("button", name="Use the camera")).to_be_visible()


def test_what_needs_a_trusted_address_is_hidden_elsewhere(page: Page, stack: Stack) -> None:
    def fetch(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace(INSECURE, stack.url)))

    page.route(f"{INSECURE}/**", fetch)
    page.goto(INSECURE)
    page.set_input_files("#file", upload())
    expect(page.locator(".predicted")).to_have_text("green")
    page.get_by_text("Predict from a program").click()
    expect(page.locator("#curl")).to_be_visible()
    for name in ("Use the camera", "Copy as curl"):
        expect(page.get_by_role("button", name=name)).to_be_hidden()

"""The queue of images: the page asks again for predictions that it missed."""

import re
from collections import Counter

import pytest
from playwright.sync_api import Page, Route, expect

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


@pytest.mark.parametrize("status", [429, 502])
def test_asks_again_when_a_proxy_had_no_answer(served: Page, status: int) -> None:
    refusals = iter(["<html>Try later.</html>", '{"message": "Try later."}'])

    def refuse(route: Route) -> None:
        if body := next(refusals, None):
            route.fulfill(status=status, body=body)
        else:
            route.fallback()

    served.route("**/predict", refuse)
    served.set_input_files("#file", [upload(), upload(encode(draw("blue", 3)))])
    expect(served.get_by_role("alert")).to_have_text(
        f"A proxy answered instead of the server (status {status}). The page tries again when the server is ready."
    )
    expect(served.locator(".predicted")).to_have_text("green", timeout=10_000)
    expect(served.locator("#visit")).to_contain_text("blue")


def test_of_two_versions_only_the_lost_one_is_asked_again_and_what_is_typed_stays(served: Page) -> None:
    versions = [{"version": "1.0", "default": True}, {"version": "2.0", "default": False}]
    served.route("**/models", lambda route: route.fulfill(json={"models": versions}))
    busy = {"error": "Too many images are waiting.", "success": False}
    asked = Counter[str]()

    def answer(route: Route) -> None:
        version = "2.0" if "version" in route.request.url else "1.0"
        asked[version] += 1
        if version == "1.0" or asked["2.0"] == 3:
            route.continue_(url=route.request.url.partition("?")[0])
        else:
            route.fulfill(status=503, json=busy)

    served.route(re.compile("/predict"), answer)
    served.locator("#compare").select_option("2.0", timeout=10_000)
    served.set_input_files("#file", upload())
    expect(served.locator("#agreement")).to_have_text("One version did not answer.")
    served.locator("#right").evaluate("field => field.value = 'owl'")
    served.wait_for_timeout(6000)  # in which the page has asked again
    assert asked["2.0"] == 2
    assert served.locator("#right").evaluate("field => field.value") == "owl"
    expect(served.locator("#agreement")).to_contain_text("The versions agree", timeout=10_000)
    assert asked == {"1.0": 1, "2.0": 3}


def test_an_error_stays_on_show_while_the_page_asks_again(served: Page) -> None:
    busy = {"error": "Too many images are waiting.", "success": False}
    asked = 0

    def refuse(route: Route) -> None:
        nonlocal asked
        asked += 1
        route.fulfill(status=503, json=busy)

    served.route("**/predict", refuse)
    served.set_input_files("#file", upload())
    expect(served.get_by_role("alert")).to_contain_text("Too many images are waiting.")
    served.evaluate(
        "new MutationObserver((seen) => (window.changes = seen.length))"
        ".observe(document.getElementById('error'), { childList: true, attributes: true })"
    )
    for _ in range(60):
        if asked < 3:  # so that the second answer is there
            served.wait_for_timeout(500)
    assert asked >= 3
    assert served.evaluate("window.changes ?? 0") == 0  # a screen reader would repeat it


@pytest.mark.parametrize(("times", "ends"), [(2, "green"), (100, "It takes too long.")])
def test_asks_a_few_times_for_an_image_that_took_too_long(served: Page, times: int, ends: str) -> None:
    asked = 0

    def answer(route: Route) -> None:
        nonlocal asked
        asked += 1
        if asked <= times:
            route.fulfill(status=504, json={"error": "It takes too long.", "success": False})
        else:
            route.fallback()

    served.route("**/predict", answer)
    served.set_input_files("#file", upload())
    expect(served.get_by_role("alert")).to_contain_text("The page tries again when the server is ready.")
    shown = served.locator(".predicted") if ends == "green" else served.get_by_role("alert")
    expect(shown).to_have_text(ends, timeout=25_000)
    assert asked == min(times + 1, 4)

"""The whole page in a real Chromium, served by the real product, and opened from disk."""

import shutil
from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.stack import ROOT, Stack
from tests.ui.uploads import upload

OPEN_DETAILS = "document.querySelectorAll('details').forEach((details) => (details.open = true))"
NOT_REACHED = """[...document.querySelectorAll("a, button, input, select, summary")]
    .filter((control) => control.checkVisibility() && !control.dataset.reached).map((control) => control.outerHTML)"""


def global_names(page: Page) -> set[str]:
    """Return the names of all globals: properties of the window, and those declared by `const`, `let` and `class`."""
    lexical = page.context.new_cdp_session(page).send("Runtime.globalLexicalScopeNames")["names"]
    return {*lexical, *page.evaluate("Object.keys(window)")}


def test_its_scripts_share_one_global_name(page: Page, stack: Stack) -> None:
    def blank(route: Route) -> None:
        route.fulfill(body="<!doctype html>", content_type="text/html")

    page.route("**/blank", blank)
    page.goto(f"{stack.url}/blank")
    browsers_own = global_names(page)
    page.goto(stack.url)
    expect(page.locator("#classes")).to_contain_text("classes")
    assert global_names(page) - browsers_own == {"page"}


def test_loads_nothing_from_elsewhere(page: Page, stack: Stack) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    for path in ("/", "/swagger/"):
        page.goto(stack.url + path)
        page.wait_for_load_state("networkidle")
    assert len(requests) > 8
    assert not [url for url in requests if not url.startswith((stack.url, "data:", "blob:"))]


def test_works_with_the_keyboard_alone(with_examples: Page) -> None:
    served = with_examples
    served.keyboard.press("Tab")
    assert served.evaluate("document.activeElement.id") == "file"
    while not served.evaluate("document.activeElement.closest('#examples')"):
        served.keyboard.press("Tab")
    served.keyboard.press("Enter")
    expect(served.locator(".bars li")).to_have_count(10)
    served.evaluate(OPEN_DETAILS)
    served.locator("#file").focus()
    for _ in range(40):
        served.evaluate("document.activeElement.dataset.reached = true")
        served.keyboard.press("Tab")
    assert served.evaluate(NOT_REACHED) == []


def test_works_from_disk(page: Page, stack: Stack, tmp_path: Path) -> None:
    # The page looks for the gateway where it listens by default; this one listens on a free port.
    shutil.copytree(ROOT / "ui", tmp_path, dirs_exist_ok=True)
    script = (tmp_path / "script.js").read_text()
    assert "http://localhost:5001" in script
    (tmp_path / "script.js").write_text(script.replace("http://localhost:5001", stack.url))

    page.goto((tmp_path / "UI.html").as_uri())
    page.set_input_files("#file", upload())

    expect(page.locator(".predicted")).to_have_text("green")
    expect(page.locator("#status")).to_have_text("Ready: drawn, version 1.0")


def test_fits_a_phone(served: Page) -> None:
    served.set_viewport_size({"width": 360, "height": 700})
    served.set_input_files("#file", upload())
    expect(served.locator(".predicted")).to_have_text("green")
    assert served.evaluate("document.documentElement.scrollWidth") <= 360

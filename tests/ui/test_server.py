"""The state of the server, as the page shows it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from gateway.keys import add_client
from tests.fake_backend import serving
from tests.stack import Stack
from tests.ui.test_accessibility import assert_accessible
from tests.ui.test_programs import RUN
from tests.ui.uploads import PICTURE, upload


def test_the_status_is_always_in_sight(served: Page) -> None:
    served.set_viewport_size({"width": 360, "height": 500})
    served.set_input_files("#file", upload())
    expect(served.locator(".predicted")).to_have_text("green")
    served.get_by_text("API documentation").scroll_into_view_if_needed()
    expect(served.locator("#status")).to_be_in_viewport()


def test_a_page_that_nobody_sees_asks_nothing_until_it_is_seen(page: Page) -> None:
    """Without this, each open tab writes three lines into the server's log every five seconds."""
    with serving() as url:
        page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => window.unseen ?? false })")
        page.goto(url)
        expect(page.locator("#status")).to_contain_text("Ready")
        page.evaluate("window.unseen = true")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(6000)
        assert not asked
        with page.expect_request(f"{url}/health"):
            page.evaluate("window.unseen = false; document.dispatchEvent(new Event('visibilitychange'))")


@pytest.fixture
def locked(page: Page, tmp_path: Path) -> Iterator[tuple[Page, Path]]:
    """The page of a gateway that asks for a key, and its file of keys."""
    keys = tmp_path / "keys"
    add_client(keys, "ann")
    with serving(API_KEYS_FILE=str(keys)) as url:
        page.goto(url)
        yield page, keys


def test_asks_for_a_key_and_keeps_it_for_the_visit(locked: tuple[Page, Path]) -> None:
    page, keys = locked
    expect(page.locator("#status")).to_have_text("The server asks for an API key")
    assert_accessible(page)
    page.set_input_files("#file", upload())
    expect(page.locator("#error")).to_contain_text("Send your API key")
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Use the key").click()
    expect(page.locator("#status")).to_have_text("The server does not take this key")
    page.get_by_label("API key").fill(f" {add_client(keys, 'bo')} ")
    page.get_by_label("API key").press("Enter")
    expect(page.locator("#status")).to_have_text("Ready: fake, version 1.0")
    expect(page.get_by_label("API key")).to_be_hidden()
    expect(page.locator(".predicted")).to_have_text("cat")
    page.reload()
    expect(page.locator("#status")).to_have_text("Ready: fake, version 1.0")
    page.set_input_files("#file", upload())
    expect(page.locator(".predicted")).to_have_text("cat")
    keys.write_text("")
    expect(page.locator("#status")).to_have_text("The server does not take this key", timeout=10_000)


@pytest.mark.parametrize("name", RUN)
def test_programs_take_the_key_from_the_environment(
    locked: tuple[Page, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, keys = locked
    key = add_client(keys, "bo")
    page.get_by_label("API key").fill(key)
    page.get_by_label("API key").press("Enter")
    (tmp_path / "image.png").write_bytes(PICTURE)
    page.set_input_files("#file", tmp_path / "image.png")
    expect(page.locator(".predicted")).to_have_text("cat")
    code = page.locator(f"#{name.lower()}").text_content() or ""
    assert key not in page.content()
    monkeypatch.setenv("CLASSIFIER_KEY", key)
    done = subprocess.run([*RUN[name], code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "cat" in done.stdout, done.stderr


def test_a_server_that_does_not_answer_is_not_called_ready(page: Page, stack: Stack) -> None:
    page.add_init_script(
        "const within = AbortSignal.timeout; AbortSignal.timeout = (time) => within.call(AbortSignal, time / 20)"
    )
    page.goto(stack.url)
    expect(page.locator("#status")).to_have_text("Ready: drawn, version 1.0", timeout=15_000)
    page.route("**/health", lambda route: None)  # nothing answers
    expect(page.locator("#status")).to_have_text("The server is not ready", timeout=15_000)
    page.unroute("**/health")
    expect(page.locator("#status")).to_have_text("Ready: drawn, version 1.0", timeout=15_000)

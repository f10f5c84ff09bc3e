"""The state of the server, as the page shows it."""

from playwright.sync_api import Page, expect

from tests.ui.uploads import upload


def test_the_status_is_always_in_sight(served: Page) -> None:
    served.set_viewport_size({"width": 360, "height": 500})
    served.set_input_files("#file", upload())
    expect(served.locator(".predicted")).to_have_text("green")
    served.get_by_text("API documentation").scroll_into_view_if_needed()
    expect(served.locator("#status")).to_be_in_viewport()

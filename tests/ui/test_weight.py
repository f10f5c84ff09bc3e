"""What the page weighs, and how soon it can be used."""

from playwright.sync_api import Browser, Page

from tests.stack import Stack

MAX_BYTES = 100_000
MAX_MILLISECONDS = 200
LOADS = 5
WEIGHT = """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter(({ initiatorType }) => initiatorType !== "fetch")
    .map(({ name, decodedBodySize }) => [name, decodedBodySize])"""
INTERACTIVE = "performance.getEntriesByType('navigation')[0].domInteractive"


def test_the_whole_page_is_light(served: Page) -> None:
    served.wait_for_load_state("networkidle")
    weights = dict(served.evaluate(WEIGHT))
    assert {name.rpartition("/")[2] for name in weights} >= {"", "style.css", "script.js", "truck.jpg"}
    assert all(weights.values())
    assert sum(weights.values()) < MAX_BYTES


def test_it_is_soon_interactive(browser: Browser, stack: Stack) -> None:
    loads = []
    for _ in range(LOADS):
        context = browser.new_context()  # with an empty cache
        page = context.new_page()
        page.goto(f"{stack.url}/live")  # as the start of a browser's process is none of the page's
        page.goto(stack.url)
        loads.append(page.evaluate(INTERACTIVE))
        context.close()
    assert min(loads) < MAX_MILLISECONDS  # as other work on the machine only adds

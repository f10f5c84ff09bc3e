"""The page and Swagger below a path of a proxy, which takes that path away before it asks the gateway."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.stack import Stack
from tests.ui.uploads import PICTURE, upload

PATH = "/classifier"


@pytest.fixture(scope="module")
def proxy(stack: Stack) -> Iterator[tuple[str, list[str]]]:
    """The gateway's address below the path, and the addresses beside it that somebody asked for."""
    beside: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            address = urlsplit(self.path)
            if address.path != PATH and not address.path.startswith(f"{PATH}/"):
                beside.append(self.path)
                self.send_error(404)
                return
            gateway = http.client.HTTPConnection(urlsplit(stack.url).netloc)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.removeprefix(PATH)
            gateway.request(self.command, path if path.startswith("/") else f"/{path}", body, dict(self.headers))
            reply = gateway.getresponse()
            content = reply.read()
            self.send_response(reply.status)
            for name in ("Content-Type", "Location"):
                if value := reply.getheader(name):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the page was left meanwhile
                self.wfile.write(content)
            gateway.close()

        do_GET = do_POST = pass_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{PATH}", beside
        server.shutdown()


@pytest.mark.parametrize("end", ["/", "/?from=portal"])
def test_the_page_works_below_a_path(page: Page, proxy: tuple[str, list[str]], end: str) -> None:
    url, beside = proxy
    beside.clear()  # of other tests
    page.goto(url + end)
    page.set_input_files("#file", upload())
    expect(page.locator(".predicted")).to_have_text("green")
    expect(page.locator("#status")).to_have_text("Ready: drawn, version 1.0")
    expect(page.locator("#classes")).to_contain_text("10 classes")
    page.get_by_text("Explain the prediction").click()
    expect(page.locator("#where")).to_be_visible()
    expect(page.locator("#curl")).to_contain_text(f"'{url}/predict'")
    page.get_by_role("button", name="Model card").click()
    expect(page.get_by_role("definition").first).to_be_visible()
    for selector, path in {"#model": "/model", "#swagger": "/swagger/"}.items():
        assert page.locator(selector).evaluate("(link) => link.href") == url + path
    assert beside == []


def test_a_slash_is_added_where_it_is_missing(page: Page, proxy: tuple[str, list[str]]) -> None:
    url, _ = proxy
    page.goto(f"{url}?from=portal")
    page.wait_for_url(f"{url}/?from=portal")
    expect(page.locator("#status")).to_have_text("Ready: drawn, version 1.0")


def test_swagger_works_below_a_path(page: Page, proxy: tuple[str, list[str]]) -> None:
    url, _ = proxy
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{url}/swagger")
    page.wait_for_url(f"{url}/swagger/")
    operation = page.locator("#operations-prediction-predict")
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.locator("input[type=file]").set_input_files(upload(PICTURE))
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table").first).to_contain_text('"predicted_class": "green"')
    expect(operation.locator(".request-url")).to_contain_text(f"{url}/predict")
    assert not [address for address in requests if not address.startswith((url, "data:"))]

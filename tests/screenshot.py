"""Take the pictures of the page that the documentation shows: `make screenshot` serves the released model for it."""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.browser import CHROMIUM_OPTIONS
from tests.stack import ROOT, serve


def main(archive: Path, picture: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(archive, Path(folder)) as stack,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_OPTIONS)
        page = browser.new_page(viewport={"width": 1040, "height": 720})
        page.goto(stack.url)
        page.get_by_role("button", name="Airplane").click()
        expect(page.locator("#predicted")).to_have_text("airplane")
        expect(page.locator("#classes")).to_contain_text("classes")
        page.wait_for_timeout(200)  # until the preview is painted
        page.screenshot(path=picture, full_page=True)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), ROOT / "docs" / "page.png")

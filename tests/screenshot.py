"""Take the pictures of the page that the documentation shows: `make screenshot` serves the models for it.

They are the released ones, and the network that knows ImageNet. Its photo is scikit-image's `coffee`, which Rachel
Michetti gave to everyone (CC0).
"""

import io
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import skimage
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect, sync_playwright

from scripts.serving.defaults import EMBEDDED
from tests.browser import CHROMIUM, CHROMIUM_OPTIONS
from tests.drawing import encode
from tests.stack import ROOT, Stack, serve
from training.archive import archive, archive_of
from training.checkpoint import load_checkpoint
from training.commands import MODEL
from training.imagenet import imagenet
from training.pretrained import IMAGENET, PACKAGED, PREFIX

DOCS = ROOT / "docs"
DESK, PHONE = {"width": 1040, "height": 720}, {"width": 390, "height": 720}
OTHER = ROOT / "model_store" / "cifar10_cnn.pth"  # to compare with
COFFEE = Path(skimage.__file__).parent / "data" / "coffee.png"
EXAMPLES = sorted((ROOT / "ui" / "examples").glob("*.jpg"))


def airplane(page: Page) -> None:
    page.get_by_role("button", name="Airplane").click()
    expect(page.locator(".predicted")).to_have_text("airplane")


def many(page: Page) -> None:
    page.set_input_files("#file", EXAMPLES)
    expect(page.locator("#visit .summary").last).to_contain_text("%")


def outlier(page: Page) -> None:
    noise = encode(Image.frombytes("RGB", (32, 32), random.Random(0).randbytes(3 * 32 * 32)))
    page.set_input_files("#file", FilePayload(name="noise.png", mimeType="image/png", buffer=noise))
    expect(page.locator(".outlier")).to_be_visible()


def error(page: Page) -> None:
    page.set_input_files("#file", FilePayload(name="broken.png", mimeType="image/png", buffer=b"broken"))
    expect(page.get_by_role("alert")).to_be_visible()


def compare(page: Page) -> None:
    outlier(page)
    page.get_by_label("Compare with").select_option("2.0")
    expect(page.locator(".column")).to_have_count(2)


def photo(page: Page) -> None:
    page.set_input_files("#file", COFFEE)
    expect(page.locator(".predicted")).to_have_text("espresso", timeout=20_000)
    show_explanation(page)


def explain(page: Page) -> None:
    airplane(page)
    show_explanation(page)


def show_explanation(page: Page) -> None:
    page.get_by_text("Explain the prediction").click()
    expect(page.locator("#where")).to_be_visible(timeout=20_000)


def shoot(browser: Browser, stack: Stack, path: Path, act: Callable[[Page], None], **look: Any) -> None:
    page = browser.new_page(**({"viewport": DESK} | look))
    page.goto(stack.url)
    expect(page.locator("#classes")).to_contain_text("classes")
    act(page)
    keep(page, path)
    page.close()


def keep(page: Page, path: Path) -> None:
    page.wait_for_timeout(200)  # until the images are painted
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    picture.convert("RGB").quantize(256, kmeans=3).save(path, optimize=True)  # a third of the bytes; rare colours stay


def main(released: Path) -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        (folder / "store").mkdir()
        for file in (released, released.with_name(f"{released.name}.sha256")):
            shutil.copy(file, folder / "store")
        archive(load_checkpoint(OTHER), folder / "store" / "other.mar", "2.0")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        (DOCS / "pages").mkdir(exist_ok=True)
        with serve(folder / "store" / released.name, folder) as stack:
            shoot(browser, stack, DOCS / "page.png", airplane)
            for act in (many, outlier, error, explain):
                shoot(browser, stack, DOCS / "pages" / f"{act.__name__}.png", act)
            shoot(browser, stack, DOCS / "pages" / "dark.png", airplane, color_scheme="dark")
            shoot(browser, stack, DOCS / "pages" / "phone.png", airplane, viewport=PHONE)
            stack.torchserve.register("other.mar")
            shoot(browser, stack, DOCS / "pages" / "compare.png", compare)
        archive(imagenet(f"{PREFIX}{PACKAGED}", IMAGENET, "imagenet"), folder / "photo" / "imagenet.mar", "1.0")
        with serve(folder / "photo" / "imagenet.mar", folder / "photo", backend=EMBEDDED) as stack:
            shoot(browser, stack, DOCS / "photo.png", photo)
        browser.close()


if __name__ == "__main__":
    main(archive_of(MODEL.convert(sys.argv[1], None, None)))

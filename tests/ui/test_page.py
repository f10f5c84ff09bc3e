"""The page in a real Chromium, served by the real product, and opened from disk."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.drawing import TEN, draw, encode
from tests.stack import ROOT, Stack

PICTURE = encode(draw("green", 11))

DROP = """([name, type, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, { type }));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
}"""
PASTE = """([name, type, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, { type }));
    document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
}"""


def file(content: bytes, name: str = "picture.png", kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": content}


@pytest.fixture
def served(page: Page, stack: Stack) -> Page:
    page.goto(stack.url)
    return page


def test_shows_class_confidence_and_sorted_bars(served: Page) -> None:
    served.set_input_files("#file", file(PICTURE))

    expect(served.locator("#predicted")).to_have_text("green")
    expect(served.locator("#confidence")).to_have_text(re.compile(r"^\d+\.\d % confidence$"))
    expect(served.locator("#bars li")).to_have_count(10)
    values = [float(text.split()[0]) for text in served.locator("#bars .value").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert sorted(served.locator("#bars .name").all_inner_texts()) == sorted(TEN)
    widths = served.locator("#bars .bar").evaluate_all("bars => bars.map((bar) => bar.offsetWidth)")
    assert widths == sorted(widths, reverse=True)
    heights = served.locator("#bars li").evaluate_all("rows => rows.map((row) => row.offsetHeight)")
    assert len(set(heights)) == 1
    expect(served.locator("#preview")).to_be_visible()


@pytest.mark.parametrize("gesture", [DROP, PASTE], ids=["drop", "paste"])
def test_takes_a_dropped_or_pasted_image(served: Page, gesture: str) -> None:
    served.evaluate(gesture, ["picture.png", "image/png", list(PICTURE)])
    expect(served.locator("#predicted")).to_have_text("green")


def test_warns_of_an_image_unlike_the_training_images(served: Page) -> None:
    served.set_input_files("#file", file(PICTURE))
    expect(served.locator("#bars li")).to_have_count(10)
    expect(served.locator("#unfamiliar")).to_be_hidden()
    served.set_input_files("#file", file(encode(Image.effect_noise((64, 64), 200).convert("RGB"))))
    expect(served.locator("#unfamiliar")).to_contain_text("unlike those the model was trained on")


def test_an_example_is_a_click_away(served: Page) -> None:
    served.get_by_role("button", name="Ship").click()
    expect(served.locator("#bars li")).to_have_count(10)


@pytest.mark.parametrize(
    ("upload", "sentence"),
    [
        (file(b"text", "notes.txt", "text/plain"), "This is not a JPG, PNG or GIF image."),
        (file(b"", "empty.png"), "This file is empty."),
        (file(bytes(10 * 1024 * 1024 + 1)), "This image is larger than 10 MB."),
    ],
    ids=["type", "empty", "size"],
)
def test_tells_before_sending_what_cannot_be_sent(served: Page, upload: FilePayload, sentence: str) -> None:
    requests: list[str] = []
    served.on("request", lambda request: requests.append(request.url))
    served.set_input_files("#file", upload)
    expect(served.get_by_role("alert")).to_have_text(sentence)
    assert not [url for url in requests if url.endswith("/predict")]


def test_says_that_an_image_is_bad(served: Page) -> None:
    served.set_input_files("#file", file(b"broken"))
    expect(served.get_by_role("alert")).to_contain_text("cannot be read")
    served.set_input_files("#file", file(PICTURE))
    expect(served.get_by_role("alert")).to_be_hidden()
    expect(served.locator("#predicted")).to_have_text("green")


def test_says_that_the_gateway_is_down_and_finds_it_again(served: Page) -> None:
    expect(served.locator("#status")).to_have_text("Ready: drawn, version 1.0")
    served.context.set_offline(True)
    served.set_input_files("#file", file(PICTURE))
    expect(served.get_by_role("alert")).to_contain_text("The server cannot be reached")
    expect(served.locator("#status")).to_have_text("The server is not ready")
    served.context.set_offline(False)
    expect(served.locator("#status")).to_have_text("Ready: drawn, version 1.0", timeout=10_000)


def test_loads_nothing_from_elsewhere(page: Page, stack: Stack) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    for path in ("/", "/swagger/"):
        page.goto(stack.url + path)
        page.wait_for_load_state("networkidle")
    assert len(requests) > 8
    assert not [url for url in requests if not url.startswith((stack.url, "data:", "blob:"))]


def test_works_with_the_keyboard_alone(served: Page) -> None:
    served.keyboard.press("Tab")
    assert served.evaluate("document.activeElement.id") == "file"
    served.keyboard.press("Tab")
    served.keyboard.press("Enter")
    expect(served.locator("#bars li")).to_have_count(10)


def test_works_from_disk(page: Page, stack: Stack, tmp_path: Path) -> None:
    # The page looks for the gateway where it listens by default; this one listens on a free port.
    for name in ("UI.html", "style.css"):
        (tmp_path / name).write_bytes((ROOT / "ui" / name).read_bytes())
    script = (ROOT / "ui" / "script.js").read_text()
    assert "http://localhost:5001" in script
    (tmp_path / "script.js").write_text(script.replace("http://localhost:5001", stack.url))

    page.goto((tmp_path / "UI.html").as_uri())
    page.set_input_files("#file", file(PICTURE))

    expect(page.locator("#predicted")).to_have_text("green")
    expect(page.locator("#status")).to_have_text("Ready: drawn, version 1.0")


def test_fits_a_phone(served: Page) -> None:
    served.set_viewport_size({"width": 360, "height": 700})
    served.set_input_files("#file", file(PICTURE))
    expect(served.locator("#predicted")).to_have_text("green")
    assert served.evaluate("document.documentElement.scrollWidth") <= 360


def test_takes_many_images_and_remembers_them(served: Page, tmp_path: Path) -> None:
    names = ["green", "red", "blue", "red"]
    uploads = [file(encode(draw(name, 5)), f"{number} {name}.png") for number, name in enumerate(names)]
    served.set_input_files("#file", [*uploads, file(b"broken", "broken.png")])
    visit = served.locator("#visit button")
    expect(visit).to_have_count(5)
    for index, name in enumerate(names):
        expect(visit.nth(index)).to_contain_text(re.compile(rf"{name} \d+\.\d %"))
    expect(visit.nth(4)).to_contain_text("cannot be read")
    expect(served.locator("#predicted")).to_have_text("green")
    visit.nth(2).click()
    expect(served.locator("#predicted")).to_have_text("blue")
    expect(visit.nth(2)).to_have_attribute("aria-current", "true")
    expect(visit.nth(2)).to_be_focused()
    visit.nth(4).click()
    expect(served.get_by_role("alert")).to_contain_text("cannot be read")

    with served.expect_download() as download:
        served.get_by_role("button", name="Save as CSV").click()
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert [row["predicted_class"] for row in rows] == [*names, ""]
    assert float(rows[0]["probability_green"]) == float(rows[0]["confidence"])
    assert "cannot be read" in rows[4]["error"]
    with served.expect_download() as download:
        served.get_by_role("button", name="Save as JSON").click()
    assert [row.get("predicted_class") for row in json.loads(download.value.path().read_text())] == [*names, None]


def test_shows_how_to_ask_from_a_program(served: Page, stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "it's green.png").write_bytes(PICTURE)
    served.set_input_files("#file", tmp_path / "it's green.png")
    served.get_by_text("Ask from a program").click()
    served.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for name, command in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
        served.get_by_role("button", name=f"Copy as {name}").click()
        expect(served.get_by_role("button", name="Copied").first).to_be_visible()
        code = served.evaluate("navigator.clipboard.readText()")
        done = subprocess.run([*command, code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert "green" in done.stdout, done.stderr
    expect(served.locator("#spent")).to_have_text(re.compile(r"^Version 1\.0 answered within \d+ ms\.$"))

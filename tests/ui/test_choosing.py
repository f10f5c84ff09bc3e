"""Images that are chosen, dropped or pasted, folders of them, and the examples."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.drawing import draw, encode
from tests.ui.uploads import PICTURE, upload

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
DROP_TEXT = """(kind) => {
    const data = new DataTransfer();
    data.setData(kind, "https://example.org/owl.jpg");
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
}"""
PASTE_TEXT = DROP_TEXT.replace(
    'DragEvent("drop", { dataTransfer: data', 'ClipboardEvent("paste", { clipboardData: data'
)


def drop_paths(page: Page, *paths: Path) -> None:
    """Drop files or folders of the disk onto the page, as a person does with a mouse."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})


@pytest.mark.parametrize("gesture", [DROP, PASTE], ids=["drop", "paste"])
def test_takes_a_dropped_or_pasted_image(served: Page, gesture: str) -> None:
    served.evaluate(gesture, ["picture.png", "image/png", list(PICTURE)])
    expect(served.locator(".predicted")).to_have_text("green")


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_heic_photo_is_for_the_server_to_read(served: Page, tmp_path: Path, place: str) -> None:
    import pillow_heif

    photos = tmp_path / "phone"
    photos.mkdir()
    pillow_heif.from_pillow(draw("green", 11)).save(photos / "IMG_1.HEIC", quality=100)
    drop_paths(served, photos if place == "folder" else photos / "IMG_1.HEIC")
    expect(served.locator(".predicted")).to_have_text("green")
    expect(served.locator("#preview")).to_be_hidden()  # Chromium cannot show it, but the model's view is a PNG
    served.get_by_text("Explain the prediction").click()
    expect(served.get_by_alt_text("The image as the model sees it")).to_be_visible()
    (photos / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    drop_paths(served, photos)
    expect(served.locator("#error")).to_have_text(
        "The file cannot be read as a JPEG, PNG, GIF or WebP; it may be damaged."
    )


def test_an_example_of_a_class_of_the_model_is_a_click_away(with_examples: Page) -> None:
    expect(with_examples.locator("#examples").get_by_role("button")).to_have_count(2)
    with_examples.get_by_role("button", name="Ship").click()
    expect(with_examples.locator(".bars li")).to_have_count(10)


def test_a_model_with_other_classes_has_no_examples(served: Page) -> None:
    expect(served.locator("#classes")).to_contain_text("10 classes")
    expect(served.get_by_text("Or try one of these")).to_be_hidden()


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (upload(b"text", "notes.txt", "text/plain"), "This is not a JPG, PNG, GIF or WebP image. Choose another file."),
        (upload(b"", "empty.png"), "This file is empty. Choose another one."),
        (upload(bytes(10 * 1024 * 1024 + 1)), "This image is larger than 10 MB. Choose a smaller one."),
    ],
    ids=["type", "empty", "size"],
)
def test_tells_before_sending_what_cannot_be_sent(served: Page, refused: FilePayload, sentence: str) -> None:
    requests: list[str] = []
    served.on("request", lambda request: requests.append(request.url))
    served.set_input_files("#file", refused)
    expect(served.get_by_role("alert")).to_have_text(sentence)
    assert not [url for url in requests if url.endswith("/predict")]


@pytest.mark.parametrize(
    ("name", "kind"), [("photo.jfif", ""), ("photo", ""), ("photo.jpg", "application/octet-stream")]
)
def test_sends_an_image_whose_type_the_browser_does_not_know(served: Page, name: str, kind: str) -> None:
    served.evaluate(DROP, [name, kind, list(encode(draw("green", 11), "JPEG"))])
    expect(served.locator(".predicted")).to_have_text("green")


def test_the_server_says_of_an_image_of_another_format_what_it_is(served: Page) -> None:
    served.evaluate(DROP, ["photo.tif", "image/tiff", list(encode(draw("green", 11), "TIFF"))])
    expect(served.get_by_role("alert")).to_contain_text("JPEG")


@pytest.mark.parametrize("gesture", [DROP_TEXT, PASTE_TEXT], ids=["drop", "paste"])
def test_text_or_a_link_keeps_the_result_on_show(served: Page, gesture: str) -> None:
    served.set_input_files("#file", upload())
    expect(served.locator(".predicted")).to_have_text("green")
    for kind in ("text/plain", "text/uri-list"):
        served.evaluate(gesture, kind)
        expect(served.get_by_role("alert")).to_contain_text(re.compile("No file was dropped|You pasted no image"))
        expect(served.locator(".predicted")).to_be_visible()
        expect(served.locator("#preview")).to_be_visible()
        expect(served.locator("#visit button")).to_have_attribute("aria-current", "true")
    served.set_input_files("#file", upload(encode(draw("blue", 3))))
    expect(served.locator(".predicted")).to_have_text("blue")
    expect(served.get_by_role("alert")).to_be_hidden()


def test_takes_the_images_of_a_dropped_folder(served: Page, tmp_path: Path) -> None:
    (tmp_path / "owls" / "of 2026").mkdir(parents=True)
    (tmp_path / "owls" / "@eaDir").mkdir()
    for number in (2, 10):
        (tmp_path / "owls" / f"{number}.jfif").write_bytes(encode(draw("green", number), "JPEG"))
    (tmp_path / "owls" / "of 2026" / "red.png").write_bytes(encode(draw("red", 1)))
    for leaving in ("._2.jpg", ".DS_Store", "notes.txt", "@eaDir/thumb.jpg"):
        (tmp_path / "owls" / leaving).write_bytes(b"none")
    drop_paths(served, tmp_path / "owls")
    expect(served.locator("#visit .name")).to_have_text(["2.jfif", "10.jfif", "red.png"])
    expect(served.locator("#visit .summary")).to_have_text(
        [re.compile("green"), re.compile("green"), re.compile("red")]
    )


def test_a_dropped_folder_without_images_keeps_the_result_on_show(served: Page, tmp_path: Path) -> None:
    served.set_input_files("#file", upload())
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "notes.txt").write_text("none")
    drop_paths(served, tmp_path / "papers")
    expect(served.get_by_role("alert")).to_have_text(
        "This folder has no JPG, PNG, GIF or WebP images. Drop another one."
    )
    expect(served.locator(".predicted")).to_have_text("green")
    expect(served.locator("#visit button")).to_have_count(1)


def test_says_of_a_file_that_is_gone_that_it_cannot_be_read(served: Page, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(PICTURE)
    served.context.set_offline(True)
    served.set_input_files("#file", photo)
    expect(served.get_by_role("alert")).to_contain_text("The page tries again when the server is ready.")
    photo.unlink()
    served.context.set_offline(False)
    expect(served.get_by_role("alert")).to_contain_text("cannot be read", timeout=10_000)


def test_a_text_may_be_pasted_into_a_field(served: Page) -> None:
    served.set_input_files("#file", upload())
    expect(served.locator(".predicted")).to_have_text("green")
    for field in ("#key", "#remark"):
        served.locator(field).evaluate(
            "field => field.dispatchEvent(new ClipboardEvent('paste',"
            " { bubbles: true, clipboardData: new DataTransfer() }))"
        )
    expect(served.get_by_role("alert")).to_have_count(0)


def test_an_example_that_the_server_does_not_give_is_not_sent(with_examples: Page) -> None:
    with_examples.route("**/examples/*.jpg", lambda route: route.fulfill(status=502, body="<html>"))
    with_examples.locator("#offer button:visible").first.click()
    expect(with_examples.get_by_text("The server does not give this example (status 502).")).to_be_visible()

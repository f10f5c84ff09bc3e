"""The contact sheet shows each picture in its place, and something where there is none any more."""

from pathlib import Path

from PIL import Image

from scripts.batch.contact_sheet import CAPTION, COLUMNS, FONT, GAP, PICTURE, _end_of, draw_sheet


def test_pictures_in_order_upright_with_a_caption(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3000), "red").save(tmp_path / "large.jpg")
    Image.new("L", (8, 8), 0).save(tmp_path / "small.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright
    Image.new("RGB", (40, 20), "blue").save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "torn.png").write_bytes((tmp_path / "small.png").read_bytes()[:40])  # since it was predicted
    names = ["large.jpg", *["small.png"] * 5, "turned.jpg", "gone.png", "torn.png"]
    draw_sheet(tmp_path / "sheet.png", [(0.1, str(tmp_path / name), "a cat") for name in names])

    with Image.open(tmp_path / "sheet.png") as opened:
        sheet = opened.convert("RGB")
    assert sheet.size == (COLUMNS * (PICTURE + GAP) + GAP, 2 * (PICTURE + CAPTION + GAP) + GAP)

    def cell(row: int, column: int) -> Image.Image:
        left, top = GAP + column * (PICTURE + GAP), GAP + row * (PICTURE + CAPTION + GAP)
        return sheet.crop((left, top, left + PICTURE, top + PICTURE + CAPTION))

    middle = PICTURE // 2
    assert cell(0, 0).getpixel((2, middle)) == (254, 0, 0)
    assert cell(0, 1).getpixel((2, middle)) == (0, 0, 0)
    assert cell(1, 0).getpixel((middle, 2)) == (0, 0, 254)
    assert cell(1, 0).getpixel((2, middle)) == (255, 255, 255)
    for column in range(2):
        assert min(cell(1, column).crop((0, PICTURE, PICTURE, PICTURE + CAPTION)).tobytes()) < 100
    for column in (1, 2):
        assert min(cell(1, column).crop((0, 0, PICTURE, PICTURE)).tobytes()) < 200


def test_an_image_with_broken_metadata_is_shown_as_it_was_predicted(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "blue").save(tmp_path / "odd.jpg", exif=b"Exif\0\0IIU\0\x08\0\0\0", dpi=(300, 300))
    draw_sheet(tmp_path / "sheet.png", [(0.1, str(tmp_path / "odd.jpg"), "a cat")])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getpixel((GAP + PICTURE // 2, GAP + PICTURE // 2)) == (0, 0, 254)


def test_grey_of_16_bits_and_transparent_pixels_are_shown_as_they_were_predicted(tmp_path: Path) -> None:
    Image.new("I;16", (40, 40), 20000).save(tmp_path / "grey.png")
    Image.new("RGBA", (40, 40), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    draw_sheet(tmp_path / "sheet.png", [(0.1, str(tmp_path / name), "a cat") for name in ("grey.png", "clear.png")])
    with Image.open(tmp_path / "sheet.png") as sheet:
        for column, colour in enumerate([(78, 78, 78), (255, 255, 255)]):
            middle = GAP + column * (PICTURE + GAP) + PICTURE // 2
            assert sheet.getpixel((middle, GAP + PICTURE // 2)) == colour


def test_a_long_name_is_cut_at_its_left() -> None:
    assert _end_of("cat/1.png") == "cat/1.png"
    shown = _end_of(f"{'photos/' * 20}caf\udce9/1.png")
    assert shown.startswith("…")
    assert shown.endswith("photos/caf\\xe9/1.png")
    assert PICTURE - 20 < FONT.getlength(shown) <= PICTURE

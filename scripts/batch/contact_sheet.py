"""A picture of many small pictures, to look through what the model is least certain of."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from handler.transforms import decode_image
from scripts.batch.rows import legible
from training.files import written_whole

COLUMNS = 6
PICTURE, CAPTION, GAP = 160, 56, 8  # pixels
FONT = ImageFont.load_default(14)


def draw_sheet(path: Path, images: list[tuple[float, str, str]]) -> None:
    """Draw images, given as (confidence, file, class), with file, class and confidence under each, as a PNG."""
    rows = -(-len(images) // COLUMNS)
    width, height = PICTURE + GAP, PICTURE + CAPTION + GAP
    sheet = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP), "white")
    for index, (confidence, file, name) in enumerate(images):
        row, column = divmod(index, COLUMNS)
        sheet.paste(
            _cell(Path(file), f"{_end_of(file)}\n{name}\n{confidence:.1%}"), (GAP + column * width, GAP + row * height)
        )
    with written_whole(path) as temporary:
        sheet.save(temporary, "PNG")


def _cell(file: Path, caption: str) -> Image.Image:
    cell = Image.new("RGB", (PICTURE, PICTURE + CAPTION), "white")
    drawing = ImageDraw.Draw(cell)
    try:
        picture = _picture(file)
    except FileNotFoundError:  # but moved, or in a store
        drawing.text((PICTURE / 2, PICTURE / 2), "not on this disk", "grey", FONT, "mm")
    except Exception:  # Pillow raises whatever damage makes it stumble over; the gateway reads more than it does.
        drawing.text((PICTURE / 2, PICTURE / 2), "cannot be shown", "grey", FONT, "mm")
    else:
        cell.paste(picture, ((PICTURE - picture.width) // 2, (PICTURE - picture.height) // 2))
    drawing.text((PICTURE / 2, PICTURE + CAPTION / 2), caption, "black", FONT, "mm", align="center")
    return cell


def _end_of(file: str) -> str:
    """Return as much of the end of a file's name as fits under a picture."""
    shown = name = legible(file)
    while FONT.getlength(shown) > PICTURE:
        name = name[1:]
        shown = f"…{name}"
    return shown


def _picture(file: Path) -> Image.Image:
    return ImageOps.contain(decode_image(file.read_bytes(), PICTURE), (PICTURE, PICTURE))

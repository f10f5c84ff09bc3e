"""Images drawn for the tests: classes told apart by colour, each image with its own shape, place and noise."""

import colorsys
import io
import random
from pathlib import Path

from PIL import Image, ImageDraw

TEN = ["red", "orange", "yellow", "lime", "green", "cyan", "azure", "blue", "purple", "pink"]
THREE = ["azure", "lime", "red"]
SIZE = (48, 40)


def draw(name: str, seed: int) -> Image.Image:
    """Draw one image of a class of TEN."""
    dice = random.Random(f"{name} {seed}")
    hue = TEN.index(name) / len(TEN)
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, dice.uniform(0.75, 1)))
    grey = dice.randrange(60, 190)
    image = Image.new("RGB", SIZE, (grey, grey, grey))
    left, top = dice.randrange(0, 14), dice.randrange(0, 10)
    shape = ImageDraw.Draw(image)
    dice.choice([shape.rectangle, shape.ellipse])((left, top, left + 32, top + 28), fill=(red, green, blue))
    return image


def draw_photo(name: str, seed: int) -> Image.Image:
    """Draw a larger picture of a class of THREE, which a network that knows photos tells apart by its pattern too."""
    dice, image = random.Random(f"{name} {seed}"), Image.new("RGB", (160, 120), "grey")
    hue, shape = TEN.index(name) / len(TEN), ImageDraw.Draw(image)
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, dice.uniform(0.75, 1)))
    step, shift = dice.randrange(24, 36), dice.randrange(24)
    for x in range(-shift, 160, step):
        for y in range(-shift, 120, step):
            boxes = {"azure": (x, 0, x + step // 2, 120), "lime": (0, y, 160, y + step // 2)}
            draw_one = shape.ellipse if name == "red" else shape.rectangle
            draw_one(boxes.get(name, (x, y, x + 20, y + 20)), fill=(red, green, blue))
    return image


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def draw_dataset(root: Path, classes: list[str], train: int, test: int) -> Path:
    """Write root/{train,test}/<class>/*.png with so many images a class."""
    for split, count, first in (("train", train, 0), ("test", test, 1_000_000)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                draw(name, first + number).save(folder / f"{number:04}.png")
    return root


def add_photos(root: Path, name: str, numbers: range) -> None:
    """Draw photos of a class into the folder of its name."""
    (root / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        draw(name, number).save(root / name / f"{number}.png")


TINY = b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0"  # the beginning of an image of one pixel


def tiny(text: bytes) -> bytes:
    """Return the beginning of a tiny image, with a text behind it."""
    return TINY + text

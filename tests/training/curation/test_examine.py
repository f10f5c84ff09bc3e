"""How a photo is measured."""

import io

from PIL import Image, PngImagePlugin

from handler.transforms import decode_image
from tests.drawing import draw
from training.curation.examine import _size


def test_a_photo_whose_metadata_cannot_be_read_has_the_size_of_its_pixels() -> None:
    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("note", "x" * 2_000_000, zip=True)  # more than Pillow takes
    draw("red", 1).save(file, "PNG", pnginfo=text)
    image = decode_image(file.getvalue())
    assert isinstance(image, Image.Image)
    assert _size(file.getvalue(), image) == draw("red", 1).size

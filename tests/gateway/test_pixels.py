"""The pixels of a file, as Pillow counts them, from its head alone."""

import io

import pytest
from PIL import Image

from gateway.limits import SMALL_IMAGE_BYTES
from gateway.pixels import is_small, pixels
from tests.drawing import encode

PICTURE = Image.new("RGB", (301, 170), "red")
EXIF = Image.Exif()
EXIF[0x010E] = "x" * 40_000


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "exif": EXIF.tobytes(), "comment": "x" * 60_000}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": EXIF.tobytes()}),
    ],
)
def test_the_pixels_of_a_file(kind: str, options: dict[str, object]) -> None:
    file = encode(PICTURE, kind, **options)
    assert Image.open(io.BytesIO(file)).size == PICTURE.size
    assert pixels(file) == 301 * 170


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG", "WEBP"])
def test_a_torn_file_has_none_or_those_it_says(kind: str) -> None:
    file = encode(PICTURE, kind)
    assert {pixels(file[:length]) for length in range(len(file))} == {0, 301 * 170}


@pytest.mark.parametrize("file", [b"", b"text", b"\xff\xd8" + b"\xff\xe0\x00\x00" * 10**6, b"RIFF1234WEBPVP8 "])
def test_what_says_no_size_has_no_pixels(file: bytes) -> None:
    assert pixels(file) == 0


def test_what_is_small_shares_a_call() -> None:
    assert is_small(bytes(SMALL_IMAGE_BYTES))
    assert not is_small(bytes(SMALL_IMAGE_BYTES + 1))
    assert is_small(encode(Image.new("1", (1000, 1000))))
    assert not is_small(encode(Image.new("1", (1001, 1000))))

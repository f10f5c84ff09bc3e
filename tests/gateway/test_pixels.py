"""The pixels of a file, as Pillow counts them, from its head alone."""

import io
import struct

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
    picture = encode(PICTURE)
    assert is_small(picture + bytes(SMALL_IMAGE_BYTES - len(picture)))
    assert not is_small(picture + bytes(SMALL_IMAGE_BYTES + 1 - len(picture)))
    assert not is_small(b"what may be an image")
    assert is_small(encode(Image.new("1", (1000, 1000))))
    assert not is_small(encode(Image.new("1", (1001, 1000))))


def test_a_gif_is_as_large_as_its_first_frame() -> None:
    """The screen says 1 x 1, and Pillow makes it larger."""
    gif = encode(Image.new("P", (3000, 3000)), "GIF", comment="x" * 1000)
    lying = gif[:6] + b"\x01\x00\x01\x00" + gif[10:]
    assert Image.open(io.BytesIO(lying)).size == (3000, 3000)
    assert pixels(lying) == 9_000_000


@pytest.mark.parametrize("between", [b"\xff", b"\xff" * 1000, b"\xff\x01", b"garbage"])
def test_what_stands_between_the_markers_of_a_jpeg_does_not_hide_its_size(between: bytes) -> None:
    file = encode(PICTURE, "JPEG")
    padded = file[:2] + between + file[2:]
    assert pixels(padded) == 301 * 170


def test_what_stands_before_the_size_does_not_lie_about_it() -> None:
    webp, gif = encode(PICTURE, "WEBP"), encode(PICTURE, "GIF")
    tiny = b"VP8Z" + struct.pack("<I", 18) + bytes(6) + b"\x9d\x01\x2a" + struct.pack("<HH", 8, 8) + bytes(5)
    assert pixels(webp[:12] + tiny + webp[12:]) == 0
    assert pixels(webp[:12] + b"VP8X" + bytes(4) + webp[12:]) == 0
    start = gif.index(b",")
    for between in (b"\0\xff", b"!\xfe" + b"\1," * 5000 + b"\0"):
        assert pixels(gif[:start] + between + gif[start:]) == 0


def test_a_png_whose_size_comes_later_goes_alone() -> None:
    file = encode(PICTURE)
    assert pixels(file[:8] + b"\x00\x00\x00\x00tIME\x00\x00\x00\x00" + file[8:]) == 0

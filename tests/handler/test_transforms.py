import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from handler import transforms
from handler.transforms import INPUT_SIZE, ImageError, decode_image, normalise, to_pixels
from tests.drawing import draw, encode

PICTURE = draw("blue", 7)


def test_transform_scales_to_plus_and_minus_one() -> None:
    white, black = (transforms.test_transform(Image.new("RGB", (50, 20), colour)) for colour in ("white", "black"))
    assert white.shape == (3, INPUT_SIZE, INPUT_SIZE)
    assert white.dtype == torch.float32
    assert white.unique().tolist() == [1.0]
    assert black.unique().tolist() == [-1.0]


def test_pixels_of_the_right_size_are_left_as_they_are() -> None:
    values = np.random.default_rng(0).integers(0, 256, (INPUT_SIZE, INPUT_SIZE, 3), dtype=np.uint8)
    assert torch.equal(to_pixels(Image.fromarray(values)), torch.from_numpy(values).permute(2, 0, 1))


def test_a_batch_is_normalised_as_its_images_are() -> None:
    batch = torch.stack([to_pixels(draw("red", 1)), to_pixels(draw("lime", 2))])
    assert torch.equal(normalise(batch)[1], transforms.test_transform(draw("lime", 2)))


def channels(data: bytes) -> list[int]:
    """Return the mean colour of a decoded file."""
    decoded = decode_image(data)
    assert decoded.mode == "RGB"
    return [round(value) for value in np.asarray(decoded).reshape(-1, 3).mean(axis=0)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_decodes_each_format(kind: str) -> None:
    assert channels(encode(Image.new("RGB", (9, 9), (255, 0, 0)), kind)) == pytest.approx([255, 0, 0], abs=2)


@pytest.mark.parametrize(
    ("size", "decoded"), [((4000, 3000), (500, 375)), ((640, 300), (320, 150)), ((200, 128), None)]
)
def test_large_photographs_are_decoded_smaller_and_look_the_same(
    size: tuple[int, int], decoded: tuple[int, int] | None
) -> None:
    photograph = Image.radial_gradient("L").resize(size).convert("RGB")
    image = decode_image(encode(photograph, "JPEG"))
    assert image.size == (decoded or size)
    difference = to_pixels(image).int() - to_pixels(photograph).int()
    assert difference.abs().max() <= 4


@pytest.mark.parametrize("mode", ["P", "L", "1", "CMYK", "LA", "RGBA"])
def test_brings_every_mode_to_rgb(mode: str) -> None:
    grey = Image.new("RGB", (8, 8), "white").convert(mode)
    assert channels(encode(grey, "JPEG" if mode == "CMYK" else "PNG")) == [255, 255, 255]


def test_puts_transparency_over_white() -> None:
    see_through = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert channels(encode(see_through)) == [255, 255, 255]
    half = Image.new("RGBA", (8, 8), (0, 0, 255, 128))
    assert channels(encode(half)) == pytest.approx([127, 127, 255], abs=1)


def test_transparent_palette_is_put_over_white() -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert channels(encode(palette, "GIF", transparency=0)) == [255, 255, 255]


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (0x8000, 128), (0xFFFF, 255)])
def test_scales_sixteen_bits_instead_of_clipping(value: int, expected: int) -> None:
    deep = Image.fromarray(np.full((8, 8), value, dtype=np.uint16))
    assert channels(encode(deep)) == [expected] * 3


def test_applies_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the top is at the right
    turned = PICTURE.rotate(90, expand=True)
    decoded = decode_image(encode(turned, "PNG", exif=exif.tobytes()))
    assert np.array_equal(np.asarray(decoded), np.asarray(PICTURE))


def test_takes_the_first_frame_of_an_animation() -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    animation = encode(red, "GIF", save_all=True, append_images=[blue])
    assert channels(animation) == [255, 0, 0]


@pytest.mark.parametrize(("kind", "name"), [("BMP", "bmp"), ("TIFF", "tiff"), ("WEBP", "webp"), ("ICO", "x-icon")])
def test_refuses_another_format_by_name(kind: str, name: str) -> None:
    expected = f"The file is of type image/{name}; send a JPEG, PNG or GIF."
    with pytest.raises(ImageError, match=expected) as raised:
        decode_image(encode(PICTURE, kind))
    assert raised.value.status == 415


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_refuses_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ImageError, match="cannot be read") as raised:
        decode_image(data)
    assert raised.value.status == 400


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("tenths", range(1, 9))
def test_refuses_a_truncated_file(kind: str, tenths: int) -> None:
    whole = encode(PICTURE, kind)
    with pytest.raises(ImageError):
        decode_image(whole[: len(whole) * tenths // 10])


@pytest.mark.parametrize("side", [8_000, 10_000, 100_000])
def test_refuses_too_many_pixels_unread(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(ImageError, match="more than 50,000,000 pixels"):
        decode_image(data)


def test_ignores_what_follows_the_image() -> None:
    assert channels(encode(Image.new("RGB", (8, 8), "red")) + b"trailing bytes") == [255, 0, 0]

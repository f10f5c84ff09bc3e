import io
import json
import random
import struct
import time
import zlib
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from handler import transforms
from handler.transforms import ImageError, Preprocessing, decode_image
from tests.drawing import draw, encode

PICTURE = draw("blue", 7)
SEEN = Preprocessing(32)
Fit = Literal["squeeze", "crop", "pad"]


def test_transform_scales_to_plus_and_minus_one() -> None:
    white, black = (
        transforms.test_transform(Image.new("RGB", (50, 20), colour), SEEN) for colour in ("white", "black")
    )
    assert white.shape == (3, 32, 32)
    assert white.dtype == np.float32
    assert np.unique(white).tolist() == [1.0]
    assert np.unique(black).tolist() == [-1.0]


@pytest.mark.parametrize(
    ("fit", "middle", "edge"), [("squeeze", 255, 255), ("crop", 255, 255), ("pad", 255, round(255 * 0.4))]
)
def test_an_image_that_is_not_square_is_made_to_fit(fit: Fit, middle: int, edge: int) -> None:
    seen = Preprocessing(20, fit, mean=(0.4, 0.4, 0.4))
    pixels = seen.pixels(Image.new("RGB", (80, 40), "white"))
    assert pixels.shape == (3, 20, 20)
    assert (pixels[:, 10] == middle).all()
    assert (pixels[:, 0] == edge).all()


def test_what_each_fit_shows_of_a_wide_image() -> None:
    wide = Image.new("RGB", (80, 40), "blue")
    wide.paste("red", (20, 0, 60, 40))  # the middle square
    squeezed, cropped, padded = (Preprocessing(40, fit).pixels(wide)[0] for fit in ("squeeze", "crop", "pad"))
    assert (cropped == 255).all()
    assert (squeezed == 255).mean() == pytest.approx(0.5, abs=0.05)
    assert (padded[20] == 255).mean() == pytest.approx(0.5, abs=0.05)


def test_normalises_by_the_models_own_mean_and_deviation() -> None:
    seen = Preprocessing(8, "crop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    white = transforms.test_transform(Image.new("RGB", (8, 8), "white"), seen)
    assert white[:, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])


def test_a_card_says_what_its_network_sees() -> None:
    seen = [Preprocessing(32), Preprocessing(224, "crop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    card = json.loads(json.dumps({"preprocessing": [each._asdict() for each in seen]}))
    assert transforms.inputs_of(card) == seen


def test_pixels_of_the_right_size_are_left_as_they_are() -> None:
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (SEEN.pixels(Image.fromarray(values)) == values.transpose(2, 0, 1)).all()


def test_a_batch_is_normalised_as_its_images_are() -> None:
    batch = np.stack([SEEN.pixels(draw("red", 1)), SEEN.pixels(draw("lime", 2))])
    assert (SEEN.normalise(batch)[1] == transforms.test_transform(draw("lime", 2), SEEN)).all()


def channels(data: bytes) -> list[int]:
    """Return the mean colour of a decoded file."""
    decoded = decode_image(data)
    assert decoded.mode == "RGB"
    return [round(value) for value in np.asarray(decoded).reshape(-1, 3).mean(axis=0)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_decodes_each_format(kind: str) -> None:
    assert channels(encode(Image.new("RGB", (9, 9), (255, 0, 0)), kind)) == pytest.approx([255, 0, 0], abs=2)


@pytest.mark.parametrize(
    ("size", "wanted", "decoded"),
    [
        ((4000, 3000), 32, (500, 375)),
        ((4000, 3000), 224, (1000, 750)),
        ((640, 300), 32, (320, 150)),
        ((640, 480), 224, None),
        ((200, 128), 32, None),
    ],
)
def test_large_photographs_are_decoded_smaller_and_look_the_same(
    size: tuple[int, int], wanted: int, decoded: tuple[int, int] | None
) -> None:
    photograph = Image.radial_gradient("L").resize(size).convert("RGB")
    image = decode_image(encode(photograph, "JPEG"), wanted)
    assert image.size == (decoded or size)
    shown, expected = (Preprocessing(wanted).pixels(each).astype(int) for each in (image, photograph))
    assert np.abs(shown - expected).max() <= 4


@pytest.mark.parametrize("mode", ["P", "L", "1", "CMYK", "LA", "RGBA"])
def test_brings_every_mode_to_rgb(mode: str) -> None:
    grey = Image.new("RGB", (8, 8), "white").convert(mode)
    assert channels(encode(grey, "JPEG" if mode == "CMYK" else "PNG")) == [255, 255, 255]


def test_puts_transparency_over_white() -> None:
    see_through = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert channels(encode(see_through)) == [255, 255, 255]
    half = Image.new("RGBA", (8, 8), (0, 0, 255, 128))
    assert channels(encode(half)) == pytest.approx([127, 127, 255], abs=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB", "1"])
def test_transparency_is_put_over_white_strip_by_strip(mode: str) -> None:
    noise = np.random.default_rng(0).integers(256, size=(600, 40, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert("RGB" if mode == "P" else mode)
    options: dict[str, Any] = {}
    if mode == "P":
        image, options = image.quantize(16), {"transparency": bytes(range(0, 256, 16))}
    elif mode in ("L", "RGB", "1"):
        options = {"transparency": {"L": 7, "RGB": (1, 2, 3), "1": 0}[mode]}
    elif mode == "PA":
        mode, image = "RGBA", image.convert("RGBA")  # which PNG has not
    data = encode(image, "PNG", **options)
    layer = Image.open(io.BytesIO(data)).convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(expected))


def grey_png(depth: int, colour_type: int, sample: bytes, transparent: bytes) -> bytes:
    """Return a PNG of one pixel, whose samples have `depth` bits."""
    head = struct.pack(">IIBBBBB", 1, 1, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + sample)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


@pytest.mark.parametrize(
    ("depth", "colour_type", "sample", "transparent", "expected"),
    [
        (1, 0, b"\x80", b"\0\1", 255),
        (1, 0, b"\0", b"\0\1", 0),
        (2, 0, b"\x40", b"\0\1", 255),
        (4, 0, b"\x50", b"\0\5", 255),
        (4, 0, b"\x50", b"\0\6", 85),
        (16, 0, b"\0\0", b"\0\0", 255),
        (16, 0, b"\x12\x34", b"\x12\x35", 0x12),
        (16, 2, b"\x12\x34" * 3, b"\x12\x34" * 3, 255),
        (16, 2, b"\x34\0" * 3, b"\x12\x34" * 3, 0x34),
    ],
)
def test_a_transparent_colour_has_the_bits_of_the_image(
    depth: int, colour_type: int, sample: bytes, transparent: bytes, expected: int
) -> None:
    image = decode_image(grey_png(depth, colour_type, sample, transparent))
    assert np.asarray(image).tolist() == [[[expected] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_a_file_of_very_many_pieces_is_refused_soon(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    palette = 13 + (3 << (GIF[10] & 7) + 1)
    data = {
        "PNG": png_with(PNG, chunk(b"tEXt", b"") * 100),
        "GIF": GIF[:palette] + b"!\xfe\1x\0" * 100 + GIF[palette:],
        "WEBP": b"RIFF" + struct.pack("<I", len(WEBP) - 8 + 800) + WEBP[8:] + b"EXIF\0\0\0\0" * 100,
    }[kind]
    decode_image(data)
    monkeypatch.setattr(transforms, "MAX_PIECES", 100)
    with pytest.raises(ImageError, match="may be damaged"):
        decode_image(data)


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


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_takes_the_first_frame_of_an_animation(kind: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    animation = encode(red, kind, save_all=True, append_images=[blue], lossless=True)
    assert channels(animation) == [255, 0, 0]


@pytest.mark.parametrize(("kind", "name"), [("BMP", "bmp"), ("TIFF", "tiff"), ("ICO", "x-icon")])
def test_refuses_another_format_by_name(kind: str, name: str) -> None:
    expected = f"The file is of type image/{name}; send a JPEG, PNG, GIF or WebP."
    with pytest.raises(ImageError, match=expected) as raised:
        decode_image(encode(PICTURE, kind))
    assert raised.value.status == 415


@pytest.mark.parametrize(
    "data", [b"", b"not an image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP"]
)
def test_refuses_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ImageError, match="cannot be read") as raised:
        decode_image(data)
    assert raised.value.status == 400


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
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
    red = Image.new("RGB", (8, 8), "red")
    assert channels(encode(red) + b"trailing bytes") == [255, 0, 0]
    film = b"ftypmp42" + b"\xff\xda\0\x08" * 1000  # as in a phone's motion photo
    assert channels(encode(red, "JPEG") + film) == channels(encode(red, "JPEG"))


# Metadata that is broken, and what only looks broken

CHUNK_KINDS = b"tEXt zTXt iTXt iCCP eXIf pHYs gAMA cHRM sRGB acTL fcTL fdAT tRNS bKGD sBIT tIME vpAg caBX".split()
BOMB = b"key\0\0" + zlib.compress(bytes(2_000_000))


def chunk(kind: bytes, content: bytes, wrong: bool = False) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ wrong)


def chunks_of(png: bytes) -> list[bytes]:
    at, chunks = 8, []
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        chunks.append(png[at : at + 12 + length])
        at += 12 + length
    return chunks


def png_with(png: bytes, *more: bytes, last: bool = False) -> bytes:
    """Put chunks behind the header of a PNG, or before its end."""
    head, *others, end = chunks_of(png)
    return png[:8] + b"".join([head, *others, *more, end] if last else [head, *more, *others, end])


def jpeg_with(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """Put segments behind the start of a JPEG."""
    return jpeg[:2] + b"".join(bytes([255, marker]) + content for marker, content in segments) + jpeg[2:]


def segment(marker: int, content: bytes) -> tuple[int, bytes]:
    return marker, struct.pack(">H", len(content) + 2) + content


def same(data: bytes, twin: bytes) -> bool:
    return np.array_equal(np.asarray(decode_image(data)), np.asarray(decode_image(twin)))


PNG, JPEG, GIF, WEBP = (encode(PICTURE, kind) for kind in ("PNG", "JPEG", "GIF", "WEBP"))
EXIF = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"pHYs", bytes(9), wrong=True),
        chunk(b"pHYs", bytes(3)),
        chunk(b"zTXt", BOMB),
        chunk(b"zTXt", b"key\0\x07text"),
        chunk(b"iTXt", b"key\0\1\0\0\0" + BOMB[5:]),
        chunk(b"iCCP", b"profile"),
        chunk(b"iCCP", b"profile\0\0" + BOMB[5:]),
        chunk(b"tEXt", b"key\0" + bytes(range(256))) * 3,
        chunk(b"eXIf", b"IIU\0\x08\0\0\0"),
        chunk(b"eXIf", EXIF[:-8]),
        chunk(b"eXIf", EXIF, wrong=True),
        chunk(b"tRNS", b"\0"),
        chunk(b"acTL", b"\0"),
        chunk(b"fcTL", bytes(26)),
    ],
    ids=lambda odd: f"{odd[4:8].decode()} {len(odd)}",
)
def test_a_png_with_odd_chunks_beside_its_pixels_is_the_image_without_them(odd: bytes) -> None:
    assert same(png_with(PNG, odd), PNG)
    assert same(png_with(PNG, odd, last=True), PNG)


@pytest.mark.parametrize(
    "odd",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xE1, b"Exif\0\0IIU\0\x08\0\0\0"),
        segment(0xE1, b"Exif\0\0" + EXIF[:-8]),
        segment(0xE1, b"Exif\0\0MM"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\x01"),
        segment(0xED, b"Photoshop 3.0\x008BIM"),
        segment(0xED, b"Photoshop 3.0\x008BIM\4\4"),
        segment(0xEE, b"Adobe"),
        segment(0xFE, b"\xff\xd9 no end"),
        (0xE5, b"\0\0"),
        (0xE5, b"\0\1"),
        (0xE5, b"\0\4more than it says"),
    ],
    ids=lambda odd: f"{odd[0]:x} {odd[1][2:].decode('ascii', 'replace')}",
)
def test_a_jpeg_with_odd_segments_is_the_image_without_them(odd: tuple[int, bytes]) -> None:
    assert same(jpeg_with(JPEG, odd), JPEG)


def test_a_jpeg_with_a_density_and_odd_exif_is_taken_as_by_browsers() -> None:
    with_density = encode(PICTURE, "JPEG", dpi=(300, 300))
    assert same(jpeg_with(with_density, segment(0xE1, b"Exif\0\0IIU\0\x08\0\0\0\0\0")), with_density)


@pytest.mark.parametrize(
    "extension",
    [
        b"\xfe\x05hello\x00" * 50,
        b"\xfe\xff" + bytes(255) + b"\x00",
        b"\xf9\x00",
        b"\xf9\x02\x00\x00\x00",
        b"\xff\x03abc\x00",
    ],
    ids=["comments", "a long comment", "no control", "short control", "short application"],
)
def test_a_gif_with_odd_extensions_is_the_image_without_them(extension: bytes) -> None:
    odd = b"".join(b"!" + part for part in extension.split(b"!"))
    palette = 13 + (3 << (GIF[10] & 7) + 1)
    assert same(GIF[:palette] + odd + GIF[palette:], GIF)


def riff(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def webp(*chunks: bytes) -> bytes:
    return riff(b"RIFF", b"WEBP" + b"".join(chunks))


def extended(flags: int, width: int = PICTURE.width, height: int = PICTURE.height) -> bytes:
    """Return the header of a WebP that says what follows: 2 an animation, 4 XMP, 8 EXIF, 16 alpha, 32 a profile."""
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return riff(b"VP8X", bytes([flags, 0, 0, 0]) + sides)


@pytest.mark.parametrize(
    "odd",
    [
        riff(b"EXIF", b"IIU\0\x08\0\0\0"),
        riff(b"EXIF", EXIF[:-8]),
        riff(b"XMP ", BOMB),
        riff(b"ICCP", b"profile"),
        riff(b"ICCP", BOMB),
        riff(b"what", bytes(7)),
        riff(b"ANIM", b"\0"),
    ],
    ids=lambda odd: f"{odd[:4].decode()} {len(odd)}",
)
def test_a_webp_with_odd_chunks_beside_its_pixels_is_the_image_without_them(odd: bytes) -> None:
    assert same(webp(extended(4 + 8 + 32), odd, WEBP[12:]), WEBP)
    assert same(webp(extended(4 + 8 + 32), WEBP[12:], odd), WEBP)
    assert same(webp(extended(4 + 8 + 32), WEBP[12:], odd)[:-3], WEBP)  # it breaks off behind the pixels


def test_a_webp_is_turned_as_its_exif_tells() -> None:
    turned = encode(PICTURE.rotate(90, expand=True), "WEBP", lossless=True)
    header = extended(8, PICTURE.height, PICTURE.width)
    for exif in (EXIF, b"Exif\0\0" + EXIF):
        decoded = decode_image(webp(header, turned[12:], riff(b"EXIF", exif)))
        assert np.array_equal(np.asarray(decoded), np.asarray(PICTURE))


@pytest.mark.parametrize("lossless", [True, False])
def test_puts_a_transparent_webp_over_white(lossless: bool) -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 255, 128))
    assert channels(encode(half, "WEBP", lossless=lossless)) == pytest.approx([127, 127, 255], abs=2)


def test_a_small_first_frame_stands_where_it_belongs() -> None:
    place = b"".join(struct.pack("<I", value)[:3] for value in (2, 4, 7, 7, 0)) + b"\0"  # at (4, 8), 8 x 8 pixels
    red = encode(Image.new("RGB", (8, 8), "red"), "WEBP", lossless=True)
    animation = webp(extended(2, 20, 20), riff(b"ANIM", bytes(6)), riff(b"ANMF", place + red[12:]))
    decoded = decode_image(animation)
    assert decoded.size == (20, 20)
    assert [decoded.getpixel(at) for at in ((4, 8), (11, 15), (3, 8), (12, 15))] == [(255, 0, 0)] * 2 + [(255,) * 3] * 2


@pytest.mark.parametrize(
    "pixels",
    [
        extended(0, 8_000, 8_000) + WEBP[12:],
        extended(2, 16_384, 16_384) + riff(b"ANMF", bytes(16) + WEBP[12:]),
        riff(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 8_000, 8_000)),
        riff(b"VP8L", b"\x2f" + struct.pack("<I", 7_999 | 7_999 << 14)),
    ],
    ids=["extended", "animated", "lossy", "lossless"],
)
def test_refuses_a_webp_of_too_many_pixels_unread(pixels: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "WebPImageFile", None)
    with pytest.raises(ImageError, match="more than 50,000,000 pixels"):
        decode_image(webp(pixels))


def test_many_kinds_of_damage_leave_a_webp_an_image_or_refused() -> None:
    dice = random.Random(7)
    animation = encode(PICTURE, "WEBP", save_all=True, append_images=[draw("red", 1)])
    whole = [WEBP, animation, encode(PICTURE.convert("RGBA"), "WEBP", exif=EXIF)]
    for _ in range(300):
        damaged = bytearray(dice.choice(whole))
        for _ in range(dice.randrange(1, 5)):
            damaged[dice.randrange(4, len(damaged))] = dice.randrange(256)
        with suppress(ImageError):  # nothing else
            assert decode_image(bytes(damaged[: dice.randrange(12, len(damaged) + 1)])).mode == "RGB"


def test_many_kinds_of_broken_metadata_change_no_pixel() -> None:
    dice = random.Random(6)
    palette = PICTURE.quantize(16)
    pngs = [PNG, encode(palette), encode(PICTURE.convert("RGBA")), encode(PICTURE.convert("1"))]
    jpegs = [JPEG, encode(PICTURE, "JPEG", progressive=True), encode(PICTURE.convert("CMYK"), "JPEG")]
    for _ in range(400):
        junk = dice.randbytes(dice.choice((0, 1, 5, 8, 26, 300)))
        head = dice.choice((b"", b"key\0", b"key\0\0", b"key\0\1\0\0\0", EXIF[:20], BOMB))
        kind = dice.choice(CHUNK_KINDS)
        wrong = kind in (b"tRNS", b"eXIf") or dice.random() < 0.5  # right ones may mean something
        png = dice.choice(pngs)
        assert same(png_with(png, chunk(kind, head + junk, wrong), last=dice.random() < 0.5), png), (kind, head, junk)
        marker = dice.choice((*range(0xE1, 0xEE), 0xEF, 0xFE))
        head = dice.choice(
            (b"Exif\0\0II", b"ICC_PROFILE\0", b"Photoshop 3.0\x008BIM", b"MPF\0", b"http://ns.adobe.com/")
        )
        jpeg = dice.choice(jpegs)
        assert same(jpeg_with(jpeg, segment(marker, head + junk)), jpeg), (marker, head, junk)


@pytest.mark.parametrize("critical", [b"IHDR", b"PLTE", b"IDAT"])
def test_damage_in_critical_chunks_is_refused(critical: bytes) -> None:
    chunks = chunks_of(encode(PICTURE.quantize(16)))
    for at in (9, -1):  # in the content, and in the check sum
        damaged = [bytearray(each) for each in chunks]
        next(each for each in damaged if each[4:8] == critical)[at] ^= 1
        with pytest.raises(ImageError, match="cannot be read"):
            decode_image(PNG[:8] + b"".join(damaged))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_mark_is_taken_if_all_rows_are_there(options: dict[str, object], mode: str) -> None:
    whole = encode(PICTURE.convert(mode), "JPEG", **options)
    for rest in (b"", b"\xff", bytes(1000)):
        assert same(whole[:-2] + rest, whole)
    for share in (0.5, 0.6, 0.7, 0.8, 0.9):
        for rest in (b"", bytes(1000)):
            with pytest.raises(ImageError, match="cannot be read"):
                decode_image(whole[: int(len(whole) * share)] + rest)


def test_a_progressive_jpeg_that_ends_with_one_of_its_scans_is_refused() -> None:
    whole = encode(PICTURE, "JPEG", progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xc4"]  # each has its table before it
    for at in scans[2:]:
        with pytest.raises(ImageError, match="cannot be read"):
            decode_image(whole[:at])


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_takes_the_photograph_of_a_telephone_with_fifty_megapixels(options: dict[str, object]) -> None:
    photograph = encode(Image.new("L", (8160, 6144), 200), "JPEG", **options)
    assert decode_image(photograph).size == (1020, 768)


def resized(jpeg: bytes, width: int, height: int) -> bytes:
    return jpeg.replace(struct.pack(">HH", PICTURE.height, PICTURE.width), struct.pack(">HH", height, width), 1)


def test_a_jpeg_has_a_limit_of_its_own_and_a_progressive_one_another() -> None:
    for kind, size, said in (
        ({}, (20_000, 10_001), "or 200,000,000 if it is a JPEG"),
        ({"progressive": True}, (20_000, 9_000), "too large a progressive JPEG"),
    ):
        with pytest.raises(ImageError, match=said):
            decode_image(resized(encode(PICTURE, "JPEG", **kind), *size))
    with pytest.raises(ImageError, match="more than 50,000,000"):  # it would be decoded whole, to find its end
        decode_image(resized(JPEG, 10_000, 8_000)[:-2])


def test_a_jpeg_of_more_scans_than_any_has_is_refused_unread() -> None:
    whole = encode(PICTURE, "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xc4") : -2]
    for between in (b"", b"\xff\x01"):  # which has no content, though it looks as if the scans were that
        with pytest.raises(ImageError, match="cannot be read"):
            decode_image(whole[:-2] + between + last * 50 + whole[-2:])


@pytest.mark.parametrize("head", [b"\xff\xd8", b"GIF89a" + bytes(7), PNG[:8], b"RIFF\xff\xff\xff\xffWEBP"])
@pytest.mark.parametrize("filling", [b"\xff", b"\0", b"!\xfe\1\0\0", b"\xff\xe1\0\2"])
def test_megabytes_of_nothing_are_refused_at_once(head: bytes, filling: bytes) -> None:
    started = time.process_time()
    with pytest.raises(ImageError):
        decode_image(head + filling * (2_000_000 // len(filling)) + b"\0")
    assert time.process_time() - started < 10  # where it went over them again and again it would take hours


def test_segments_that_no_photo_has_are_refused_at_once() -> None:
    whole = encode(PICTURE, "JPEG", progressive=True)
    table = whole.index(b"\xff\xc4")
    scan = b"\xff\xda\xff\xff\xff" + bytes(65_529) + b"\x00\xff\x00"  # as if it had 255 components
    for file in (
        whole[:-2] + scan * 30,
        whole[:table] + b"\xff\xdd\x00\x04\x00\x00" * 10**6 + whole[table:],
        whole[:table] + b"\xff\xfe\x00\x02" * 10**6 + whole[table:-2],
    ):
        started = time.process_time()
        with pytest.raises(ImageError, match="cannot be read"):
            decode_image(file)
        assert time.process_time() - started < 0.5


def test_exif_is_read_as_far_as_it_can_be() -> None:
    turned = np.asarray(PICTURE.rotate(90, expand=True))
    stored = encode(PICTURE)
    for order, exif in (("little", EXIF), ("big", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0")):
        expected = PICTURE.transpose(Image.Transpose.ROTATE_270 if order == "little" else Image.Transpose.ROTATE_90)
        assert np.array_equal(np.asarray(decode_image(png_with(stored, chunk(b"eXIf", exif)))), np.asarray(expected))
    assert turned.shape == np.asarray(expected).shape

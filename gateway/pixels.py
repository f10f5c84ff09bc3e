"""How many pixels an image file says it has, by its first bytes. The handler decodes it, and checks it again."""

import struct

from gateway.limits import SMALL_IMAGE_BYTES, SMALL_IMAGE_PIXELS

NO_FRAME = (0xC4, 0xC8, 0xCC)  # among JPEG's markers of frames, 0xC0 to 0xCF, those of tables
MAX_SEGMENTS = 100  # before the frame; cameras write a dozen


def is_small(image: bytes) -> bool:
    """Say whether an image may share a call."""
    return len(image) <= SMALL_IMAGE_BYTES and pixels(image) <= SMALL_IMAGE_PIXELS


def pixels(image: bytes) -> int:
    """Return width times height; 0 for a file that does not say it where its format has it."""
    try:
        return _pixels(image)
    except (IndexError, struct.error):
        return 0


def _pixels(image: bytes) -> int:
    if image.startswith(b"\xff\xd8"):
        return _of_jpeg(image)
    if image.startswith(b"\x89PNG"):
        width, height = struct.unpack_from(">II", image, 16)
    elif image.startswith(b"GIF8"):
        width, height = struct.unpack_from("<HH", image, 6)
    elif image[8:15] == b"WEBPVP8":
        width, height = _of_webp(image)
    else:
        return 0
    return width * height


def _of_jpeg(image: bytes) -> int:
    at = 2
    for _ in range(MAX_SEGMENTS):
        marker, length = struct.unpack_from(">xBH", image, at)
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            height, width = struct.unpack_from(">HH", image, at + 5)
            return width * height
        at += 2 + length
    return 0


def _of_webp(image: bytes) -> tuple[int, int]:
    kind = image[15:16]
    if kind == b"X":
        return 1 + int.from_bytes(image[24:27], "little"), 1 + int.from_bytes(image[27:30], "little")
    if kind == b"L":
        (bits,) = struct.unpack_from("<I", image, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", image, 26)
    return width & 0x3FFF, height & 0x3FFF

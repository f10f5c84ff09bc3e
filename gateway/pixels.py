"""How many pixels an image file says it has, by its first bytes. The handler decodes it, and checks it again."""

import re
import struct

from gateway.limits import SMALL_IMAGE_BYTES, SMALL_IMAGE_PIXELS

JPEG = b"\xff\xd8"
MARKER = re.compile(rb"\xff[^\x00\xff]")  # of a JPEG; 255 may also pad before a marker
NO_MARKER = (0x00, 0xFF)  # behind 255
WITHOUT_CONTENT = {0x01, *range(0xD0, 0xD9)}
NO_FRAME = (0xC4, 0xC8, 0xCC)  # among JPEG's markers of frames, 0xC0 to 0xCF, those of tables
MAX_SEGMENTS = 100  # before the frame; cameras write a dozen
MAX_SUB_BLOCKS = 1000  # of a GIF's extension
FRAME, EXTENSION = b",!"  # of a GIF


def is_small(image: bytes) -> bool:
    """Say whether an image may share a call. One that does not say its size goes alone, because it may be large."""
    return len(image) <= SMALL_IMAGE_BYTES and 0 < pixels(image) <= SMALL_IMAGE_PIXELS


def pixels(image: bytes) -> int:
    """Return width times height; 0 for a file that does not say it where its format has it."""
    try:
        return _pixels(image)
    except (IndexError, struct.error):
        return 0


def _pixels(image: bytes) -> int:
    if image.startswith(JPEG):
        return _of_jpeg(image)
    if image.startswith(b"\x89PNG") and image[12:16] == b"IHDR":
        width, height = struct.unpack_from(">II", image, 16)
    elif image.startswith(b"GIF8"):
        width, height = _of_gif(image)
    elif image[8:12] == b"WEBP":
        width, height = _of_webp(image)
    else:
        return 0
    return width * height


def _of_jpeg(image: bytes) -> int:
    at = 2
    for _ in range(MAX_SEGMENTS):
        if image[at] != 0xFF or image[at + 1] in NO_MARKER:  # as hardly ever, so that few files are searched
            found = MARKER.search(image, at)
            if not found:
                break
            at = found.start()
        marker, at = image[at + 1], at + 2
        if marker in WITHOUT_CONTENT:
            continue
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            height, width = struct.unpack_from(">HH", image, at + 3)
            return width * height
        at += image[at] << 8 | image[at + 1]
    return 0


def _of_gif(image: bytes) -> tuple[int, int]:
    """Return width and height of the screen, or of its first frame if that reaches beyond it."""
    width, height, flags = struct.unpack_from("<HHB", image, 6)
    at = 13 + (3 << 1 + (flags & 7) if flags & 0x80 else 0)  # behind the table of colours
    for _ in range(MAX_SEGMENTS):
        if image[at] == FRAME:
            left, top, frame_width, frame_height = struct.unpack_from("<4H", image, at + 1)
            return max(width, left + frame_width), max(height, top + frame_height)
        if image[at] != EXTENSION:
            break
        at += 2  # the extension and its kind
        for _ in range(MAX_SUB_BLOCKS):
            length, at = image[at], at + 1
            if not length:
                break
            at += length
        else:
            break
    return 0, 0


def _of_webp(image: bytes) -> tuple[int, int]:
    kind, length = struct.unpack_from("<4sI", image, 12)
    if kind == b"VP8X" and length >= 10:
        return 1 + int.from_bytes(image[24:27], "little"), 1 + int.from_bytes(image[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", image, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", image, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0  # the decoder looks for the size behind this chunk

"""What of an image file its pixels need: metadata is left out unread, so however it is broken it spoils nothing.

Browsers do the same: they show an image whose text, colour profile or comments cannot be read.
"""

import re
import struct
import zlib
from typing import NamedTuple

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_HEADER, PNG_PALETTE, PNG_TRANSPARENCY, PNG_PIXELS, PNG_END = b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"
GREY, COLOUR, PALETTE = 0, 2, 3  # colour types of a PNG

JPEG_MAGIC = b"\xff\xd8\xff"
JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])")  # a byte 0 follows a 255 that is none, and 255 may fill up before one
JPEG_AFTER_ROWS = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # the next marker but restarts, which stand among rows
BARE = {0x01, *range(0xD0, 0xD9)}  # markers without content
SOI, END, SCAN, APP0, APP1, APP14, APP15, COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = {0xC2, 0xCA}
JPEG_END = bytes([0xFF, END])
MAX_SCANS = 50  # a usual progressive JPEG has 10; each costs a walk over all pixels, and takes but some bytes

GIF_MAGIC = (b"GIF87a", b"GIF89a")
IMAGE, EXTENSION, CONTROL = b",", b"!", 0xF9

ORIENTATION, UPRIGHT = 0x0112, 1
KINDS = {3: "H", 4: "I"}  # of EXIF: numbers of 16 and 32 bits


class Damaged(ValueError):
    """A file that breaks off, or is contradictory, where its pixels are at stake."""


class Essence(NamedTuple):
    """A file of the same format with the same pixels and no metadata, and what EXIF said of its orientation (1 to 8).

    `at_once` says that a decoder has to hold all of it in memory, as with a progressive JPEG.
    """

    data: bytes
    orientation: int = UPRIGHT
    at_once: bool = False


def of_png(data: bytes) -> Essence:
    """Keep the critical chunks, and transparency of the right length.

    Raises Damaged for a critical chunk with a wrong check sum. If the file breaks off in the last of its pixels, the
    decoder has to find out whether some are missing.
    """
    critical: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    transparency, orientation = b"", UPRIGHT
    at = len(PNG_MAGIC)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content, at = data[at + 8 : at + 8 + length], at + 12 + length
        sound = data[at - 4 : at] == struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
        if kind == PNG_END:
            break
        if kind == PNG_PIXELS:
            if not sound and at <= len(data):
                raise Damaged("The pixels have a wrong check sum.")
            pixels.append(content)
        elif kind in (PNG_HEADER, PNG_PALETTE):
            if not sound:
                raise Damaged("The header or palette has a wrong check sum.")
            critical.setdefault(kind, content)
        elif kind == PNG_TRANSPARENCY and sound:
            transparency = transparency or content
        elif kind == b"eXIf" and sound:
            orientation = orientation_of(content)
    if not pixels or len(critical.get(PNG_HEADER, b"")) != 13:
        raise Damaged("There are no pixels.")
    chunks = list(critical.items())
    if _is_transparency(transparency, critical[PNG_HEADER][9], critical.get(PNG_PALETTE, b"")):
        chunks.append((PNG_TRANSPARENCY, transparency))
    chunks += [(PNG_PIXELS, b"".join(pixels)), (PNG_END, b"")]
    return Essence(PNG_MAGIC + b"".join(_chunk(kind, content) for kind, content in chunks), orientation)


def _is_transparency(content: bytes, colour_type: int, palette: bytes) -> bool:
    """Say whether this is as long as the standard has it; another counts as none."""
    if colour_type == PALETTE:
        return 0 < len(content) <= len(palette) // 3
    return len(content) == {GREY: 2, COLOUR: 6}.get(colour_type)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def of_jpeg(data: bytes) -> Essence:
    """Keep what is no comment and no application's but JFIF and Adobe, which say how colours are stored.

    Raises Damaged without a scan, or with more than MAX_SCANS.
    """
    kept, orientation, components, progressive = [bytes([0xFF, SOI])], UPRIGHT, 0, False
    at = 2
    while found := JPEG_MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker in BARE:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        content = data[at + 2 : at + length]
        if marker == END or at + length > len(data):
            break
        if marker == SCAN:
            scans = data.count(bytes([0xFF, SCAN]), at - 2)
            if scans > MAX_SCANS:
                raise Damaged(f"There are {scans} scans.")
            at_once = progressive or content[:1] < bytes([components])
            return Essence(b"".join([*kept, data[at - 2 :]]), orientation, at_once)
        if marker == APP1 and content.startswith(b"Exif\0\0") and orientation == UPRIGHT:
            orientation = orientation_of(content[6:])
        if marker in FRAMES and len(content) > 5:
            components, progressive = content[5], marker in PROGRESSIVE
        if _is_of_pixels(marker, content):
            kept.append(data[at - 2 : at + max(length, 2)])
        at += max(length, 2)  # a shorter one is wrong, and read as one without content
    raise Damaged("There is no scan.")


def _is_of_pixels(marker: int, content: bytes) -> bool:
    if marker == APP0:
        return content.startswith(b"JFIF\0") and len(content) >= 14
    if marker == APP14:
        return content.startswith(b"Adobe") and len(content) >= 12
    return not (APP0 <= marker <= APP15 or marker == COMMENT)


def has_end(jpeg: bytes) -> bool:
    return jpeg.rfind(JPEG_END) >= 0


def without_end(jpeg: bytes) -> bytes:
    """Return a JPEG, of which `of_jpeg` left the essence, without the zeros that a copy which broke off is filled with.

    Raises Damaged where scans are missing: then it is the whole image, but a coarse one.
    """
    bits: dict[tuple[int, int], int] = {}  # by component and coefficient: how many bits are still to come
    components: list[int] = []
    progressive, at = False, 2
    while found := JPEG_AFTER_ROWS.search(jpeg, at):
        marker, at = found[1][0], found.end()
        if at + 2 > len(jpeg):
            break
        content = jpeg[at + 2 : at + int.from_bytes(jpeg[at : at + 2])]
        if marker in FRAMES:
            components, progressive = list(content[6::3]), marker in PROGRESSIVE
        if marker == SCAN:
            first, last, low = (content[-3], content[-2], content[-1] & 15) if progressive else (0, 63, 0)
            bits |= {(name, each): low for name in content[1:-3:2] for each in range(first, last + 1)}
        at += 2 + len(content)
    if any(bits.get((name, each), 1) for name in components for each in range(64)):
        raise Damaged("There are scans missing.")
    stripped = jpeg.rstrip(b"\0")
    # Rows may end with zeros, but hardly with more than two; the 0 that belongs to a 255 may have been cut off.
    zeros = max(len(jpeg) - len(stripped), stripped.endswith(b"\xff"))
    return stripped + bytes(min(zeros, 2))


def of_gif(data: bytes) -> Essence:
    """Keep the first frame, and which of its colours is transparent; what follows it is not decoded."""
    at = 13 + _palette_size(data[10])
    control = b""
    while data[at : at + 1] != IMAGE:
        if data[at : at + 1] == EXTENSION:
            label, size = data[at + 1], data[at + 2]
            if label == CONTROL and size >= 4:
                transparent = data[at + 3] & 1  # how it is disposed of, and when, matters to what follows alone
                control = bytes([0x21, CONTROL, 4, transparent, 0, 0, data[at + 6], 0])
            at += 2
            while data[at]:
                at += 1 + data[at]
        elif at >= len(data):
            raise Damaged("There is no image.")
        at += 1
    return Essence(data[: 13 + _palette_size(data[10])] + control + data[at:])


def _palette_size(flags: int) -> int:
    """Return the bytes of a palette that flags tell of."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def orientation_of(exif: bytes) -> int:
    """Return what EXIF, in its TIFF form, says of the orientation; UPRIGHT where that cannot be read."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is None:
            return UPRIGHT
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHI", exif, entry)
            if tag == ORIENTATION and kind in KINDS and values == 1:
                (value,) = struct.unpack_from(order + KINDS[kind], exif, entry + 8)
                return value if 1 <= value <= 8 else UPRIGHT
    except struct.error:  # it breaks off, or points beyond its end
        pass
    return UPRIGHT

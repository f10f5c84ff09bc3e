"""All preprocessing: from the bytes of an image file to the array that a network takes.

Training, export and serving all import this module, so a prediction is made the way the network was trained. Each
model has its own Preprocessing, which travels in its card.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import filetype
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

PIXELS_VERSION = 2  # raise it if the same file and Preprocessing give other pixels; it keeps old ones out of caches
MAX_PIXELS = 50_000_000  # of an image that is decoded as one piece
MAX_JPEG_PIXELS = 200_000_000  # of a JPEG, which is decoded row by row at an eighth of its size
MAX_PROGRESSIVE_SAMPLES = 200_000_000  # values of all colours; a decoder holds 400 MB for them
STRIP = 256  # rows that are laid over white at once
LEAST_DECODED = 128  # pixels: no side of a JPEG that is decoded at a half, a quarter or an eighth falls below
# Bytes that no image continues with: 256 bytes, and each of the eight restart markers that a row may wait for.
IMPROBABLE_BYTES = b"".join(
    bytes((73 * number + 90) % 251 for number in range(256)) + bytes([0xFF, mark]) for mark in range(0xD0, 0xD8)
)
TURN_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_HEADER, PNG_PALETTE, PNG_TRANSPARENCY, PNG_PIXELS, PNG_END = b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"
GREY, COLOUR, PALETTE = 0, 2, 3  # colour types of a PNG

# 255 before a 0 is no marker, and may also pad before one. Those that restart stand between rows.
JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
TEM, SOI, END, SCAN, APP0, APP1, APP14, APP15, COMMENT = 0x01, 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PROGRESSIVE_MARKERS = {0xC2, 0xCA}
JPEG_END = bytes([0xFF, END])
MAX_SCANS = 50  # a usual progressive JPEG has 10; a scan of a few bytes costs a pass over all pixels
MAX_SEGMENTS = 1000  # a photo has dozens
MAX_PIECES = 50_000  # of a PNG, GIF or WebP; with 255 bytes in each, as in a GIF, they are more than 12 MB
MAX_SCAN_COMPONENTS, COEFFICIENTS = 4, 64  # of the standard

GIF_BLOCK = re.compile(rb"[,!;]")
IMAGE, EXTENSION, CONTROL = b",", b"!", 0xF9

WEBP_HEADER, WEBP_ALPHA, WEBP_FRAME, WEBP_LOSSY, WEBP_LOSSLESS = b"VP8X", b"ALPH", b"ANMF", b"VP8 ", b"VP8L"
ANIMATED, TRANSPARENT = 0x02, 0x10  # flags in the header of a WebP

ORIENTATION, UPRIGHT = 0x0112, 1
EXIF_NUMBER_FORMATS = {3: "H", 4: "I"}  # by EXIF's code: numbers of 16 and 32 bits


Pixels = NDArray[np.uint8]
Normalised = NDArray[np.float32]
Colour = tuple[float, float, float]  # red, green and blue, from 0 to 1
Part = tuple[float, float, float, float]  # of an image: left, top, right and bottom, as shares of its width and height


class Preprocessing(NamedTuple):
    """How an image becomes the input of one network: `size` pixels wide and high, less `mean`, over `std`.

    `fit` makes it square: `squeeze` changes its proportions, `crop` takes the middle, and `pad` adds bars of the mean.
    """

    size: int
    fit: Literal["squeeze", "crop", "pad"] = "squeeze"
    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.5, 0.5, 0.5)

    @property
    def offset(self) -> Normalised:
        """The mean, (3, 1, 1), of pixels of 0 to 255."""
        return _of_pixels(self.mean)

    @property
    def scale(self) -> Normalised:
        """The deviation, (3, 1, 1), of pixels of 0 to 255."""
        return _of_pixels(self.std)

    def pixels(self, image: Image.Image) -> Pixels:
        """Bring an RGB image to the size of the network: uint8 of shape (3, size, size)."""
        square, method = (self.size, self.size), Image.Resampling.BILINEAR
        if self.fit == "crop":
            resized = ImageOps.fit(image, square, method)
        elif self.fit == "pad":
            resized = ImageOps.pad(image, square, method, tuple(round(255 * value) for value in self.mean))
        else:
            resized = image.resize(square, method)
        return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))

    def part(self, width: int, height: int) -> Part:
        """Return which part of an image of this size `pixels` shows. The bars of `pad` lie outside of 0 to 1."""
        if self.fit == "squeeze":
            return 0.0, 0.0, 1.0, 1.0
        half = (min if self.fit == "crop" else max)(width, height) / 2  # of a side of the square
        return 0.5 - half / width, 0.5 - half / height, 0.5 + half / width, 0.5 + half / height

    def normalise(self, pixels: Pixels) -> Normalised:
        """Turn pixels of 0 to 255, shape (..., 3, H, W), into the values that the network takes."""
        return (pixels.astype(np.float32) - self.offset) / self.scale


@cache
def _of_pixels(colour: Colour) -> Normalised:
    return np.array(colour, dtype=np.float32).reshape(3, 1, 1) * np.float32(255)


def inputs_of(card: dict[str, Any]) -> list[Preprocessing]:
    """Return the preprocessing of each input that the network of a model card takes; most have one."""
    return [
        Preprocessing(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})
        for values in card["preprocessing"]
    ]


class ImageError(ValueError):
    """An image that cannot be predicted; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def decode_image(data: bytes, size: int = 0) -> Image.Image:
    """Decode an image of one of FORMATS to an RGB image, upright by its EXIF orientation.

    Transparent pixels are laid over white, and of an animation it is the first frame. Broken metadata is ignored. A
    large JPEG is decoded at a smaller size, in a third of the time; no side falls below twice the `size` that is
    wanted, in pixels, nor below LEAST_DECODED. Raises ImageError: 415 for another format, 400 for damaged pixels or too
    many of them.
    """
    known = next((known for known in (*FORMATS.values(), *OPTIONAL_FORMATS.values()) if known.magic.match(data)), None)
    if known is None:
        raise _unidentified(data)
    try:
        essence = known.essence_of(data)
        image = known.reader(io.BytesIO(essence.data))
        _check_size(image.size, MAX_JPEG_PIXELS if isinstance(image, JpegImageFile) else MAX_PIXELS)
        if isinstance(image, JpegImageFile):
            wanted = (max(LEAST_DECODED, 2 * size),) * 2
            if essence.at_once and _samples(image) > MAX_PROGRESSIVE_SAMPLES:
                raise ImageError("The image is too large a progressive JPEG; send a smaller one, or a plain one.")
            if not has_end(essence.data):
                image = JpegImageFile(io.BytesIO(_with_end(essence.data, wanted)))
            image.draft(None, wanted)
        turn = TURN_BY_ORIENTATION.get(essence.orientation)
        return _to_rgb(image if turn is None else image.transpose(turn))  # damaged pixels may show only here
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    except Exception as error:  # Pillow's parsers raise many kinds of errors for damaged files.
        raise _damaged() from error


def test_transform(image: Image.Image, preprocessing: Preprocessing) -> Normalised:
    """Turn an RGB image into a network's input: float32 of shape (3, size, size)."""
    return preprocessing.normalise(preprocessing.pixels(image))


def read_pixels(data: bytes, inputs: list[Preprocessing]) -> list[Pixels]:
    """Decode an image file to the pixels of each input of a network. Raises ImageError as `decode_image` does."""
    image = decode_for(data, inputs)
    return [each.pixels(image) for each in inputs]


def decode_for(data: bytes, inputs: list[Preprocessing]) -> Image.Image:
    """Decode an image file as large as the largest input needs. Raises ImageError as `decode_image` does."""
    return decode_image(data, max(each.size for each in inputs))


def _check_size(size: tuple[int, int], limit: int) -> None:
    if size[0] * size[1] > limit:
        raise _too_many_pixels()


def _samples(image: JpegImageFile) -> float:
    """Return the number of stored values of all colours; a colour may have half the width or height."""
    shares = [width * height for _, width, height, _ in image.layer]
    return image.width * image.height * sum(shares) / max(shares)


def _with_end(jpeg: bytes, wanted: tuple[int, int]) -> bytes:
    """Return a JPEG with the end marker that it lacks. Raises ImageError if rows are missing too.

    The decoder would fill missing rows with the bytes that follow, so two continuations give two images.
    """
    rows, sums = without_end(jpeg), []
    for rest in (JPEG_END, IMPROBABLE_BYTES + JPEG_END):
        image = JpegImageFile(io.BytesIO(rows + rest))
        _check_size(image.size, MAX_PIXELS)
        image.draft(None, wanted)
        sums.append(zlib.crc32(image.tobytes()))
    if sums[0] != sums[1]:
        raise _damaged()
    return rows + JPEG_END


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: convert() would clip it to white
        samples = np.asarray(image)
        grey = (samples >> 8).astype(np.uint8)
        grey[samples == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def _over_white(image: Image.Image) -> Image.Image:
    """Lay an image over white, a strip at a time, because the layers take four times the memory of the result."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP):
        box = (0, top, image.width, min(top + STRIP, image.height))
        layer = image.crop(box).convert("RGBA")
        result.paste(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"), box)
    return result


def is_pointer(data: bytes) -> bool:
    """Return whether this is a pointer that Git LFS left in place of the image."""
    return data.startswith(b"version https://git-lfs.github.com/spec/")


def _unidentified(data: bytes) -> ImageError:
    if not data:
        return ImageError(f"The file is empty; it cannot be read as a {FORMAT_NAMES}.")
    if is_pointer(data):
        return ImageError("The file is a pointer of Git LFS, and not the image itself; run git lfs pull.")
    if HEIC_MAGIC.match(data):
        return ImageError("The file is a HEIC photo; install pillow-heif to read it, or send a JPEG.", status=415)
    kind = filetype.guess(data)
    if kind is None or any(kind.mime == known.media_type for known in FORMATS.values()):
        return _damaged()
    return ImageError(f"The file is of type {kind.mime}; send a {FORMAT_NAMES}.", status=415)


def _too_many_pixels() -> ImageError:
    return ImageError(
        f"The image has more than {MAX_PIXELS:,} pixels, or {MAX_JPEG_PIXELS:,} if it is a JPEG; send a smaller one."
    )


def _damaged() -> ImageError:
    return ImageError(f"The file cannot be read as a {FORMAT_NAMES}; it may be damaged.")


# The parts of an image file that its pixels need. Metadata is left out unread, because browsers also show an image
# whose text, colour profile or comments cannot be read.


class Damaged(ValueError):
    """A file whose pixels are cut short, or contradict each other."""


class Essence(NamedTuple):
    """A file of the same format and pixels, without metadata, and the orientation that EXIF named (1 to 8).

    `at_once` says that a decoder has to hold all of it in memory, as with a progressive JPEG.
    """

    data: bytes
    orientation: int = UPRIGHT
    at_once: bool = False


def of_png(data: bytes) -> Essence:
    """Keep the critical chunks, and the transparency if its length is right.

    Raises Damaged for a critical chunk with a wrong check sum. If the file is cut short in its last pixels, the
    decoder finds out whether some are missing.
    """
    critical: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    transparency, orientation = b"", UPRIGHT
    at = len(PNG_MAGIC)
    for _ in _pieces():
        if at + 8 > len(data):
            break
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
    depth, colour_type = critical[PNG_HEADER][8:10]
    if _is_transparency(transparency, colour_type, critical.get(PNG_PALETTE, b"")):
        chunks.append((PNG_TRANSPARENCY, _as_decoded(transparency, depth, colour_type)))
    chunks += [(PNG_PIXELS, b"".join(pixels)), (PNG_END, b"")]
    return Essence(PNG_MAGIC + b"".join(_chunk(kind, content) for kind, content in chunks), orientation)


def _is_transparency(content: bytes, colour_type: int, palette: bytes) -> bool:
    """Return whether transparency has the length that the standard demands; otherwise it is ignored."""
    if colour_type == PALETTE:
        return 0 < len(content) <= len(palette) // 3
    return len(content) == {GREY: 2, COLOUR: 6}.get(colour_type)


def _as_decoded(colour: bytes, depth: int, colour_type: int) -> bytes:
    """Return a transparent colour as Pillow compares it with decoded pixels: in 8 bits, but for grey of 16."""
    if colour_type == PALETTE or depth == 8 or (depth == 16 and colour_type == GREY):
        return colour
    samples, greatest = struct.unpack(f">{len(colour) // 2}H", colour), 2**depth - 1
    scaled = (sample >> 8 if depth == 16 else (sample & greatest) * 255 // greatest for sample in samples)
    return struct.pack(f">{len(samples)}H", *scaled)


def _pieces() -> Iterator[int]:
    """Count the pieces of a file. Raises Damaged if there are more than MAX_PIECES, because each takes time."""
    yield from range(MAX_PIECES)
    raise Damaged(f"There are more than {MAX_PIECES:,} pieces.")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def of_jpeg(data: bytes) -> Essence:
    """Leave out comments and application segments, except JFIF and Adobe, which say how colours are stored.

    Raises Damaged without a scan, or with more than MAX_SCANS.
    """
    kept, orientation, components, progressive = [bytes([0xFF, SOI])], UPRIGHT, 0, False
    for marker, content, place in _segments(data, 2):
        if marker == SCAN:
            at_once = progressive or content[:1] < bytes([components])
            if at_once and _scans(data, place) > MAX_SCANS:  # otherwise the decoder reads a single one
                raise Damaged(f"There are more than {MAX_SCANS} scans.")
            return Essence(b"".join([*kept, memoryview(data)[place:]]), orientation, at_once)
        if marker == APP1 and content.startswith(b"Exif\0\0") and orientation == UPRIGHT:
            orientation = orientation_of(content[6:])
        if marker in FRAME_MARKERS and len(content) > 5:
            components, progressive = content[5], marker in PROGRESSIVE_MARKERS
        if _is_of_pixels(marker, content):
            kept.append(data[place : place + 4 + len(content)])
    raise Damaged("There is no scan.")


def _scans(jpeg: bytes, at: int) -> int:
    """Count the scans from `at` to the end of the image, but only if there may be more than MAX_SCANS."""
    seeming = jpeg.count(bytes([0xFF, SCAN]), at)  # with those of the film that phones put behind
    return seeming if seeming <= MAX_SCANS else sum(marker == SCAN for marker, *_ in _segments(jpeg, at))


def _segments(jpeg: bytes, at: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield the marker, the content and the place of each complete segment from `at` to the end of the image.

    Raises Damaged if there are more than MAX_SEGMENTS, because each takes time.
    """
    for _ in range(MAX_SEGMENTS):
        match = JPEG_MARKER.search(jpeg, at)
        if not match:
            return
        place, at = match.span()
        marker = jpeg[at - 1]
        if marker == END or at + 2 > len(jpeg):
            return
        if marker in (TEM, SOI):  # which have no content
            continue
        length = jpeg[at] << 8 | jpeg[at + 1]
        begin, at = at + 2, at + max(length, 2)  # a shorter one is wrong; the segment counts as empty
        if at > len(jpeg):
            return
        yield marker, jpeg[begin:at], place
    raise Damaged(f"There are more than {MAX_SEGMENTS:,} segments.")


def _is_of_pixels(marker: int, content: bytes) -> bool:
    if marker == APP0:
        return content.startswith(b"JFIF\0") and len(content) >= 14
    if marker == APP14:
        return content.startswith(b"Adobe") and len(content) >= 12
    return not (APP0 <= marker <= APP15 or marker == COMMENT)


def has_end(jpeg: bytes) -> bool:
    return jpeg.rfind(JPEG_END) >= 0


def without_end(jpeg: bytes) -> bytes:
    """Return the essence of a JPEG without the zeros that fill up an interrupted copy.

    Raises Damaged if scans are missing: such a file shows the complete image, but only a coarse one.
    """
    bits: dict[tuple[int, int], int] = {}  # by component and coefficient: the number of missing bits
    components: list[int] = []
    progressive = False
    for marker, content, _ in _segments(jpeg, 2):
        if marker in FRAME_MARKERS:
            components, progressive = list(content[6::3]), marker in PROGRESSIVE_MARKERS
        if marker == SCAN:
            if not content or content[0] > MAX_SCAN_COMPONENTS or len(content) != 4 + 2 * content[0]:
                raise Damaged("A scan has components that none can have.")
            first, last, low = (content[-3], content[-2], content[-1] & 15) if progressive else (0, 63, 0)
            coefficients = range(first, min(last + 1, COEFFICIENTS))
            bits |= {(name, place): low for name in content[1:-3:2] for place in coefficients}
    if any(bits.get((name, place), 1) for name in components for place in range(COEFFICIENTS)):
        raise Damaged("There are scans missing.")
    stripped = jpeg.rstrip(b"\0")
    # Rows may end with zeros, but hardly with more than two. The 0 that follows a 255 may have been cut off.
    zeros = max(len(jpeg) - len(stripped), stripped.endswith(b"\xff"))
    return stripped + bytes(min(zeros, 2))


def of_gif(data: bytes) -> Essence:
    """Keep the first frame and its transparent colour; later frames are not decoded."""
    at, control, pieces = 13 + _palette_size(data[10]), b"", _pieces()
    while (block := GIF_BLOCK.search(data, at)) and block[0] == EXTENSION:
        at = block.end()
        label, size = data[at], data[at + 1]
        if label == CONTROL and size >= 4:
            transparent = data[at + 2] & 1  # the disposal method and delay matter to later frames only
            control = bytes([0x21, CONTROL, 4, transparent, 0, 0, data[at + 5], 0])
        at += 1
        while data[at]:
            at += 1 + data[at]
            next(pieces)
        at += 1
        next(pieces)
    if block is None or block[0] != IMAGE:
        raise Damaged("There is no image.")
    at = block.start()
    return Essence(data[: 13 + _palette_size(data[10])] + control + data[at:])


def _palette_size(flags: int) -> int:
    """Return the size in bytes of the palette that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def of_webp(data: bytes) -> Essence:
    """Keep the pixels with their transparency; of an animation, those of its first frame.

    Raises Damaged if the pixels are cut short, and ImageError if there are too many. The number is read here, because
    the decoder allocates memory for all of them before it tells their number.
    """
    header, transparency, pixels, orientation = b"", b"", b"", UPRIGHT
    for kind, content in _webp_chunks(data):
        if kind == b"EXIF" and orientation == UPRIGHT:
            orientation = orientation_of(content.removeprefix(b"Exif\0\0"))
        elif pixels:
            continue
        elif kind == WEBP_HEADER:
            header = header or content[:10]
        elif kind == WEBP_ALPHA:
            transparency = transparency or _webp_chunk(kind, content)
        elif kind == WEBP_FRAME:
            pixels = _webp_chunk(b"ANIM", bytes(6)) + _webp_chunk(kind, content)
            header = header and bytes([ANIMATED | TRANSPARENT]) + header[1:]  # transparent around a smaller frame
        elif kind in (WEBP_LOSSY, WEBP_LOSSLESS):
            _check_size(_webp_size(kind, content), MAX_PIXELS)
            pixels = transparency + _webp_chunk(kind, content)
            header = header and bytes([header[0] & TRANSPARENT]) + header[1:]
    if not pixels:
        raise Damaged("There are no pixels.")
    if header:
        width, height = (int.from_bytes(header[at : at + 3], "little") + 1 for at in (4, 7))
        _check_size((width, height), MAX_PIXELS)
        pixels = _webp_chunk(WEBP_HEADER, header) + pixels
    return Essence(_webp_chunk(b"RIFF", b"WEBP" + pixels), orientation)


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the complete chunks."""
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    at = 12
    for _ in _pieces():
        if at + 8 > end:
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        at += 8
        if at + length > end:
            return
        yield kind, data[at : at + length]
        at += length + length % 2


def _webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _webp_size(kind: bytes, content: bytes) -> tuple[int, int]:
    """Return the width and height that stand at the beginning of the pixels."""
    if kind == WEBP_LOSSY:
        width, height = struct.unpack_from("<HH", content, 6)
        return width & 0x3FFF, height & 0x3FFF
    bits = int.from_bytes(content[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _read_webp(file: io.BytesIO) -> Image.Image:
    """Decode a WebP and release its decoder, which holds 8 bytes for each pixel."""
    return WebPImageFile(file).copy()


def of_heic(data: bytes) -> Essence:
    """Keep everything. The decoder turns the image upright itself, and reads no metadata that it does not need."""
    return Essence(data)


def _read_heic(file: io.BytesIO) -> Image.Image:
    from pillow_heif.as_plugin import HeifImageFile  # here, because the package may be missing

    return HeifImageFile(file)


def orientation_of(exif: bytes) -> int:
    """Return the orientation in EXIF data, which has TIFF's form; UPRIGHT if it cannot be read."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is None:
            return UPRIGHT
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHI", exif, entry)
            if tag == ORIENTATION and kind in EXIF_NUMBER_FORMATS and values == 1:
                (value,) = struct.unpack_from(order + EXIF_NUMBER_FORMATS[kind], exif, entry + 8)
                return value if 1 <= value <= 8 else UPRIGHT
    except struct.error:  # the data is cut short, or points beyond its end
        pass
    return UPRIGHT


class Format(NamedTuple):
    """An image format: the first bytes of its files, their readers, its media type, and its suffixes."""

    magic: re.Pattern[bytes]
    essence_of: Callable[[bytes], Essence]
    reader: Callable[[io.BytesIO], Image.Image]
    media_type: str
    suffixes: tuple[str, ...]


FORMATS = {
    "JPEG": Format(
        re.compile(rb"\xff\xd8\xff"), of_jpeg, JpegImageFile, "image/jpeg", (".jpg", ".jpeg", ".jpe", ".jfif")
    ),
    "PNG": Format(re.compile(re.escape(PNG_MAGIC)), of_png, PngImageFile, "image/png", (".png",)),
    "GIF": Format(re.compile(rb"GIF8[79]a"), of_gif, GifImageFile, "image/gif", (".gif",)),
    "WebP": Format(re.compile(rb"RIFF.{4}WEBP", re.DOTALL), of_webp, _read_webp, "image/webp", (".webp",)),
}
# Formats whose decoder is a package that may be missing: the extra `heic`.
HEIC_MAGIC = re.compile(rb".{4}ftyp(hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL)
OPTIONAL_FORMATS = {
    "HEIC": Format(HEIC_MAGIC, of_heic, _read_heic, "image/heic", (".heic", ".heif")),
}
if find_spec("pillow_heif") is None:
    OPTIONAL_FORMATS.clear()
*_FIRST, _LAST = FORMATS
FORMAT_NAMES = f"{', '.join(_FIRST)} or {_LAST}"

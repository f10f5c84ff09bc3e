"""The only home of preprocessing: from the bytes of an image file to the tensor a network sees.

Training, export and serving all import this module, so a prediction is made the way the network was trained.
"""

import io
import zlib
from collections.abc import Callable
from typing import NamedTuple

import filetype
import numpy as np
import torch
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from handler.containers import (
    GIF_MAGIC,
    JPEG_END,
    JPEG_MAGIC,
    PNG_MAGIC,
    Essence,
    has_end,
    of_gif,
    of_jpeg,
    of_png,
    without_end,
)

INPUT_SIZE = 32
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


class Format(NamedTuple):
    """What a file of a format begins with, and how it is read."""

    magic: tuple[bytes, ...]
    essence_of: Callable[[bytes], Essence]
    reader: type[ImageFile]


FORMATS = {
    "JPEG": Format((JPEG_MAGIC,), of_jpeg, JpegImageFile),
    "PNG": Format((PNG_MAGIC,), of_png, PngImageFile),
    "GIF": Format(GIF_MAGIC, of_gif, GifImageFile),
}
MAX_PIXELS = 50_000_000  # decoded at once
MAX_JPEG_PIXELS = 200_000_000  # decoded in rows of blocks, to an eighth of its size
MAX_PROGRESSIVE_SAMPLES = 200_000_000  # of all colours, for which a decoder holds 400 MB
ENOUGH = (
    4 * INPUT_SIZE,
    4 * INPUT_SIZE,
)  # pixels of a JPEG that is decoded at a half, a quarter or an eighth of its size
# What no image goes on with: in all, 256 bytes and each of the eight restart marks a row may wait for.
NOISE = b"".join(
    bytes((73 * number + 90) % 251 for number in range(256)) + bytes([0xFF, mark]) for mark in range(0xD0, 0xD8)
)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by the orientation that EXIF tells


class ImageError(ValueError):
    """An image that cannot be classified; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def decode_image(data: bytes) -> Image.Image:
    """Decode a JPEG, PNG or the first frame of a GIF to an upright RGB image, transparency over white.

    Raises ImageError, as `decode_upright` does.
    """
    return decode_upright(data, _to_rgb)


def decode_upright(data: bytes, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Decode an image, turn it as EXIF tells, and convert it, which is where damaged pixels may show.

    Metadata that is broken counts as none. A large JPEG comes smaller, yet no side below that of ENOUGH, which takes a
    third of the time. Raises ImageError: 415 for another format, 400 for damaged pixels or too many of them.
    """
    known = next((known for known in FORMATS.values() if data.startswith(known.magic)), None)
    if known is None:
        raise _unidentified(data)
    try:
        essence = known.essence_of(data)
        image = known.reader(io.BytesIO(essence.data))
        _check_size(image, MAX_JPEG_PIXELS if isinstance(image, JpegImageFile) else MAX_PIXELS)
        if isinstance(image, JpegImageFile):
            if essence.at_once and _samples(image) > MAX_PROGRESSIVE_SAMPLES:
                raise ImageError("The image is too large a progressive JPEG; send a smaller one, or a plain one.")
            if not has_end(essence.data):
                image = JpegImageFile(io.BytesIO(_with_end(essence.data)))
            image.draft(None, ENOUGH)
        turn = TURNS.get(essence.orientation)
        return convert(image if turn is None else image.transpose(turn))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    except Exception as error:  # Pillow's parsers raise whatever damage makes them stumble over.
        raise _damaged() from error


def to_pixels(image: Image.Image) -> Tensor:
    """Resize an RGB image to what the network takes: uint8 of shape (3, INPUT_SIZE, INPUT_SIZE)."""
    resized = image.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def normalise(pixels: Tensor) -> Tensor:
    """Scale pixels of 0 to 255, shape (..., 3, H, W), to float32 with mean MEAN and deviation STD taken out."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) * 255 for values in (MEAN, STD))
    return (pixels.float() - mean) / std


def test_transform(image: Image.Image) -> Tensor:
    """Turn an RGB image into the network's input: float32 of shape (3, INPUT_SIZE, INPUT_SIZE)."""
    return normalise(to_pixels(image))


def _check_size(image: ImageFile, limit: int) -> None:
    if image.width * image.height > limit:
        raise _too_many_pixels()


def _samples(image: JpegImageFile) -> float:
    """Return the pixels of all colours together, some of which may be stored at half the width or height."""
    shares = [width * height for _, width, height, _ in image.layer]
    return image.width * image.height * sum(shares) / max(shares)


def _with_end(jpeg: bytes) -> bytes:
    """Return a JPEG that lacks its end mark with one. Raises ImageError where rows are missing as well.

    Then the decoder would fill them with whatever follows, and two ways to go on lead to two images.
    """
    rows, sums = without_end(jpeg), []
    for rest in (JPEG_END, NOISE + JPEG_END):
        image = JpegImageFile(io.BytesIO(rows + rest))
        _check_size(image, MAX_PIXELS)
        sums.append(zlib.crc32(image.tobytes()))
    if sums[0] != sums[1]:
        raise _damaged()
    return rows + JPEG_END


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: convert() would clip it to white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def is_pointer(data: bytes) -> bool:
    """Say whether Git LFS put this file in the place of the image."""
    return data.startswith(b"version https://git-lfs.github.com/spec/")


def _unidentified(data: bytes) -> ImageError:
    if not data:
        return ImageError("The file is empty; it cannot be read as a JPEG, PNG or GIF.")
    if is_pointer(data):
        return ImageError("The file is a pointer of Git LFS, and not the image itself; run git lfs pull.")
    kind = filetype.guess(data)
    if kind is None or kind.extension.upper().replace("JPG", "JPEG") in FORMATS:
        return _damaged()
    return ImageError(f"The file is of type {kind.mime}; send a JPEG, PNG or GIF.", status=415)


def _too_many_pixels() -> ImageError:
    return ImageError(
        f"The image has more than {MAX_PIXELS:,} pixels, or {MAX_JPEG_PIXELS:,} if it is a JPEG; send a smaller one."
    )


def _damaged() -> ImageError:
    return ImageError("The file cannot be read as a JPEG, PNG or GIF; it may be damaged.")

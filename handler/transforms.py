"""The only home of preprocessing: from the bytes of an image file to the tensor a network sees.

Training, export and serving all import this module, so a prediction is made the way the network was trained.
"""

import io
import warnings

import filetype
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

INPUT_SIZE = 32
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
FORMATS = ("JPEG", "PNG", "GIF")
MAX_PIXELS = 50_000_000
ENOUGH = (
    4 * INPUT_SIZE,
    4 * INPUT_SIZE,
)  # pixels of a JPEG that is decoded at a half, a quarter or an eighth of its size


class ImageError(ValueError):
    """An image that cannot be classified; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def decode_image(data: bytes) -> Image.Image:
    """Decode a JPEG, PNG or the first frame of a GIF to an upright RGB image, transparency over white.

    A large JPEG comes smaller, yet no side below that of ENOUGH, which takes a third of the time.
    Raises ImageError: 415 for another format, 400 for damaged data or more than MAX_PIXELS pixels.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images from a limit of its own; the one below is ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    except Exception as error:  # Pillow's parsers raise whatever a damaged header makes them stumble over.
        raise _damaged() from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels()
    image.draft(None, ENOUGH)
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # as above, for damaged pixels
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: convert() would clip it to white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _unidentified(data: bytes) -> ImageError:
    kind = filetype.guess(data)
    if kind is None or kind.extension.upper().replace("JPG", "JPEG") in FORMATS:
        return _damaged()
    return ImageError(f"The file is of type {kind.mime}; send a JPEG, PNG or GIF.", status=415)


def _too_many_pixels() -> ImageError:
    return ImageError(f"The image has more than {MAX_PIXELS:,} pixels; send a smaller one.")


def _damaged() -> ImageError:
    return ImageError("The file cannot be read as a JPEG, PNG or GIF; it may be damaged.")

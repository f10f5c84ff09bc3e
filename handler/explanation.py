"""Explanations: how much the probability of a class falls when a part of the image is hidden."""

import base64
import io
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

METHOD = "occlusion"
WINDOW, STRIDE = 8, 4  # pixels: the side of the hiding square, and its step
MAX_BATCH = 64  # images in a batch, each with another part hidden
HIDDEN_VALUE = 0.0  # grey in a normalised image, which supports no class


def heat_map(probabilities: Callable[[Tensor], Tensor], image: Tensor, target: int) -> Tensor:
    """Return for each pixel how much the probability of class `target` falls if squares around it are hidden.

    `image` is normalised, (3, S, S); `probabilities` takes (N, 3, S, S) to (N, C). The result is float32 (S, S), from
    -1 to 1; positive values support the class. Method: Zeiler and Fergus 2014, by captum.
    """
    from captum.attr import Occlusion  # here, because it would delay the worker's start by a second

    heat = Occlusion(probabilities).attribute(
        image.unsqueeze(0),
        target=target,
        sliding_window_shapes=(len(image), WINDOW, WINDOW),
        strides=(len(image), STRIDE, STRIDE),
        baselines=HIDDEN_VALUE,
        perturbations_per_eval=MAX_BATCH,
    )
    return heat[0, 0].to(torch.float32)  # all channels are equal, because a square hides all of them


def as_data_url(pixels: Tensor) -> str:
    """Return uint8 pixels (3, H, W) as a PNG in a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

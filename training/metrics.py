"""Predict many images at once, and measure the predictions."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import Images
from training.inputs import Inputs, call

BATCH_SIZE = 500  # images of 32 × 32 pixels; fewer if they are larger, because a batch takes as much memory
MIN_BATCH_SIZE = 16  # images
BINS = 15  # of confidence, between 0 and 1


def batch_size(inputs: Inputs) -> int:
    """Return how many images to predict at once."""
    largest = max(each.size for each in inputs.preprocessing)
    return min(BATCH_SIZE, max(MIN_BATCH_SIZE, BATCH_SIZE * 32**2 // largest**2))


@torch.no_grad()
def predict(model: nn.Module, inputs: Inputs, device: torch.device | str = "cpu") -> Any:
    """Return a model's output for N images, on the CPU: one tensor, or a tuple of tensors."""
    model.eval().to(memory_format=torch.channels_last)  # in which deep networks take half the time on a CPU
    outputs = [call(model, batch) for batch in inputs.batches(batch_size(inputs), device)]
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs).cpu()
    return tuple(torch.cat(column).cpu() for column in zip(*outputs, strict=True))


def evaluate(network: nn.Module, images: Images, device: torch.device | str = "cpu") -> dict[str, float]:
    """Measure a network whose output is logits; see `figures`."""
    return figures(predict(network, images.inputs, device), images.labels)


def figures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return cross-entropy `loss`, `accuracy` from 0 to 1, calibration error `ece` and the number of `images`.

    `balanced_accuracy` is the mean over the classes, so that a rare class counts as much as a frequent one.
    The calibration error is the mean difference of confidence and accuracy over BINS of confidence (Guo et al. 2017).
    """
    # Here, because it loads SciPy and Matplotlib, which take two seconds.
    from torchmetrics.functional.classification import multiclass_calibration_error

    right = (logits.argmax(dim=1) == labels).double()
    of_class = [right[labels == label].mean() for label in labels.unique()]
    return {
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": right.mean().item(),
        "balanced_accuracy": torch.stack(of_class).mean().item(),
        "ece": multiclass_calibration_error(logits.softmax(dim=1), labels, logits.shape[1], n_bins=BINS).item(),
        "images": len(labels),
    }


def wilson_interval(accuracy: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy that was measured on `count` images (Wilson 1927)."""
    z = 1.959964
    centre = (accuracy + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(accuracy * (1 - accuracy) / count + z**2 / (4 * count**2))
    return centre - reach, centre + reach

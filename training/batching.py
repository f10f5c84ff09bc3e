"""How many images a network takes at once when it serves, decided by the size of its activations.

A batch saves time as long as the values that its layers hand on stay in the processor's cache. This was measured with
seven networks in TorchScript at 32 to 224 pixels: the largest batch of up to CACHE_BYTES was the fastest, or took at
most 9 % longer, but for one that took 22 %. A measurement is not repeatable, so none decides: the same checkpoint gives
the same archive on every machine. `classifier archive` prints one, to compare with.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from handler.predictor import EXPLAINED_IMAGES
from handler.transforms import Preprocessing
from training.checkpoint import Checkpoint
from training.export import milliseconds, open_onnx
from training.inputs import call

SIZES = (1, 4, 16)  # images
CACHE_BYTES = 32 * 2**20
SLOW_CORE = 10e9  # floating-point operations a second: a tenth to a half of a core's speed in 2024


class Batching(NamedTuple):
    """`size` is the most images in a batch. `timeout` is the most seconds that a slow core takes for a call."""

    size: int
    timeout: int


class Cost(NamedTuple):
    """The cost of one image: `activations` are the bytes of the largest layer's input and output."""

    activations: int
    operations: int


def batching_of(checkpoint: Checkpoint) -> Batching:
    """Return the batching that serves a checkpoint best; it is the same on every machine."""
    cost = cost_of(checkpoint)
    size = max(size for size in SIZES if size == 1 or size * cost.activations <= CACHE_BYTES)
    longest = EXPLAINED_IMAGES * cost.operations / SLOW_CORE
    return Batching(size, math.ceil(longest))


def cost_of(checkpoint: Checkpoint) -> Cost:
    """Return the cost of an image; for a pair, that of one between thumbnail and photo, which asks both networks."""
    members = checkpoint.members() if "pair" in checkpoint.card["recipe"] else [checkpoint]
    activations, operations = zip(*map(_cost_of_one, members), strict=True)
    return Cost(max(activations), sum(operations))


@torch.inference_mode()
def _cost_of_one(checkpoint: Checkpoint) -> Cost:
    """Run a network on one black image, and count."""
    classifier, activations = checkpoint.classifier(), 0

    def count(_: nn.Module, given: tuple[object, ...], made: object) -> None:
        nonlocal activations
        values = [*given, made]
        activations = max(activations, sum(each.nbytes for each in values if isinstance(each, Tensor)))

    for module in classifier.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter:
        call(classifier, [torch.zeros(1, 3, each.size, each.size) for each in checkpoint.inputs])
    return Cost(activations, counter.get_total_flops())


def measured(network: bytes, inputs: list[Preprocessing]) -> str:
    """Say how long one core of this machine takes for an image of an ONNX file, by the size of the batch."""
    model = open_onnx(network)
    alone, *batches = (f"{milliseconds(model, inputs, size):.1f} ms" for size in SIZES)
    return f"{alone} for an image alone, " + " and ".join(
        f"{time} in a batch of {size}" for size, time in zip(SIZES[1:], batches, strict=True)
    )

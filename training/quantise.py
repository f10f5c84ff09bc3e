"""Write a network as ONNX that computes with 8-bit integers, if that pays on this machine.

ONNX Runtime measures the ranges of its values on validation images. The layers behind the last convolution
stay in floating point: they take no time, and the in-distribution score needs that.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor

from handler.onnx_engine import open_network
from handler.predictor import Network
from training.calibrate import ACCEPTED, fit_temperature
from training.checkpoint import Checkpoint, images_of
from training.export import export_onnx
from training.files import written_whole
from training.inputs import Inputs
from training.outcome import Stopped

LEAST_FASTER, MOST_LOST = 1.3, 0.003  # times; share of the validation images
RANGE_IMAGES = 512  # whose values give the ranges, or fewer
BATCH_SIZE = 16  # images
ROUNDS = 20  # whose median time counts
FLOATING = (
    "BatchNormalization",
    "Gemm",
    "MatMul",
    "TopK",
    "Softmax",
    "LogSoftmax",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "Div",
)
LOGITS, SCORE = "logits", "in_distribution_score"  # the outputs


class Quantised(NamedTuple):
    """How many times as fast a network is with integers, its accuracy and that before, and its new threshold."""

    faster: float
    accuracy: float
    before: float
    threshold: float


class NotWorthError(Stopped):
    """Integers do not pay; the message has the figures."""


def export_int8(checkpoint: Checkpoint, path: Path, data: Path | None) -> Quantised:
    """Write ONNX of 8-bit integers to `path`, with temperature and threshold fitted again on the validation images.

    The temperature goes into the logits; the threshold is also in the file's metadata. Raises NotWorthError, and
    writes nothing, if it is less than LEAST_FASTER times as fast on this machine, or loses more than MOST_LOST.
    Raises CheckpointError for a pair, because its validation images are for one of its networks.
    """
    from onnxruntime import quantization  # here, after handler, because that silences it

    checkpoint.single()
    _, validation = images_of(checkpoint, data, checkpoint.inputs)
    every = -(-len(validation.labels) // RANGE_IMAGES)  # because they are sorted by class
    with tempfile.TemporaryDirectory() as folder, written_whole(path) as temporary:
        floating, prepared = Path(folder, "floating.onnx"), Path(folder, "prepared.onnx")
        export_onnx(checkpoint, floating)
        quantization.quant_pre_process(floating, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        quantization.quantize_static(
            prepared,
            temporary,
            Ranges(validation.inputs.subset(slice(None, None, every)), prepared),
            per_channel=True,
            reduce_range=True,  # or else processors without VNNI would overflow
            nodes_to_exclude=[node.name for node in nodes if node.op_type in FLOATING],
        )
        before, after = open_network(floating, threads=1), open_network(temporary, threads=1)
        accuracies = [
            accuracy(predict(network, validation.inputs)[0], validation.labels) for network in (before, after)
        ]
        faster = times_as_fast(before, after, validation.inputs)
        if faster < LEAST_FASTER or accuracies[0] - accuracies[1] > MOST_LOST:
            raise NotWorthError(
                f"With 8-bit integers {checkpoint.card['name']} is {faster:.2f} times as fast here, and right on "
                f"{accuracies[1]:.2%} of the validation images instead of {accuracies[0]:.2%}. Nothing was written, "
                f"because it has to be {LEAST_FASTER} times as fast, and to lose at most {100 * MOST_LOST:.1f} points."
            )
        logits, scores = predict(after, validation.inputs)
        threshold = scores.quantile(1 - ACCEPTED).item()
        _refit(temporary, fit_temperature(logits, validation.labels), threshold)
    return Quantised(faster, accuracies[1], accuracies[0], threshold)


class Ranges:
    """Hands images to ONNX Runtime as a CalibrationDataReader does. It measures the ranges of a network's values."""

    def __init__(self, images: Inputs, network: Path) -> None:
        names = [each.name for each in onnx.load(network).graph.input]
        self._batches = (
            dict(zip(names, (each.numpy() for each in batch), strict=True)) for batch in images.batches(BATCH_SIZE)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def predict(network: Network, images: Inputs) -> tuple[Tensor, Tensor]:
    """Return logits (N, C) and scores (N,)."""
    outputs = [network(batch) for batch in arrays(images)]
    logits, scores = (torch.from_numpy(np.concatenate(column)) for column in zip(*outputs, strict=True))
    return logits, scores


def arrays(images: Inputs) -> Iterator[list[np.ndarray]]:
    for batch in images.batches(BATCH_SIZE):
        yield [each.numpy() for each in batch]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).double().mean().item()


def times_as_fast(before: Network, after: Network, images: Inputs) -> float:
    """Return the median ratio of the times of two networks, in turns, for a batch on one core."""
    batch = next(arrays(images))
    return median(_seconds(before, batch) / _seconds(after, batch) for _ in range(ROUNDS))


def _seconds(network: Network, batch: list[np.ndarray]) -> float:
    """Return the seconds on the core, so that other programs matter less."""
    started = time.thread_time()
    network(batch)
    return time.thread_time() - started


def _refit(path: Path, temperature: float, threshold: float) -> None:
    """Divide the logits of an ONNX file by a temperature, and note the threshold of its score."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["quantised_logits" if name == LOGITS else name for name in node.output]
        node.input[:] = ["quantised_logits" if name == LOGITS else name for name in node.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(temperature, np.float32), "temperature"))
    model.graph.node.append(onnx.helper.make_node("Div", ["quantised_logits", "temperature"], [LOGITS]))
    onnx.helper.set_model_props(model, {f"{SCORE}_threshold": str(threshold)})
    path.write_bytes(model.SerializeToString(deterministic=True))

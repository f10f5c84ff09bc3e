"""Run an archive's network with ONNX Runtime, in a worker of TorchServe and in any other process."""

import threading
from pathlib import Path

import onnxruntime

from handler.predictor import Network, Predictor
from handler.transforms import Normalised

NETWORK = "network.onnx"  # in an archive


def load(folder: Path, threads: int) -> Predictor:
    """Load the archive that is unpacked in `folder`; several threads may share the Predictor."""
    predictor = Predictor(folder, open_network(folder / NETWORK, threads))
    predictor.warm()
    return predictor


def open_network(file: Path | bytes, threads: int) -> Network:
    """Open an ONNX file, or what it holds, as the network of a Predictor. Each call runs on `threads` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def network(images: list[Normalised]) -> tuple[Normalised, Normalised]:
        logits, scores = session.run(None, dict(zip(names, images, strict=True)))
        return logits, scores

    return network


def open_for_all(path: Path, threads: int) -> Network:
    """Open an ONNX file for callers of different priorities: the threads of a call have that of its caller."""
    return open_network(path, 1) if threads <= 1 else _OfCaller(path, threads).run


class _OfCaller(threading.local):
    """A network for each thread that asks, because its own threads have the priority of the one that opens it."""

    def __init__(self, path: Path, threads: int) -> None:
        self._network = open_network(path, threads)

    def run(self, images: list[Normalised]) -> tuple[Normalised, Normalised]:
        return self._network(images)

"""Run an archive's network with ONNX Runtime in any process, without TorchServe and TorchScript."""

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


def open_network(path: Path, threads: int) -> Network:
    """Open an ONNX file as the network of a Predictor. Each call runs on `threads` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def network(images: list[Normalised]) -> tuple[Normalised, Normalised]:
        logits, scores = session.run(None, dict(zip(names, images, strict=True)))
        return logits, scores

    return network

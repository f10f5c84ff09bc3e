"""An archive's network by ONNX Runtime, in whatever process: it needs neither TorchServe nor TorchScript."""

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from handler.predictor import Network, Predictor

NETWORK = "network.onnx"  # its file in an archive
BATCH_SIZE = 16  # that it settles for; others work too


def load(folder: Path, threads: int) -> Predictor:
    """Make an archive that is unpacked in `folder` ready to answer; several threads may share it."""
    predictor = Predictor(folder, open_network(folder / NETWORK, threads))
    predictor.warm(BATCH_SIZE)
    return predictor


def open_network(path: Path, threads: int) -> Network:
    """Open an ONNX file as what Predictor takes, each call of which runs on so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    (images,) = session.get_inputs()

    def network(batch: Tensor) -> tuple[Tensor, Tensor]:
        logits, scores = session.run(None, {images.name: batch.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(scores)

    return network

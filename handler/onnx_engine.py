"""Run an archive's network with ONNX Runtime, in a worker of TorchServe and in any other process."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from handler.predictor import Network, Predictor
from handler.transforms import Normalised

NETWORK = "network.onnx"  # in an archive
PROVIDERS = ["CPUExecutionProvider"]
LOAD = Path("/proc/loadavg")  # of Linux; among its figures is how many threads run at this moment
SLOW_SECONDS = 0.001  # for an image; in less time a second thread has hardly woken up


def load(folder: Path, threads: int) -> Predictor:
    """Load the archive that is unpacked in `folder`; several threads may share the Predictor."""
    predictor = Predictor(folder, open_for_all(folder / NETWORK, threads))
    predictor.warm()
    return predictor


def open_network(file: Path | bytes, threads: int) -> Network:
    """Open an ONNX file, or what it holds, as the network of a Predictor. Each call runs on `threads` threads."""
    return _network(InferenceSession(file, _options(threads), PROVIDERS))


def open_for_all(path: Path, threads: int) -> Network:
    """Open an ONNX file for callers of different priorities: the threads of a call have that of its caller.

    With one thread for each, an image that comes alone to a slow network takes another one while a core is idle.
    """
    return _OfCaller(path, threads).run if threads > 1 else _OfIdleCore(path).run


class _OfCaller(threading.local):
    """A network for each thread that asks, because its own threads have the priority of the one that opens it."""

    def __init__(self, path: Path, threads: int) -> None:
        self._network = open_network(path, threads)

    def run(self, images: list[Normalised]) -> tuple[Normalised, Normalised]:
        return self._network(images)


class _OfIdleCore:
    """A network on the caller's thread; an image alone has a second one if a core is idle and the caller urgent."""

    def __init__(self, path: Path) -> None:
        with _suited(path) as suitable:
            session = _open(suitable, 1)
            is_slow = LOAD.exists() and _seconds(session) > SLOW_SECONDS
            self._on_one = _network(session)
            self._on_two = _network(_open(suitable, 2)) if is_slow else None
        self._priority = _priority()

    def run(self, images: list[Normalised]) -> tuple[Normalised, Normalised]:
        alone = len(images[0]) == 1 and _priority() == self._priority
        return self._on_two(images) if self._on_two and alone and _is_a_core_idle() else self._on_one(images)


def _network(session: InferenceSession) -> Network:
    names = [each.name for each in session.get_inputs()]

    def network(images: list[Normalised]) -> tuple[Normalised, Normalised]:
        logits, scores = session.run(None, dict(zip(names, images, strict=True)))
        return logits, scores

    return network


def _options(threads: int) -> SessionOptions:
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between calls they take no time
    return options


@contextmanager
def _suited(path: Path) -> Iterator[Path]:
    """Write an ONNX file as it suits this processor, with its weights in a file of their own, which sessions map.

    So they have the weights in common, and their memory is freed with the last session. This takes less memory than
    one session with the ONNX file, which keeps the weights in both ways.
    """
    with TemporaryDirectory(prefix="classifier-") as folder:
        options = _options(1)
        options.optimized_model_filepath = f"{folder}/{NETWORK}"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        options.log_severity_level = 3  # not to warn that the file is for this processor only
        InferenceSession(path, options, PROVIDERS)
        yield Path(options.optimized_model_filepath)


def _open(suitable: Path, threads: int) -> InferenceSession:
    options = _options(threads)
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL  # because that has been done
    return InferenceSession(suitable, options, PROVIDERS)


def _seconds(session: InferenceSession) -> float:
    """Return how long an image takes, at best."""
    black = {each.name: np.zeros((1, *each.shape[1:]), np.float32) for each in session.get_inputs()}
    times = []
    for _ in range(4):
        started = time.perf_counter()
        session.run(None, black)
        times.append(time.perf_counter() - started)
    return min(times)


def _is_a_core_idle() -> bool:
    """Say whether fewer threads run on this machine than this process has cores."""
    running = int(LOAD.read_bytes().partition(b"/")[0].split()[-1])  # this thread included
    return 0 < running < len(os.sched_getaffinity(0))


def _priority() -> int:
    """Return by how much this thread gives way to others."""
    return os.getpriority(os.PRIO_PROCESS, 0)

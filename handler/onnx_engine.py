"""Run an archive's network with ONNX Runtime, in a worker of TorchServe and in any other process."""

import logging
import os
import threading
import time
import weakref
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
LOAD_FILE = Path("/proc/loadavg")  # of Linux; among its figures is how many threads run at this moment
QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")  # of a container
SLOW_SECONDS = 0.001  # for an image; in less time a second thread has hardly woken up

logger = logging.getLogger(__name__)


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

    If a call has a single thread, a batch of one image may have another one; see _OfIdleCore.
    """
    if threads > 1:
        return _OfCaller(path, threads).run
    if _has_all_cores():
        try:
            return _OfIdleCore(path).run
        except Exception as error:  # ONNX Runtime raises many kinds, for a full disk or a network it cannot write
            logger.warning("A call of %s has one thread, because its folder takes no other file: %s", path, error)
    return open_network(path, 1)


class _OfCaller(threading.local):
    """A network for each thread that asks, because its own threads have the priority of the one that opens it."""

    def __init__(self, path: Path, threads: int) -> None:
        self._network = open_network(path, threads)

    def run(self, images: list[Normalised]) -> tuple[Normalised, Normalised]:
        return self._network(images)


class _OfIdleCore:
    """A network on the caller's thread; a slow one runs a batch of one image on two, while a core is idle.

    Callers of another priority than the one that opens it have one thread. Both sessions map the same weights.
    """

    def __init__(self, path: Path) -> None:
        self._priority, self._on_two = _priority(), None
        with _optimised(path) as optimised:
            session = _open(optimised, 1)
            self._on_one = _network(session)
            examples = _examples(session)
            if max(_cpu_seconds(self._on_one, example) for example in examples) > SLOW_SECONDS:
                self._load = os.open(LOAD_FILE, os.O_RDONLY)  # stays open, because descriptors may run out
                weakref.finalize(self, os.close, self._load)
                self._on_two = _network(_open(optimised, 2))
                self._on_two(examples[0])

    def run(self, images: list[Normalised]) -> tuple[Normalised, Normalised]:
        alone = len(images[0]) == 1 and _priority() == self._priority
        return self._on_two(images) if self._on_two and alone and self._is_a_core_idle() else self._on_one(images)

    def _is_a_core_idle(self) -> bool:
        running = int(os.pread(self._load, 64, 0).partition(b"/")[0].split()[-1])  # this thread included
        return 0 < running < (os.cpu_count() or 1)


def _network(session: InferenceSession) -> Network:
    names = [given.name for given in session.get_inputs()]

    def network(images: list[Normalised]) -> tuple[Normalised, Normalised]:
        logits, scores = session.run(None, dict(zip(names, images, strict=True)))
        return logits, scores

    return network


def _options(threads: int) -> SessionOptions:
    options = SessionOptions()
    options.intra_op_num_threads = threads
    return options


@contextmanager
def _optimised(path: Path) -> Iterator[Path]:
    """Write an ONNX file as this processor takes it, with its weights in a file of their own, which sessions map.

    Sessions share the weights that ONNX Runtime does not arrange once more. They are in memory once, while a session
    with the ONNX file itself also keeps them as they stand there. The memory is freed with the last session.
    """
    # On a network drive a file that is mapped stays in its folder, until the archive's is removed.
    with TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
        options = _options(1)
        options.optimized_model_filepath = f"{folder}/{NETWORK}"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        options.log_severity_level = 3  # not to warn that the file is for this processor only
        InferenceSession(path, options, PROVIDERS)
        yield Path(options.optimized_model_filepath)


def _open(optimised: Path, threads: int) -> InferenceSession:
    options = _options(threads)
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL  # because that has been done
    options.add_session_config_entry("session.force_spinning_stop", "1")  # threads wait for no call that may come
    return InferenceSession(optimised, options, PROVIDERS)


def _examples(session: InferenceSession) -> list[list[Normalised]]:
    """Return an image without detail, and one of noise: a pair asks one of its networks for each."""
    shapes = [(1, *given.shape[1:]) for given in session.get_inputs()]
    random = np.random.default_rng(0)
    return [[random.normal(0, deviation, shape).astype(np.float32) for shape in shapes] for deviation in (0, 1)]


def _cpu_seconds(network: Network, images: list[Normalised]) -> float:
    """Return how long a core takes for a call, at best, whatever else runs meanwhile."""
    times = []
    for _ in range(4):
        started = time.thread_time()
        network(images)
        times.append(time.thread_time() - started)
    return min(times)


def _has_all_cores() -> bool:
    """Say whether this process may use all cores, of several. Of others the system does not say if they are idle."""
    quota = QUOTA_FILE.read_text() if QUOTA_FILE.exists() else "max"
    cores = os.cpu_count() or 1
    return LOAD_FILE.exists() and quota.startswith("max") and 1 < cores == len(os.sched_getaffinity(0))


def _priority() -> int:
    """Return by how much this thread gives way to others."""
    return os.getpriority(os.PRIO_PROCESS, 0)

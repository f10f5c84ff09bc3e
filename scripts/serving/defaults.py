"""How the product is started, and where it keeps its files; loads the standard library alone."""

from __future__ import annotations  # scripts/doctor.py has to run in Pythons too old for the rest

from training.project import CHECKPOINTS, MAR, ONNX_ZIP, ROOT

CONFIG = ROOT / "config.properties"
RUN = ROOT / ".run"  # the folder that 'classifier serve' runs in
URL_FILE = "url"  # in it: the gateway's address, now or the last time
SCRATCH = "scratch"  # in it: the unpacked models
METRICS = "metrics"  # and what the processes of the gateway have counted
MEMORY = "memory"  # in it: a link to a folder in memory, for what is small, and written on a full disk too
HOST, PORT = "127.0.0.1", 5001
BACKENDS = TORCHSERVE, EMBEDDED = "torchserve", "embedded"
LOCAL = "local"  # the earlier name of the embedded backend
SUFFIXES = {TORCHSERVE: MAR, EMBEDDED: ONNX_ZIP}  # of the archives that each backend serves
LIVE_MINUTES = 10  # that a new version meets live traffic
KEY_VARIABLE, KEY_HEADER = "CLASSIFIER_KEY", "X-API-Key"  # in which a command finds its API key, and sends it
RELEASED = CHECKPOINTS / "cifar10_pair.pth"  # the default; the Makefile reads it here


def served_url() -> str:
    """Return the URL of the gateway that 'classifier serve' started last, or else that of one it would start."""
    url = RUN / URL_FILE
    return url.read_text() if url.exists() else f"http://{HOST}:{PORT}"

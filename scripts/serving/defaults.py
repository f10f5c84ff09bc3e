"""How the product is started, and where it keeps its files; loads the standard library alone."""

from __future__ import annotations  # scripts/doctor.py has to run in Pythons too old for the rest

from ipaddress import ip_address

from training.project import CHECKPOINTS, MAR, ONNX_ZIP, ROOT

CONFIG = ROOT / "config.properties"
RUN = ROOT / ".run"  # the folder that 'classifier serve' runs in
URL_FILE = "url"  # in it: the gateway's address, now or the last time
KEY_FILE = "key_file.json"  # and TorchServe's keys
TORCHSERVE_LOG, GATEWAY_LOG = "torchserve.log", "gateway.log"
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


def is_this_machine(host: str) -> bool:
    """Say whether a host of a URL is this machine; `classifier serve --host 0.0.0.0` may have named it so."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified

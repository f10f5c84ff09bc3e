"""Say by the exit status whether a worker of this TorchServe node can classify; /ping says Healthy without one."""

import json
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

MODEL = "http://127.0.0.1:8080/models/classifier"

try:
    # Without the environment's proxy, which does not lead to this machine.
    with build_opener(ProxyHandler({})).open(MODEL, timeout=3) as reply:
        (model,) = json.load(reply)
except URLError as error:
    raise SystemExit(f"TorchServe does not answer: {error.reason}.") from None
if not any(worker["status"] == "READY" for worker in model["workers"]):
    raise SystemExit("No worker is ready yet.")

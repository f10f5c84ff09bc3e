"""Say by the exit status whether a worker of this TorchServe node can classify; /ping says Healthy without one."""

import json
from urllib.request import urlopen

MODEL = "http://127.0.0.1:8080/models/classifier"

with urlopen(MODEL, timeout=3) as reply:
    (model,) = json.load(reply)
if not any(worker["status"] == "READY" for worker in model["workers"]):
    raise SystemExit("No worker is ready yet.")

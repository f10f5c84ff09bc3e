"""Say by the exit status whether a worker of this TorchServe node can predict; /ping says Healthy without one."""

import json
from http.client import HTTPConnection, HTTPException

PATH = "/models/classifier"

connection = HTTPConnection("127.0.0.1", 8080, timeout=3)  # not urllib, which would ask a proxy of the environment
try:
    connection.request("GET", PATH)
    reply = connection.getresponse()
    text = reply.read().decode(errors="replace")
except HTTPException:
    raise SystemExit("Port 8080 does not answer as TorchServe does.") from None
except OSError as error:
    raise SystemExit(f"TorchServe does not answer: {error}.") from None
if reply.status != 200:
    raise SystemExit(f"TorchServe answers {PATH} with status {reply.status}.")
try:
    (model,) = json.loads(text)
    statuses = [worker["status"] for worker in model["workers"]]
except (ValueError, TypeError, KeyError):
    raise SystemExit("Port 8080 does not answer as TorchServe does.") from None
if "READY" not in statuses:
    raise SystemExit("No worker is ready yet.")

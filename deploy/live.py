"""Say by the exit status whether the gateway in this container runs."""

from http.client import HTTPConnection, HTTPException

connection = HTTPConnection("127.0.0.1", 5001, timeout=2)  # not urllib, which would ask a proxy of the environment
try:
    connection.request("GET", "/live")
    reply = connection.getresponse()
except HTTPException:
    raise SystemExit("Port 5001 does not answer as the gateway does.") from None
except OSError as error:
    raise SystemExit(f"The gateway does not answer: {error}.") from None
if reply.status != 200:
    raise SystemExit(f"The gateway answers /live with status {reply.status}.")

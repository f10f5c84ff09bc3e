"""One request to TorchServe: with a valid token, to a node that works; its reply as JSON, or as an exception.

An Api is put together of nodes and tokens: those of the TorchServe on this machine, or of several nodes.
"""

import re
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gateway.backend import NO_MODEL, BackendError, ImageRefused, NoSuchVersion, TooSlow, Unavailable, WorkerDied
from gateway.torchserve.client import Answer, Headers
from gateway.torchserve.nodes import Nodes, Send
from gateway.torchserve.properties import MODEL, read_properties
from gateway.torchserve.tokens import Keys, TokenFile, Tokens, bearer

INFERENCE, MANAGEMENT = KINDS = ("inference", "management")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION_TAKEN = 409  # TorchServe's status for an archive whose version number another one has
WORKER_DIED = (500, 507)  # TorchServe's status for the images that a dead worker had
NOT_FOUND = f"Model not found: {MODEL}"  # TorchServe's words if no version is registered


class Api:
    """Sends requests to the `nodes` of each of KINDS, with their `tokens`."""

    def __init__(self, nodes: dict[str, Nodes], tokens: Tokens) -> None:
        self._nodes, self.tokens = nodes, tokens

    @classmethod
    def of_this_machine(cls, config: Path, key_file: Path, timeout: float) -> "Api":
        """Connect to the TorchServe that `config` (its config.properties) and `key_file` (its keys) belong to.

        `timeout`, in seconds, is that of an answer.
        """
        properties = read_properties(config)
        nodes = {kind: Nodes([properties[f"{kind}_address"]], timeout) for kind in KINDS}
        return cls(nodes, Keys(key_file, nodes[MANAGEMENT]))

    @classmethod
    def of_several_nodes(cls, addresses: list[str], token_file: Path, timeout: float) -> "Api":
        """Connect to TorchServe on several machines, or to one name for them all, by the token in a file.

        Each of `addresses` answers for inference and management. One address is tried twice: a name may lead to
        another node the second time.
        """
        tokens = TokenFile(token_file)

        def check(send: Send) -> None:
            """Raise Unavailable if a node has no worker yet: it would keep a request until it has one."""
            if not ready_workers(result(send("GET", model_path(), None, bearer(tokens.read(MANAGEMENT))))[0]):
                raise Unavailable("The model is not ready yet.")

        nodes = Nodes(addresses if len(addresses) > 1 else addresses * 2, timeout, check)
        return cls(dict.fromkeys(KINDS, nodes), tokens)

    def call(self, kind: str, method: str, path: str, body: bytes | None = None, headers: Headers | None = None) -> Any:
        """Send one request with a valid token; returns the JSON of the reply. Raises BackendError."""

        def send(token: str) -> Answer:
            return self._nodes[kind].send(method, path, body, {**(headers or {}), **bearer(token)})

        token = self.tokens.read(kind)
        response = send(token)
        if _token_expired(response):
            response = send(self.tokens.renew(kind, token))
        return result(response)

    def describe(self, version: str | None = None) -> list[dict[str, Any]]:
        """Describe the default version, a given one, or `all`: settings and workers."""
        return self.call(MANAGEMENT, "GET", model_path(version))

    def describe_all(self) -> list[dict[str, Any]]:
        """Describe all versions. A node has one, and would take `all` at its one address for a prediction's version."""
        at_one_address = self._nodes[INFERENCE] is self._nodes[MANAGEMENT]
        return self.describe(None if at_one_address else "all")

    def describe_by_worker(self, version: str | None = None) -> dict[str, Any]:
        """Return a description with `customizedMetadata`, in which a worker describes itself. Raises Unavailable."""
        description = self.call(MANAGEMENT, "GET", f"{model_path(version)}?customized=true")[0]
        if description.get("customizedMetadata") is None:
            raise Unavailable("The model does not describe itself just now.")
        return description


def model_path(version: str | None = None) -> str:
    return versioned(f"/models/{MODEL}", version)


def versioned(path: str, version: str | None) -> str:
    """Return the path for a version. Raises NoSuchVersion for a name that no version has, such as `..`."""
    if version and not VERSION.fullmatch(version):
        raise NoSuchVersion(f"There is no version {version!r}.")
    return f"{path}/{version}" if version else path


def ready_workers(description: dict[str, Any]) -> list[dict[str, Any]]:
    return [worker for worker in description["workers"] if worker["status"] == "READY"]


def result(response: Answer) -> Any:
    """Return the JSON of a reply. Raises the BackendError that its status stands for."""
    if response.status == HTTPStatus.GATEWAY_TIMEOUT:  # of a proxy before the node
        raise TooSlow
    try:
        reply = response.json()
    except ValueError:
        raise Unavailable("TorchServe answered with something else than JSON.") from None
    if response.status < 400:
        return reply
    if reply.get("success") is False:  # the handler's words, not TorchServe's
        raise ImageRefused(reply["error"], reply["status"])
    if response.status == VERSION_TAKEN:
        remedy = "Pack it with another number, 'classifier archive --version', or unregister that version."
        raise BackendError(f"{reply['message']}. {remedy}")
    if reply.get("type") == "ModelVersionNotFoundException":
        raise NoSuchVersion(reply["message"])
    if reply.get("message") == NOT_FOUND:
        raise Unavailable(NO_MODEL)
    if response.status < 500:
        raise BackendError(reply.get("message", f"TorchServe answered with status {response.status}."))
    kind = WorkerDied if response.status in WORKER_DIED else Unavailable
    raise kind("The model cannot answer just now.")


def _token_expired(response: Answer) -> bool:
    return response.status == 400 and b'"InvalidKeyException"' in response.body

"""The only module that knows TorchServe's inference and management APIs; its token API is known to tokens.py."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

from urllib3 import BaseHTTPResponse
from urllib3.filepost import encode_multipart_formdata

from gateway import metrics
from gateway.torchserve.nodes import Ask, Headers, Nodes, TorchServeError, Unavailable
from gateway.torchserve.nodes import TooSlow as TooSlow  # which those who ask TorchServe have to know
from gateway.torchserve.tokens import Keys, TokenFile, Tokens, bearer

MODEL = "classifier"  # the name a model is served under, whatever its archive is called
PREDICTIONS = f"/predictions/{MODEL}"
EXPLANATIONS = f"/explanations/{MODEL}"
KINDS = ("inference", "management")
BINARY = "application/octet-stream"
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION_TAKEN = 409  # TorchServe's status for an archive whose version number another one has
WORKER_DIED = (500, 507)  # TorchServe's status for the images that a dead worker had
NOT_FOUND = f"Model not found: {MODEL}"  # TorchServe's words if no version is registered
ROLLS_MET = 3  # times that a version is looked for which is unregistered before it can answer
REMEMBERED = 8  # nodes, or starts of a worker, of which it is known what they say of themselves


class WorkerDied(Unavailable):
    """The worker that had the images is gone, and they with it."""


class NoSuchVersion(TorchServeError):
    """The model has no version of that number."""


class ImageRefused(TorchServeError):
    """The model cannot read the image; message and HTTP `status` are the handler's, for the client to see."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TorchServe:
    """A client of the TorchServe that `config` (its config.properties) and `key_file` (its tokens) belong to.

    Every method raises TorchServeError or one of its kinds. `timeout` is in seconds.
    """

    def __init__(self, config: Path, key_file: Path, timeout: float) -> None:
        properties = read_properties(config)
        self._nodes = {kind: Nodes([properties[f"{kind}_address"]], timeout) for kind in KINDS}
        self._tokens: Tokens = Keys(key_file, self._nodes["management"])

    def predict(self, image: bytes, version: str | None = None) -> dict[str, Any]:
        """Classify the bytes of an image file, by the default version or a given one; returns predicted_class,
        confidence, class_probabilities and whether the image is in_distribution.
        """
        return self._predict(version, image)

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[dict[str, Any]]:
        """Classify two image files or more at once, by the default version or a given one.

        Returns for each what `predict` does, or {"error": …, "status": …} where `predict` would raise ImageRefused.
        """
        parts = {str(index): ("image", image, BINARY) for index, image in enumerate(images)}
        body, content = encode_multipart_formdata(parts)
        answers = self._predict(version, body, {"Content-Type": content})
        if len(answers) != len(images):
            raise Unavailable(f"TorchServe gave {len(answers)} answers for {len(images)} images.")
        return answers

    def explain(self, image: bytes, class_name: str, version: str | None = None) -> dict[str, Any]:
        """Say what in an image speaks for a class, or for the predicted one where its name is empty.

        Returns explained_class, predicted_class, method, input (a data URL) and heat_map (rows of numbers).
        """
        # Not a field of a form, as only a header can say to which image of a batch it belongs.
        return self._ask(EXPLANATIONS, version, image, {"explained-class": quote(class_name, safe="")})

    def describe(self, version: str | None = None) -> list[dict[str, Any]]:
        """Describe the default version, a given one, or `all`: settings and workers."""
        return self._call("management", "GET", self._path(version))

    def details(self) -> dict[str, Any]:
        """Return what the default version says of itself: `card` and `device`, asked once per worker start; its
        `version`; and how many of its `workers` are ready, on one node where there are several.

        Raises Unavailable while no worker of the default version is ready there.
        """
        for _ in range(ROLLS_MET):
            with suppress(NoSuchVersion):  # a roll has just replaced it, so another one is the default
                return self._default_details()
        raise Unavailable("The versions of the model are changing just now.")

    def said(self, version: str | None = None) -> dict[str, Any]:
        """Return what a worker says of itself: `card`, `device` and its `pid`. It has answered all it had before then.

        Raises Unavailable where it says nothing.
        """
        return self._ask_worker(version)["customizedMetadata"]

    def versions(self) -> list[dict[str, Any]]:
        """Return the number of each version, whether it is the default, and how many of its workers are ready."""
        default = self.describe()[0]["modelVersion"]
        return [
            {
                "version": each["modelVersion"],
                "default": each["modelVersion"] == default,
                "workers": len(_ready(each)),
            }
            for each in self.describe("all")
        ]

    def models(self) -> list[str]:
        """Return the names of all registered models."""
        return [model["modelName"] for model in self._call("management", "GET", "/models?limit=100")["models"]]

    def register(self, archive: str) -> str:
        """Register an archive of the model store by its file name; returns what happened.

        It gets as many workers as the default version has, as TorchServe does not look into the archive for that.
        """
        workers = self.describe()[0]["minWorkers"] if self.models() else 1
        options = urlencode({"url": archive, "model_name": MODEL, "initial_workers": workers, "synchronous": "true"})
        return self._change("POST", f"/models?{options}")

    def scale(self, workers: int, version: str | None = None) -> str:
        """Run exactly `workers` workers; returns what happened."""
        options = urlencode({"min_worker": workers, "max_worker": workers, "synchronous": "true"})
        return self._change("PUT", f"{self._path(version)}?{options}")

    def set_default(self, version: str) -> str:
        """Serve `version` where none is named; returns what happened."""
        return self._change("PUT", f"{self._path(version)}/set-default")

    def unregister(self, version: str) -> str:
        """Stop and forget `version`; returns what happened."""
        return self._change("DELETE", self._path(version))

    def _default_details(self) -> dict[str, Any]:
        description = self.describe()[0]
        started = tuple((worker["id"], worker["startTime"]) for worker in _ready(description))
        if not started:
            raise Unavailable("The model is not ready yet.")
        return self._told(description["modelVersion"], started)

    def _ask_worker(self, version: str | None) -> dict[str, Any]:
        """Return a description with what a worker says of itself."""
        description = self._call("management", "GET", f"{self._path(version)}?customized=true")[0]
        if description.get("customizedMetadata") is None:
            raise Unavailable("The model does not describe itself just now.")
        return description

    def _predict(self, version: str | None, body: bytes, headers: Headers | None = None) -> Any:
        with metrics.INFERENCE.time():
            return self._ask(PREDICTIONS, version, body, headers)

    def _ask(self, path: str, version: str | None, body: bytes, headers: Headers | None = None) -> Any:
        path = _versioned(path, version)
        try:
            return self._call("inference", "POST", path, body, headers)
        except WorkerDied:  # an answer changes nothing, so another worker may be asked for it, once
            return self._call("inference", "POST", path, body, headers)

    def _path(self, version: str | None = None) -> str:
        return _versioned(f"/models/{MODEL}", version)

    def _change(self, method: str, path: str) -> str:
        """Change what is served; returns what happened."""
        return self._call("management", method, path)["status"]

    @cached_property
    def _told(self) -> Callable[[str, tuple[Any, ...]], dict[str, Any]]:
        @lru_cache(REMEMBERED)
        def told(version: str, started: tuple[Any, ...]) -> dict[str, Any]:
            return {**self.said(version), "version": version, "workers": len(started)}

        return told

    def _call(
        self, kind: str, method: str, path: str, body: bytes | None = None, headers: Headers | None = None
    ) -> Any:
        """Send one request with a valid token; returns the JSON of the reply."""

        def send(token: str) -> BaseHTTPResponse:
            content = {"Content-Type": BINARY, **(headers or {})}
            return self._nodes[kind].ask(method, path, body, {**content, **bearer(token)})

        token = self._tokens.read(kind)
        response = send(token)
        if _token_expired(response):
            response = send(self._tokens.renew(kind, token))
        return _result(response)


class TorchServeNodes(TorchServe):
    """A client of TorchServe on several machines, or of one name for them all, by the token in a file.

    Each of `addresses` answers for inference and management. What would change one node and not the others is refused.
    """

    def __init__(self, addresses: list[str], token_file: Path, timeout: float) -> None:
        asked = addresses if len(addresses) > 1 else addresses * 2  # asked again, a name may lead to another node
        self._nodes = dict.fromkeys(KINDS, Nodes(asked, timeout, self._check))
        self._tokens = TokenFile(token_file)

    def _check(self, ask: Ask) -> None:
        """Raise Unavailable where a node has no worker yet, as it keeps what it is asked until it has."""
        if not _ready(_result(ask("GET", self._path(), None, bearer(self._tokens.read("management"))))[0]):
            raise Unavailable("The model is not ready yet.")

    def _ask_worker(self, version: str | None) -> dict[str, Any]:
        """Ask for no version, because TorchServe takes that for a prediction if both of its APIs have one address.

        Raises NoSuchVersion if the node that answers has another one.
        """
        description = super()._ask_worker(None)
        if version not in (None, description["modelVersion"]):
            raise NoSuchVersion(f"This node has no version {version!r}.")
        return description

    def _change(self, method: str, path: str) -> NoReturn:
        raise TorchServeError("Several nodes serve the model; deploy them anew to change what they serve.")


def read_properties(path: Path) -> dict[str, str]:
    """Read a Java properties file of plain key=value lines."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}


def _versioned(path: str, version: str | None) -> str:
    if version and not VERSION.fullmatch(version):  # `..` would lead elsewhere
        raise NoSuchVersion(f"There is no version {version!r}.")
    return f"{path}/{version}" if version else path


def _ready(description: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the workers that can answer."""
    return [worker for worker in description["workers"] if worker["status"] == "READY"]


def _token_expired(response: BaseHTTPResponse) -> bool:
    return response.status == 400 and b'"InvalidKeyException"' in response.data


def _result(response: BaseHTTPResponse) -> Any:
    """Return the JSON of a reply; raises what its status means."""
    try:
        reply = response.json()
    except ValueError:
        raise Unavailable("TorchServe answered with something else than JSON.") from None
    if response.status < 400:
        return reply
    if "error" in reply:
        raise ImageRefused(reply["error"], response.status)
    if response.status == VERSION_TAKEN:
        remedy = "Give the new archive another number, 'training.archive --version', or unregister that version."
        raise TorchServeError(f"{reply['message']}. {remedy}")
    if reply.get("type") == "ModelVersionNotFoundException":
        raise NoSuchVersion(reply["message"])
    if reply.get("message") == NOT_FOUND:
        raise Unavailable("No model is registered.")
    if response.status < 500:
        raise TorchServeError(reply.get("message", f"TorchServe answered with status {response.status}."))
    kind = WorkerDied if response.status in WORKER_DIED else Unavailable
    raise kind("The model cannot answer just now.")

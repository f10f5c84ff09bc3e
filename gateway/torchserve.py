"""The only module that knows TorchServe: its inference, management and token APIs."""

import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from filelock import FileLock
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, Timeout, connection_from_url
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError
from urllib3.filepost import encode_multipart_formdata

from gateway import metrics

MODEL = "classifier"  # the name a model is served under, whatever its archive is called
PREDICTIONS = f"/predictions/{MODEL}"
EXPLANATIONS = f"/explanations/{MODEL}"
BINARY = "application/octet-stream"
Headers = dict[str, str]
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION_TAKEN = 409  # TorchServe's status for an archive whose version number another one has
WORKER_DIED = (500, 507)  # TorchServe's status for the images that a dead worker had
CONNECT_TIMEOUT = 2.0  # seconds
POOL_SIZE = 64  # connections kept, not a limit
POLL_INTERVAL = 0.005  # seconds
KEY_FILE_PATIENCE = 0.5  # seconds; TorchServe does not replace the file in one step


class TorchServeError(Exception):
    """TorchServe did not do what it was asked. A message of its own is for operators, not for clients."""


class Unavailable(TorchServeError):
    """TorchServe or the model is not there, or is too busy; asking again later may work."""


class WorkerDied(Unavailable):
    """The worker that had the images is gone, and they with it."""


class NoSuchVersion(TorchServeError):
    """The model has no version of that number."""


class TooSlow(TorchServeError):
    """No answer within the time limit."""


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
        limits = Timeout(connect=CONNECT_TIMEOUT, read=timeout)
        self._pools = {
            kind: connection_from_url(properties[f"{kind}_address"], timeout=limits, maxsize=POOL_SIZE)
            for kind in ("inference", "management")
        }
        self._tokens = Tokens(key_file, self._pools["management"])
        self._details: tuple[Any, dict[str, Any]] | None = None

    def predict(self, image: bytes, version: str | None = None) -> dict[str, Any]:
        """Classify the bytes of an image file, by the default version or a given one; returns predicted_class,
        confidence, class_probabilities and whether the image is in_distribution.
        """
        return self._predict(PREDICTIONS, version, image)

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[dict[str, Any]]:
        """Classify two image files or more at once, by the default version or a given one.

        Returns for each what `predict` does, or {"error": …, "status": …} where `predict` would raise ImageRefused.
        """
        parts = {str(index): ("image", image, BINARY) for index, image in enumerate(images)}
        body, content = encode_multipart_formdata(parts)
        answers = self._predict(PREDICTIONS, version, body, {"Content-Type": content})
        if len(answers) != len(images):
            raise Unavailable(f"TorchServe gave {len(answers)} answers for {len(images)} images.")
        return answers

    def explain(self, image: bytes, class_name: str, version: str | None = None) -> dict[str, Any]:
        """Say what in an image speaks for a class, or for the predicted one where its name is empty.

        Returns explained_class, predicted_class, method, input (a data URL) and heat_map (rows of numbers).
        """
        # Not a field of a form, as only a header can say to which image of a batch it belongs.
        return self._predict(EXPLANATIONS, version, image, {"explained-class": quote(class_name, safe="")})

    def describe(self, version: str | None = None) -> list[dict[str, Any]]:
        """Describe the default version, a given one, or `all`: settings and workers."""
        return self._call("management", "GET", self._path(version))

    def details(self) -> dict[str, Any]:
        """Return what the deployed model says of itself: `card` and `device`, asked once per worker start; its
        `version`; and how many of its `workers` are ready.

        Raises Unavailable while no worker of the default version is ready.
        """
        if not self.models():
            raise Unavailable("No model is registered.")
        description = self.describe()[0]
        workers = [worker for worker in description["workers"] if worker["status"] == "READY"]
        if not workers:
            raise Unavailable("The model is not ready yet.")
        started = description["modelVersion"], [(worker["id"], worker["startTime"]) for worker in workers]
        if self._details is None or self._details[0] != started:
            told = {**self.said(), "version": description["modelVersion"], "workers": len(workers)}
            self._details = started, told
        return self._details[1]

    def said(self, version: str | None = None) -> dict[str, Any]:
        """Return what a worker says of itself: `card`, `device` and its `pid`. It has answered all it had before then.

        Raises Unavailable where it says nothing.
        """
        said = self._call("management", "GET", f"{self._path(version)}?customized=true")[0].get("customizedMetadata")
        if said is None:
            raise Unavailable("The model does not describe itself just now.")
        return said

    def versions(self) -> list[dict[str, Any]]:
        """Return the number of each version, whether it is the default, and how many of its workers are ready."""
        default = self.describe()[0]["modelVersion"]
        return [
            {
                "version": each["modelVersion"],
                "default": each["modelVersion"] == default,
                "workers": sum(worker["status"] == "READY" for worker in each["workers"]),
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
        return self._call("management", "POST", f"/models?{options}")["status"]

    def scale(self, workers: int, version: str | None = None) -> str:
        """Run exactly `workers` workers; returns what happened."""
        options = urlencode({"min_worker": workers, "max_worker": workers, "synchronous": "true"})
        return self._call("management", "PUT", f"{self._path(version)}?{options}")["status"]

    def set_default(self, version: str) -> str:
        """Serve `version` where none is named; returns what happened."""
        return self._call("management", "PUT", f"{self._path(version)}/set-default")["status"]

    def unregister(self, version: str) -> str:
        """Stop and forget `version`; returns what happened."""
        return self._call("management", "DELETE", self._path(version))["status"]

    def _predict(self, path: str, version: str | None, body: bytes, headers: Headers | None = None) -> Any:
        path = _versioned(path, version)
        with metrics.INFERENCE.time():
            try:
                return self._call("inference", "POST", path, body, headers)
            except WorkerDied:  # a prediction changes nothing, so another worker may be asked for it, once
                return self._call("inference", "POST", path, body, headers)

    def _path(self, version: str | None = None) -> str:
        return _versioned(f"/models/{MODEL}", version)

    def _call(
        self, kind: str, method: str, path: str, body: bytes | None = None, headers: Headers | None = None
    ) -> Any:
        """Send one request with a valid token; returns the JSON of the reply."""
        token = self._tokens.read(kind)
        response = _send(self._pools[kind], method, path, token, body, headers)
        if _token_expired(response):
            response = _send(self._pools[kind], method, path, self._tokens.renew(kind, token), body, headers)
        return _result(response)


class Tokens:
    """TorchServe's short-lived keys, which it writes into `key_file` and nowhere else."""

    def __init__(self, key_file: Path, management: HTTPConnectionPool) -> None:
        self._key_file, self._management = key_file, management

    def read(self, kind: str) -> str:
        """Return the current key for `inference`, `management` or `API`."""
        until = time.monotonic() + KEY_FILE_PATIENCE
        while True:
            try:
                return json.loads(self._key_file.read_text())[kind]["key"]
            except (ValueError, KeyError, TypeError):  # half-written: another process is renewing
                if time.monotonic() > until:
                    raise Unavailable("TorchServe's keys cannot be read.") from None
            except OSError:
                raise Unavailable("TorchServe is not running, or is just starting.") from None
            time.sleep(POLL_INTERVAL)

    def renew(self, kind: str, expired: str) -> str:
        """Return a key other than `expired`. Renewing kills the old key, so of several processes one does it."""
        # Polls, as a blocking lock would stop all greenlets of the process, the one that holds it included.
        with FileLock(self._key_file.with_suffix(".lock"), poll_interval=POLL_INTERVAL):
            if self.read(kind) == expired:
                _send(self._management, "GET", f"/token?type={kind}", self.read("API"))
            return self.read(kind)


def read_properties(path: Path) -> dict[str, str]:
    """Read a Java properties file of plain key=value lines."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}


def _send(
    pool: HTTPConnectionPool,
    method: str,
    path: str,
    token: str,
    body: bytes | None = None,
    headers: Headers | None = None,
) -> BaseHTTPResponse:
    all_headers = {"Authorization": f"Bearer {token}", "Content-Type": BINARY, **(headers or {})}

    def request() -> BaseHTTPResponse:
        return pool.urlopen(method, path, body=body, headers=all_headers, retries=False)

    try:
        try:
            return request()
        except ProtocolError:  # the connection had been kept and was closed just now: a fresh one decides
            return request()
    except ReadTimeoutError:
        raise TooSlow("The model took too long to answer.") from None
    except HTTPError:
        raise Unavailable("TorchServe cannot be reached.") from None


def _versioned(path: str, version: str | None) -> str:
    if version and not VERSION.fullmatch(version):  # `..` would lead elsewhere
        raise NoSuchVersion(f"There is no version {version!r}.")
    return f"{path}/{version}" if version else path


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
    if response.status < 500:
        raise TorchServeError(reply.get("message", f"TorchServe answered with status {response.status}."))
    kind = WorkerDied if response.status in WORKER_DIED else Unavailable
    raise kind("The model cannot answer just now.")

"""The versions that the processes of an embedded gateway serve, and their change."""

import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import urllib3
from filelock import FileLock

from gateway.archives import CARD
from gateway.backend import (
    BackendError,
    Deployed,
    ImageRefused,
    NoSuchVersion,
    Prediction,
    TooSlow,
    Unavailable,
)
from gateway.embedded.versions import FILE, Unpacked, knock, read
from scripts.serving.defaults import MEMORY, SCRATCH, URL_FILE
from scripts.serving.deployment import Refused
from scripts.serving.served import STORE
from training.files import digest_path, write_whole
from training.project import ROOT

MANIFEST = "MAR-INF/MANIFEST.json"
AGAIN_SECONDS = 0.1  # until a busy gateway is asked again


def begin(archives: list[Path], folder: Path) -> None:
    """Unpack the archives to serve, the default first, for a gateway that is going to start."""
    _write(folder, [_unpack(archive, folder) for archive in archives])


class EmbeddedDeployment:
    """Changes what the gateway in the folder `run` serves. `timeout`, in seconds, is that of an answer and of a start.

    Its own requests go through the gateway, as those of any client.
    """

    def __init__(self, run: Path, timeout: float) -> None:
        if not (run / MEMORY).is_symlink():
            raise Refused(f"no gateway runs in {run}; start one with 'classifier serve --backend embedded'.")
        self._folder = (run / MEMORY).readlink() / SCRATCH
        self._store, self._url, self._timeout = run / STORE, (run / URL_FILE).read_text(), timeout

    def versions(self) -> list[Deployed]:
        processes = knock(self._folder, self._timeout)
        return [
            {
                "version": version["version"],
                "default": index == 0,
                "archive": version["archive"],
                "ready": processes,
                "workers": processes,
                "batch_size": self._card(version)["batch_size"],
                "batch_delay": 0,
            }
            for index, version in enumerate(read(self._folder))
        ]

    def describe(self, version: str | None = None) -> list[dict[str, Any]]:
        known = read(self._folder)
        wanted = known if version == "all" else [_named(version, known)] if version else known[:1]
        return [{**each, "card": self._card(each)} for each in wanted]

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        until = time.monotonic() + self._timeout
        while (reply := self._ask(image, version)).status == HTTPStatus.SERVICE_UNAVAILABLE:
            if time.monotonic() > until:
                raise Unavailable(reply.json()["error"])
            time.sleep(AGAIN_SECONDS)
        answer: Prediction = _result(reply)
        return answer

    def register(self, archive: str) -> str:
        with self._changing() as versions:
            version = _version_of(self._store / archive)
            if version in (known["version"] for known in versions):
                raise Refused(
                    f"version {version} is already registered. Pack it with another number, 'classifier archive "
                    "--version', or unregister that version."
                )
            unpacked = _unpack(self._store / archive, self._folder)
            _try(self._folder / unpacked["folder"], archive)
            versions.append(unpacked)
        return version

    def scale(self, workers: int, version: str | None = None) -> str:
        raise Refused("each process of the gateway runs every version once, so there is nothing to scale.")

    def set_default(self, version: str) -> None:
        with self._changing() as versions:
            default = _named(version, versions)
            versions.remove(default)
            versions.insert(0, default)

    def drain(self, version: str) -> None:
        """Return at once: unregistering lets requests that have begun end."""

    def unregister(self, version: str) -> None:
        with self._changing() as versions:
            gone = _named(version, versions)
            versions.remove(gone)
        shutil.rmtree(self._folder / gone["folder"], ignore_errors=True)

    @contextmanager
    def _changing(self) -> Iterator[list[Unpacked]]:
        """Yield the versions, and have every process serve what becomes of them, or else what was before."""
        with FileLock(self._folder / f"{FILE}.lock"):
            before = read(self._folder)
            yield (after := list(before))
            _write(self._folder, after)
            try:
                knock(self._folder, self._timeout)
            except BaseException:  # Ctrl-C too
                _write(self._folder, before)
                with suppress(BackendError):
                    knock(self._folder, self._timeout)
                raise

    def _card(self, version: Unpacked) -> dict[str, Any]:
        card: dict[str, Any] = json.loads((self._folder / version["folder"] / CARD).read_text(encoding="utf-8"))
        return card

    def _ask(self, image: bytes, version: str | None) -> urllib3.BaseHTTPResponse:
        query = f"?version={version}" if version else ""
        try:
            return urllib3.request(
                "POST",
                f"{self._url}/predict{query}",
                fields={"file": ("image", image)},
                timeout=self._timeout,
                retries=False,
            )
        except urllib3.exceptions.TimeoutError:
            raise TooSlow from None
        except urllib3.exceptions.HTTPError:
            raise Unavailable("The gateway does not answer.") from None


def _result(reply: urllib3.BaseHTTPResponse) -> Any:
    """Return the JSON of a reply. Raises the BackendError that its status stands for."""
    answer = reply.json()
    match reply.status:
        case HTTPStatus.OK:
            return answer
        case HTTPStatus.NOT_FOUND:
            raise NoSuchVersion(answer["error"])
        case HTTPStatus.GATEWAY_TIMEOUT:
            raise TooSlow
        case status if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ImageRefused(answer["error"], status)
        case _:
            raise BackendError(answer["error"])


def _named(version: str, versions: list[Unpacked]) -> Unpacked:
    for known in versions:
        if known["version"] == version:
            return known
    raise NoSuchVersion(f"There is no version {version!r}.")


def _write(folder: Path, versions: list[Unpacked]) -> None:
    write_whole(folder / FILE, json.dumps(versions, indent=2))


def _unpack(archive: Path, folder: Path) -> Unpacked:
    """Unpack an archive in `folder`, under its digest, so that two builds of it have two folders."""
    name = digest_path(archive).read_text().split()[0]
    shutil.rmtree(folder / name, ignore_errors=True)
    shutil.unpack_archive(archive, folder / name, "zip")
    return {"version": _version_of(archive), "archive": archive.name, "folder": name}


def _version_of(archive: Path) -> str:
    with zipfile.ZipFile(archive) as file:
        version: str = json.loads(file.read(MANIFEST))["model"]["modelVersion"]
        return version


def _try(folder: Path, archive: str) -> None:
    """Load a model in a separate process, which alone ends if that goes wrong. Raises Refused."""
    command = [sys.executable, "-m", "gateway.embedded.engine", str(folder)]
    tried = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if tried.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        reason = (tried.stderr.strip().splitlines() or [f"its process ended with status {tried.returncode}"])[-1]
        raise Refused(f"{archive} cannot be loaded: {reason}")

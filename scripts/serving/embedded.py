"""The versions that the processes of an embedded gateway serve, and their change."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from gateway.archives import CARD
from gateway.backend import NO_MODEL, BackendError, Deployed, NoSuchVersion, Prediction, Unavailable
from gateway.embedded import control
from gateway.embedded.versions import FILE, Unpacked, read
from scripts.serving.defaults import MEMORY, SCRATCH
from scripts.serving.deployment import Refused
from scripts.serving.served import STORE
from training.archive import version_of
from training.files import digest_path, write_whole
from training.project import EXAMPLES, ROOT


def begin(archives: list[Path], folder: Path) -> None:
    """Unpack the archives to serve, the default first, for a gateway that is going to start."""
    versions = list(map(_described, archives))
    for archive, version in zip(archives, versions, strict=True):
        _unpack(archive, folder / version["folder"])
    _write(folder, versions)


class EmbeddedDeployment:
    """Changes what the gateway in the folder `run` serves. `timeout`, in seconds, is that of an answer and of a start.

    Raises Unavailable if no gateway runs there.
    """

    def __init__(self, run: Path, timeout: float) -> None:
        link = run / MEMORY
        if not (link / SCRATCH / FILE).exists():
            raise Unavailable(f"No gateway runs in {run}; start one with 'classifier serve --backend embedded'.")
        self._folder = link.readlink() / SCRATCH  # a short way, because paths of sockets have to be short
        self._store, self._timeout = run / STORE, timeout

    def versions(self) -> list[Deployed]:
        processes = control.knock(self._folder, self._timeout)
        return [
            {
                "version": version["version"],
                "default": index == 0,
                "archive": version["archive"],
                "ready": processes,
                "workers": processes,
            }
            for index, version in enumerate(read(self._folder))
        ]

    def describe(self, version: str | None = None) -> list[dict[str, Any]]:
        control.knock(self._folder, self._timeout)
        known = read(self._folder)
        if not known:
            raise Unavailable(NO_MODEL)
        wanted = known if version == "all" else [_named(version, known)] if version else known[:1]
        return [{**each, "card": self._card(each)} for each in wanted]

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        return control.predict(self._folder, self._timeout, image, version)

    def register(self, archive: str) -> str:
        path = self._store / archive
        new = _described(path)
        with self._changing() as versions:
            if new["version"] in (known["version"] for known in versions):
                raise Refused(
                    f"version {new['version']} is already registered. Pack it with another number, 'classifier archive "
                    "--version', or unregister that version."
                )
            try:
                _unpack(path, self._folder / new["folder"])
                self._try_out(new)
                versions.append(new)
            except BaseException as error:
                shutil.rmtree(self._folder / new["folder"], ignore_errors=True)
                if isinstance(error, OSError):
                    raise Refused(f"{archive} cannot be unpacked: {error.strerror}.") from None
                raise
        return new["version"]

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
        if not (self._folder / FILE).exists():
            raise Refused("the server was stopped or started again meanwhile. Enter the command again.")
        with FileLock(self._folder / f"{FILE}.lock"):
            before = read(self._folder)
            yield (after := list(before))
            try:
                _write(self._folder, after)
                control.knock(self._folder, self._timeout)
            except BaseException as error:  # Ctrl-C too
                _write(self._folder, before)
                with suppress(BackendError):
                    control.knock(self._folder, self._timeout)
                if isinstance(error, BackendError):
                    raise Refused(f"the gateway cannot do that. {error}") from None
                raise

    def _try_out(self, new: Unpacked) -> None:
        """Predict the page's examples in a separate process, which alone ends if that goes wrong. Raises Refused."""
        command = [sys.executable, "-m", "gateway.embedded.engine", str(self._folder / new["folder"])]
        command += map(str, sorted(EXAMPLES.glob("*.jpg")))
        try:
            tried = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=self._timeout)
        except subprocess.TimeoutExpired:
            raise Refused(f"{new['archive']} takes more than {self._timeout:g} s to load and to predict.") from None
        if tried.returncode:
            reason = (tried.stderr.strip().splitlines() or [f"its process ended with status {tried.returncode}"])[-1]
            raise Refused(f"{new['archive']} fails when it is tried: {reason}")

    def _card(self, version: Unpacked) -> dict[str, Any]:
        card: dict[str, Any] = json.loads((self._folder / version["folder"] / CARD).read_text(encoding="utf-8"))
        return card


def _named(version: str, versions: list[Unpacked]) -> Unpacked:
    for known in versions:
        if known["version"] == version:
            return known
    raise NoSuchVersion(f"There is no version {version!r}.")


def _write(folder: Path, versions: list[Unpacked]) -> None:
    write_whole(folder / FILE, json.dumps(versions, indent=2))


def _described(archive: Path) -> Unpacked:
    """Describe an archive; its folder has the name of its digest, so that two builds of it have two folders."""
    folder = digest_path(archive).read_text().split()[0]
    return {"version": version_of(archive) or "", "archive": archive.name, "folder": folder}


def _unpack(archive: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.unpack_archive(archive, place, "zip")

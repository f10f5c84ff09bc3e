"""The check of an archive before it is served, registered, or sent to many machines."""

import zipfile
from pathlib import Path

from gateway.archives import check_files
from gateway.backend import OutdatedArchive
from scripts.serving.defaults import TORCHSERVE
from training.files import check_digest
from training.outcome import Stopped
from training.project import ONNX_ZIP


def check_archive(archive: Path, backend: str | None = None) -> None:
    """Raise Stopped if an archive is missing, has changed, was packed by an earlier version, or not for `backend`."""
    if backend == TORCHSERVE and archive.name.endswith(ONNX_ZIP):
        raise Stopped(
            f"{archive} is for the embedded backend alone ('--backend embedded'); for TorchServe, pack the checkpoint "
            "with 'classifier archive'."
        )
    check_digest(archive)
    again = "pack it again with 'classifier archive'."
    try:
        with zipfile.ZipFile(archive) as file:
            check_files(zipfile.Path(file))
    except OutdatedArchive:
        raise Stopped(f"An earlier version of this project has packed {archive}; {again}") from None
    except zipfile.BadZipFile:
        raise Stopped(f"{archive} is no archive; {again}") from None

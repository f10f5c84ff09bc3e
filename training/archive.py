"""Pack a checkpoint as a TorchServe archive; the same checkpoint always gives the same bytes.

    classifier archive cifar10_pair
    classifier archive runs/mine/mine.pth -o second.mar --version 2.0
    classifier archive runs/mine/mine.pth -o runs/mine/mine.onnx.zip

The first writes model_store/cifar10_pair.mar and its digest, a file named .mar.sha256, which serving needs.
The archive has ONNX, TorchScript for TorchServe on a GPU, the handler, class names, model card and serving
configuration. If --output ends in .onnx.zip, it has ONNX alone, and the embedded backend serves it without PyTorch. If
this checkpoint, version and code have made the archive before, it is left unchanged.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

import handler
from training import commands
from training.files import DigestError, check_digest, write_digest, written_whole
from training.outcome import Stopped
from training.project import MAR, ONNX_ZIP

# PyTorch and the exporters are imported only to make an archive: every start of the server checks whether it has to.
if TYPE_CHECKING:
    from training.batching import Batching
    from training.checkpoint import Checkpoint

HANDLER = Path(handler.__file__).parent
TORCHSERVE_HANDLER = HANDLER / "image_classifier.py"
TRAINING = Path(__file__).parent
LOCK = TRAINING.parent / "requirements.lock"
MANIFEST = "MAR-INF/MANIFEST.json"
SETTINGS = HANDLER / "model-config.yaml"
FIRST_VERSION = "1.0"
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # that of gateway.torchserve.api, which can ask for no other


def archive(checkpoint: "Checkpoint", path: Path, version: str, sources: str = "") -> None:
    """Export `checkpoint` and write the archive to `path`, whose name without its suffix becomes the model's name.

    `sources` is the digest of its sources, kept as the comment of the zip file.
    Raises ExportError if an export does not compute the same as the network.
    """
    from training.batching import batching_of

    name, batching = _model_name(path), batching_of(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder) / name
        if _is_onnx(path):
            _stage(checkpoint, batching, content)
            (content / MANIFEST).parent.mkdir()
            (content / MANIFEST).write_text(json.dumps({"model": {"modelName": name, "modelVersion": version}}))
        else:
            _lay_out_for_torchserve(checkpoint, batching, content, version)
        with written_whole(path) as temporary:
            # One that is in git had better be small; TorchServe need not inflate its own.
            _zip(content, temporary, sources, zipfile.ZIP_DEFLATED if _is_onnx(path) else zipfile.ZIP_STORED)
            write_digest(path, temporary)  # first, so that after a kill the old archive counts as outdated


def _lay_out_for_torchserve(checkpoint: "Checkpoint", batching: "Batching", content: Path, version: str) -> None:
    """Make the folder `content`, with TorchScript and the rest that TorchServe needs. Works beside it."""
    from model_archiver import ModelArchiver, ModelArchiverConfig

    from training.export import export

    build, name = content.parent, content.name
    model = build / f"{name}.pt"
    export(checkpoint, model)
    settings = ModelArchiverConfig(
        model_name=name,
        serialized_file=str(model),
        handler=str(TORCHSERVE_HANDLER),
        extra_files=str(_stage(checkpoint, batching, build / ".stage")),  # which no model is called
        config_file=str(_write_settings(batching, build / SETTINGS.name)),
        version=version,
        export_path=str(build),
        archive_format="no-archive",
    )
    with _temporary_files_in(build / ".temporary"):
        ModelArchiver.generate_model_archive(settings)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Have the archiver work in a new folder: in that of the machine it deletes what has the model's name."""
    folder.mkdir()
    usual, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = usual


def archive_of(model: Path, version: str | None = None, suffix: str = MAR) -> Path:
    """Return the archive of a checkpoint, packed as 'classifier archive' does; an archive is returned as it is.

    It lies beside the checkpoint, with `suffix`, which is MAR or ONNX_ZIP.

    Another process packs it, because servers need no PyTorch in memory. Raises Stopped, and SystemExit if the
    checkpoint cannot be packed; the reason has been printed then.
    """
    if model.name.endswith((MAR, ONNX_ZIP)):
        if version:
            raise Stopped("--version is for a checkpoint; an archive has its version already.")
        return model
    path = model.with_suffix(suffix)
    pack(model, path, version)
    return path


def pack(checkpoint: Path, path: Path, version: str | None = None, printing_to: int | None = None) -> None:
    """Pack a checkpoint in another process, which prints to this descriptor (default: the standard output).

    Raises SystemExit if it cannot be packed; the reason has been printed.
    """
    command = [sys.executable, "-m", "training.archive", str(checkpoint), "--output", str(path)]
    packed = subprocess.run([*command, *(["--version", version] if version else [])], stdout=printing_to)
    if packed.returncode:
        raise SystemExit(packed.returncode)


def digest_sources(checkpoint: Path, path: Path, version: str) -> str:
    """Return the digest of everything that decides the bytes that `archive` writes to `path`.

    Of an ONNX archive that is the checkpoint and the code in it. A released one is in git, and cannot be packed again
    on a machine without PyTorch, so changes to the exporters do not count.
    """
    digest = hashlib.sha256(f"{_model_name(path)} {version} ".encode())
    digest.update(hashlib.sha256(checkpoint.read_bytes()).digest())
    exporters = [] if _is_onnx(path) else [TORCHSERVE_HANDLER, SETTINGS, *sorted(TRAINING.glob("*.py")), LOCK]
    for source in (*_code(), *exporters):
        digest.update(source.name.encode() + hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


def is_current(path: Path, sources: str) -> bool:
    """Return whether the archive at `path` is complete and was made from `sources`."""
    try:
        check_digest(path)
        with zipfile.ZipFile(path) as archive_file:
            return archive_file.comment == sources.encode()
    except (DigestError, zipfile.BadZipFile):
        return False


def version_of(path: Path) -> str | None:
    """Return the version of the archive at `path`, or None if no archive there can be read."""
    try:
        with zipfile.ZipFile(path) as archive_file:
            return str(json.loads(archive_file.read(MANIFEST))["model"]["modelVersion"])
    except (FileNotFoundError, zipfile.BadZipFile, KeyError, ValueError):
        return None


def next_version(known: Iterable[str]) -> str:
    """Return the number after that of all known versions, such as 3.0 after 2.1."""
    numbers = [int(first) for version in known if (first := version.partition(".")[0]).isdecimal()]
    return f"{max(numbers, default=1) + 1}.0"


def _model_name(path: Path) -> str:
    """Return the name of `path` without its suffix, with the characters that TorchServe's archiver takes."""
    stem = path.name.removesuffix(ONNX_ZIP) if _is_onnx(path) else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "model"


def _is_onnx(path: Path) -> bool:
    return path.name.endswith(ONNX_ZIP)


def _code() -> list[Path]:
    """Return the modules of the handler that every archive brings along."""
    return sorted(set(HANDLER.glob("*.py")) - {TORCHSERVE_HANDLER})


def _write_settings(batching: "Batching", path: Path) -> Path:
    """Write TorchServe's settings: those of all archives, with more time for a slow network."""
    import yaml

    settings = yaml.safe_load(SETTINGS.read_text())
    timeout = max(settings["responseTimeout"], batching.timeout)
    path.write_text(yaml.safe_dump(settings | {"responseTimeout": timeout}))
    return path


def _stage(checkpoint: "Checkpoint", batching: "Batching", stage: Path) -> Path:
    """Lay out the files that an archive has beside its handler, as the worker sees them."""
    from handler.onnx_engine import NETWORK
    from training.export import export_onnx

    package = stage / "handler"
    package.mkdir(parents=True)
    for module in _code():
        shutil.copy(module, package)
    export_onnx(checkpoint, stage / NETWORK)
    names = {str(index): name for index, name in enumerate(checkpoint.card["classes"])}
    (stage / "index_to_name.json").write_text(json.dumps(names, indent=2))
    (stage / "model_card.json").write_text(json.dumps(checkpoint.card | {"batch_size": batching.size}, indent=2))
    return stage


def _zip(folder: Path, path: Path, comment: str, compression: int) -> None:
    """Zip as the archiver does, but with the same date for all archives, in the manifest and on every file."""
    manifest_path = folder / MANIFEST
    manifest = json.loads(manifest_path.read_text())
    manifest["createdOn"] = "01/01/1980 00:00:00"
    manifest_path.write_text(json.dumps(manifest, indent=2))
    with zipfile.ZipFile(path, "w") as archive_file:
        archive_file.comment = comment.encode()
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix())
            archive_file.writestr(entry, file.read_bytes(), compression)


@commands.command("archive", help=__doc__)
@commands.checkpoint
@commands.output("the archive to write (default: beside the checkpoint)", "MAR|ONNX.ZIP")
@click.option("--version", help="the model's version (default: that of the archive in its place, or 1.0)")
def main(checkpoint: Path, output: Path | None, version: str | None) -> None:
    path = output or checkpoint.with_suffix(MAR)
    if not path.name.endswith((MAR, ONNX_ZIP)):
        raise Stopped(f"{path} has to end in {MAR} for TorchServe, or in {ONNX_ZIP} to serve it without PyTorch.")
    version = version or version_of(path) or FIRST_VERSION
    if not VERSION.fullmatch(version):
        raise Stopped(
            f"{version!r} cannot be a version: use only the letters A to Z and a to z, digits, '.', '_' and '-', "
            "and begin with a letter or a digit."
        )
    if not checkpoint.is_file():
        raise Stopped(f"There is no checkpoint {checkpoint}; 'classifier train' makes one.")
    sources = digest_sources(checkpoint, path, version)
    if is_current(path, sources):
        print(f"{path} is current, version {version}")
        return
    from handler.onnx_engine import NETWORK
    from training.batching import batching_of, measured
    from training.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    archive(loaded, path, version, sources)
    print(f"wrote {path}, version {version}, which serves in batches of at most {batching_of(loaded).size}")
    with zipfile.ZipFile(path) as written:
        print(f"one core takes {measured(written.read(NETWORK), loaded.inputs)}")


if __name__ == "__main__":
    main()

"""Pack a checkpoint as a TorchServe archive; the same checkpoint always gives the same bytes.

    python -m training.archive model_store/cifar10_whitened_resnet.pth

writes model_store/cifar10_whitened_resnet.mar: TorchScript for TorchServe, ONNX for other engines, handler, class
names, model card, serving configuration;
and cifar10_whitened_resnet.mar.sha256, its digest, without which it is not served.
"""

import argparse
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

from model_archiver import ModelArchiver, ModelArchiverConfig

import handler
from handler.onnx_engine import NETWORK
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from training.export import ExportError, export, export_onnx
from training.files import write_digest, written_whole

HANDLER = Path(handler.__file__).parent


def archive(checkpoint: Checkpoint, path: Path, version: str) -> None:
    """Export `checkpoint` and write the archive to `path`, whose stem becomes the model's name."""
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder)
        model = build / f"{path.stem}.pt"
        export(checkpoint, model)
        ModelArchiver.generate_model_archive(
            ModelArchiverConfig(
                model_name=path.stem,
                serialized_file=str(model),
                handler=str(HANDLER / "image_classifier.py"),
                extra_files=str(_stage(checkpoint, build / "stage")),
                config_file=str(HANDLER / "model-config.yaml"),
                version=version,
                export_path=str(build),
                archive_format="no-archive",
            )
        )
        with written_whole(path) as temporary:
            _zip(build / path.stem, temporary)
            write_digest(path, temporary)  # first, so that after a kill make finds an old archive and builds it again


def _stage(checkpoint: Checkpoint, stage: Path) -> Path:
    """Lay out, as the worker will see them, the files that go along with the handler."""
    package = stage / "handler"
    package.mkdir(parents=True)
    for module in set(HANDLER.glob("*.py")) - {HANDLER / "image_classifier.py"}:
        shutil.copy(module, package)
    export_onnx(checkpoint, stage / NETWORK)
    names = {str(index): name for index, name in enumerate(checkpoint.card["classes"])}
    (stage / "index_to_name.json").write_text(json.dumps(names, indent=2))
    (stage / "model_card.json").write_text(json.dumps(checkpoint.card, indent=2))
    return stage


def _zip(folder: Path, path: Path) -> None:
    """Zip as the archiver would, but with one date for all archives, in the manifest and on every file."""
    manifest_path = folder / "MAR-INF" / "MANIFEST.json"
    manifest = json.loads(manifest_path.read_text())
    manifest["createdOn"] = "01/01/1980 00:00:00"
    manifest_path.write_text(json.dumps(manifest, indent=2))
    with zipfile.ZipFile(path, "w") as archive_file:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive_file.writestr(zipfile.ZipInfo(file.relative_to(folder).as_posix()), file.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--output", type=Path, help="the archive; beside the checkpoint without it")
    parser.add_argument("--version", default="1.0", help="the model's version, 1.0 without it")
    arguments = parser.parse_args()
    path = arguments.output or arguments.checkpoint.with_suffix(".mar")
    try:
        archive(load_checkpoint(arguments.checkpoint), path, arguments.version)
    except (CheckpointError, ExportError) as error:
        raise SystemExit(str(error)) from None
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

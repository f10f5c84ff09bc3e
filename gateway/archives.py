"""The requirements on an archive that this version of the project can serve; reads nothing but its files."""

import json
import zipfile
from pathlib import Path
from typing import Any

from gateway.backend import OutdatedArchive

CODE = "handler"  # the package that every archive brings along
ENGINE = "onnx_engine"  # the module of that package that others call
CARD = "model_card.json"


def check_files(archive: Path | zipfile.Path) -> None:
    """Raise OutdatedArchive if an earlier version of this project packed the archive, a zip file or unpacked."""
    card = archive / CARD
    if not all(file.is_file() for file in (card, archive / CODE / f"{ENGINE}.py")):
        raise OutdatedArchive
    check_card(json.loads(card.read_text(encoding="utf-8")))


def check_card(card: dict[str, Any]) -> None:
    """Raise OutdatedArchive if a model card lacks what later versions ask for."""
    if "preprocessing" not in card or "in_distribution" not in card.get("calibration", {}):
        raise OutdatedArchive

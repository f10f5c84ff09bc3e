"""Where the project's own files lie, and how you name them from any folder; loads the standard library alone."""

from __future__ import annotations  # scripts/doctor.py has to run in Pythons too old for the rest

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPES, SPACES, MERGES = ROOT / "training" / "recipes", ROOT / "training" / "spaces", ROOT / "training" / "merges"
CHECKPOINTS = ROOT / "model_store"
EXAMPLES = ROOT / "ui" / "examples"  # images that the page shows, and that exports and versions have to predict
MAR, ONNX_ZIP = ".mar", ".onnx.zip"  # archives for TorchServe, and for the embedded backend alone


def from_recipe(path: str) -> Path:
    """Return the file that a recipe names, from the current folder or else from the project's."""
    return ROOT / path if not Path(path).exists() and (ROOT / path).exists() else Path(path)

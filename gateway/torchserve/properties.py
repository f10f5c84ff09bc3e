"""TorchServe's configuration file, and the name under which it serves the model. Imports nothing else of ours."""

from pathlib import Path

MODEL = "classifier"  # whatever the archive is called


def read_properties(path: Path) -> dict[str, str]:
    """Read a Java properties file of plain key=value lines."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}

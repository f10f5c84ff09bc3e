"""The file that says which versions all processes of the gateway serve; `classifier models` alone writes it."""

import json
from pathlib import Path
from typing import TypedDict

FILE = "versions.json"


class Unpacked(TypedDict):
    """A version, the name of its archive, and the folder beside the file in which that is unpacked."""

    version: str
    archive: str
    folder: str


def read(folder: Path) -> list[Unpacked]:
    """Return the versions, the default first."""
    versions: list[Unpacked] = json.loads((folder / FILE).read_text())
    return versions

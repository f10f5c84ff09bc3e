"""Loads the model of an archive that is unpacked, by the code that the archive brings along."""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from gateway.archives import CODE, ENGINE, check_files

_IMPORTING = Lock()


def load(folder: Path) -> Any:
    """Load the model in `folder`. Raises OutdatedArchive if an earlier version of this project packed the archive."""
    check_files(folder)
    return _import_engine(folder).load(folder, threads=1)


def _import_engine(folder: Path) -> ModuleType:
    """Import the engine of the archive's own code, whatever code of that name this process has already.

    It is not left in sys.modules, so that the next archive gets its own too. So that code has to import all of itself
    when it is loaded.
    """
    package = folder / CODE
    spec = spec_from_file_location(CODE, package / "__init__.py", submodule_search_locations=[str(package)])
    if not spec or not spec.loader:
        raise ImportError(f"{package} is no package. Unpack an archive that 'classifier archive' has made.")
    code = module_from_spec(spec)
    with _IMPORTING:
        others = _forget_code()
        sys.modules[CODE] = code
        try:
            spec.loader.exec_module(code)
            return import_module(f"{CODE}.{ENGINE}")
        finally:
            _forget_code()
            sys.modules.update(others)


def _forget_code() -> dict[str, ModuleType]:
    """Take the code out of sys.modules; returns it."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == CODE}


def try_out(folder: Path, images: list[Path]) -> None:
    """Load the model in `folder`, and predict images with it."""
    model = load(folder)
    model.predict([model.read(image.read_bytes()) for image in images])


if __name__ == "__main__":
    try_out(Path(sys.argv[1]), list(map(Path, sys.argv[2:])))

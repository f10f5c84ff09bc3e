#!/usr/bin/env python3
"""Find every reason why the product cannot serve, and say how to mend it.

    python3 scripts/doctor.py
    python3 scripts/doctor.py model_store/cifar10_cnn.mar --url http://127.0.0.1:5002 --json

Any Python starts it; it goes over to that of .venv if there is one. 'classifier doctor' runs the same checks.
Exit status: 0 nothing is wrong, 1 something is, 2 stopped before the end.
"""

# The checks report missing packages, so this imports the standard library alone, and nothing that Python 3.8 lacks.
import argparse
import contextlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this clone's modules, even if nothing is installed

from scripts.serving import defaults  # noqa: E402
from scripts.serving.checks import doctor  # noqa: E402
from training.outcome import end  # noqa: E402


def main() -> int:
    environment = ROOT / ".venv"
    python = environment / "bin" / "python"
    if python.exists() and not environment.samefile(sys.prefix):
        with contextlib.suppress(OSError):  # if it does not start, a check says that packages are missing
            os.execv(python, [str(python), __file__, *sys.argv[1:]])  # noqa: S606
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=defaults.RELEASED, help="a checkpoint or an archive")
    parser.add_argument("--url", default=defaults.served_url(), help="the gateway (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=defaults.CONFIG, help="TorchServe's configuration")
    parser.add_argument("--run", type=Path, default=defaults.RUN, help="the server's folder for logs and keys")
    parser.add_argument("--json", action="store_true", help="print one JSON document, for machines")
    given = parser.parse_args()
    return end(lambda: doctor(given.model, given.url.rstrip("/"), given.config, given.run), given.json)


if __name__ == "__main__":
    sys.exit(main())

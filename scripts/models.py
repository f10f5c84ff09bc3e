#!/usr/bin/env python3
"""Manage the versions of the model that TorchServe serves.

scripts/models.py list
scripts/models.py register cifar10_whitened_resnet.mar
scripts/models.py describe 1.0
scripts/models.py scale 2
scripts/models.py set-default 2.0
scripts/models.py unregister 1.0
scripts/models.py roll second.mar --sample my-images/test
scripts/models.py rollback

`roll` registers an archive, compares its version with the one that is served, and serves it instead where it is no
worse; no request is lost. `rollback` serves again what the last roll, or rollback, has replaced.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from gateway.torchserve import TorchServe, TorchServeError
from scripts.roll import Limits, Refused, register, roll, rollback
from training.files import DigestError

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 120  # seconds, for workers to start


def show(torchserve: TorchServe) -> str:
    """Return a line for each version: the default one, its archive, workers and batching."""
    if not torchserve.models():
        return "No model is registered."
    default = torchserve.describe()[0]["modelVersion"]
    return "\n".join(_line(version, default) for version in torchserve.describe("all"))


def _line(version: dict[str, Any], default: str) -> str:
    ready = sum(worker["status"] == "READY" for worker in version["workers"])
    return (
        f"{version['modelVersion']:8} {'default' if version['modelVersion'] == default else '':8} "
        f"{version['modelUrl']}, {ready} of {version['minWorkers']} workers ready, "
        f"batches of {version['batchSize']} within {version['maxBatchDelay']} ms"
    )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "config.properties", help="TorchServe's configuration")
    parser.add_argument("--run", type=Path, default=ROOT / ".run", help="the folder that scripts/serve.py runs in")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show all versions")
    commands.add_parser("register", help="load an archive").add_argument("archive", help="its file in the model store")
    commands.add_parser("describe", help="print all TorchServe knows").add_argument("version", nargs="?")
    scale = commands.add_parser("scale", help="change the number of workers")
    scale.add_argument("workers", type=int)
    scale.add_argument("version", nargs="?", help="the default version without it")
    commands.add_parser("set-default", help="serve a version where none is named").add_argument("version")
    commands.add_parser("unregister", help="stop and forget a version").add_argument("version")
    rolling = commands.add_parser("roll", help="serve an archive in the place of what is served, if it is no worse")
    rolling.add_argument("archive", help="its file in the model store")
    rolling.add_argument("--sample", type=Path, help="folder of images in folders named as classes; compares accuracy")
    rolling.add_argument("--new-classes", action="store_true", help="other classes are wanted; compares no accuracy")
    rolling.add_argument(
        "--tolerance", type=float, default=Limits.tolerance, help="accuracy that may be lost, a share (%(default)s)"
    )
    rolling.add_argument(
        "--slower", type=float, default=Limits.slower, help="times the old median time an image may take (%(default)s)"
    )
    rolling.add_argument("--limit", type=float, default=Limits.seconds, help="seconds for any image (%(default)s)")
    commands.add_parser("rollback", help="serve what the last roll replaced")
    return parser


def run(arguments: argparse.Namespace, torchserve: TorchServe) -> str:
    """Carry out one command; returns what to print."""
    match arguments.command:
        case "list":
            return show(torchserve)
        case "register":
            return register(torchserve, Path(arguments.archive).name, arguments.run)
        case "describe":
            return json.dumps(torchserve.describe(arguments.version), indent=2)
        case "scale":
            return torchserve.scale(arguments.workers, arguments.version)
        case "set-default":
            return torchserve.set_default(arguments.version)
        case "roll":
            limits = Limits(arguments.tolerance, arguments.slower, arguments.limit, arguments.new_classes)
            return roll(torchserve, Path(arguments.archive).name, arguments.run, arguments.sample, limits)
        case "rollback":
            return rollback(torchserve, arguments.run)
        case _:
            return torchserve.unregister(arguments.version)


def main() -> None:
    arguments = make_parser().parse_args()
    try:
        print(run(arguments, TorchServe(arguments.config, arguments.run / "key_file.json", timeout=TIMEOUT)))
    except Refused as error:
        raise SystemExit(f"Nothing was changed: {error}") from None
    except (TorchServeError, DigestError) as error:
        raise SystemExit(str(error)) from None
    except FileNotFoundError as error:
        raise SystemExit(f"There is no file {error.filename}; name TorchServe's with --config.") from None


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Manage the versions of the model that TorchServe serves.

    .venv/bin/python scripts/models.py list
    .venv/bin/python scripts/models.py register cifar10_whitened_resnet.mar
    .venv/bin/python scripts/models.py describe 1.0
    .venv/bin/python scripts/models.py scale 2
    .venv/bin/python scripts/models.py set-default 2.0
    .venv/bin/python scripts/models.py unregister 1.0
    .venv/bin/python scripts/models.py roll second.mar --sample my-images/test --json
    .venv/bin/python scripts/models.py rollback

`roll` registers an archive, compares its version with the one that is served, and serves it instead where it is no
worse; no request is lost. `rollback` serves again what the last roll, or rollback, has replaced. Exit status: 0 done,
2 stopped before the end.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gateway.backend import BackendError
from gateway.torchserve.management import Management
from scripts import options
from scripts.options import Outcome, Stopped
from scripts.serving import served
from scripts.serving.rolling import Limits, Refused, in_store, register, roll, rollback
from scripts.serving.supervisor import ServeError
from training.files import DigestError

TIMEOUT = 120  # seconds, for workers to start


def versions(torchserve: Management) -> list[dict[str, Any]]:
    """Return for each version whether it is the default, its archive, workers and batching."""
    if not torchserve.models():
        return []
    default = torchserve.describe()[0]["modelVersion"]
    return [
        {
            "version": each["modelVersion"],
            "default": each["modelVersion"] == default,
            "archive": each["modelUrl"],
            "ready": sum(worker["status"] == "READY" for worker in each["workers"]),
            "workers": each["minWorkers"],
            "batch_size": each["batchSize"],
            "batch_delay": each["maxBatchDelay"],
        }
        for each in torchserve.describe("all")
    ]


def as_line(version: dict[str, Any]) -> str:
    return (
        f"{version['version']:8} {'default' if version['default'] else '':8} "
        f"{version['archive']}, {version['ready']} of {version['workers']} workers ready, "
        f"batches of {version['batch_size']} within {version['batch_delay']} ms"
    )


def make_parser() -> argparse.ArgumentParser:
    parser = options.new_parser(__doc__)
    options.add_product(parser)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, what: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        options.add_json(command, default=argparse.SUPPRESS)  # which may have stood before the command
        return command

    add("list", "show all versions")
    add("register", "load an archive").add_argument("archive", help="its file, which is in the model store")
    add("describe", "print all TorchServe knows").add_argument("version", nargs="?")
    scale = add("scale", "change the number of workers")
    scale.add_argument("workers", type=int)
    scale.add_argument("version", nargs="?", help="the default version without it")
    add("set-default", "serve a version where none is named").add_argument("version")
    add("unregister", "stop and forget a version").add_argument("version")
    rolling = add("roll", "serve an archive in the place of what is served, if it is no worse")
    rolling.add_argument("archive", help="its file, which is in the model store")
    rolling.add_argument("--sample", type=Path, help="folder of images in folders named as classes; compares accuracy")
    rolling.add_argument("--new-classes", action="store_true", help="other classes are wanted; compares no accuracy")
    rolling.add_argument(
        "--tolerance", type=float, default=Limits.tolerance, help="accuracy that may be lost, a share (%(default)s)"
    )
    rolling.add_argument(
        "--slower", type=float, default=Limits.slower, help="times the old median time an image may take (%(default)s)"
    )
    rolling.add_argument("--limit", type=float, default=Limits.seconds, help="seconds for any image (%(default)s)")
    add("rollback", "serve what the last roll replaced")
    return parser


def run(arguments: argparse.Namespace, torchserve: Management) -> Outcome:
    """Carry out one command."""
    match arguments.command:
        case "list":
            found = versions(torchserve)
            return Outcome(0, "\n".join(map(as_line, found)) or "No model is registered.", found)
        case "describe":
            description = torchserve.describe(arguments.version)
            return Outcome(0, json.dumps(description, indent=2), description)
        case _:
            said = change(arguments, torchserve)
            return Outcome(0, said, {"said": said, "versions": versions(torchserve)})


def change(arguments: argparse.Namespace, torchserve: Management) -> str:
    """Carry out a command that changes what is served, and note it; returns what happened."""
    match arguments.command:
        case "scale":
            return torchserve.scale(arguments.workers, arguments.version)
        case "roll":
            limits = Limits(arguments.tolerance, arguments.slower, arguments.limit, arguments.new_classes)
            archive = in_store(arguments.archive, arguments.run)
            return roll(torchserve, archive, arguments.run, arguments.sample, limits)
        case "rollback":
            return rollback(torchserve, arguments.run)
        case "register":
            said = register(torchserve, in_store(arguments.archive, arguments.run), arguments.run)
        case "set-default":
            said = torchserve.set_default(arguments.version)
        case _:
            said = torchserve.unregister(arguments.version)
    served.record(torchserve, arguments.run)
    return said


def models(arguments: argparse.Namespace) -> Outcome:
    """Carry out the command. Raises Stopped."""
    try:
        torchserve = Management(arguments.config, arguments.run / "key_file.json", timeout=TIMEOUT)
    except FileNotFoundError:
        raise Stopped(f"There is no file {arguments.config}; name TorchServe's with --config.") from None
    try:
        return run(arguments, torchserve)
    except Refused as error:
        raise Stopped(f"Nothing was changed: {error}") from None
    except (BackendError, DigestError, ServeError) as error:
        raise Stopped(str(error)) from None


def main() -> int:
    return options.execute(models, make_parser().parse_args())


if __name__ == "__main__":
    sys.exit(main())

"""The commands of `classifier models`: list, register, scale and roll the versions that TorchServe has."""

import json
from pathlib import Path
from typing import Any

from gateway.backend import NO_MODEL, BackendError, NoSuchVersion
from gateway.torchserve.management import Management
from scripts.serving import served
from scripts.serving.rolling import Limits, Refused, in_store, register, roll, rollback
from training.outcome import Outcome, Stopped

TIMEOUT = 120  # seconds, for workers to start


def versions(torchserve: Management) -> list[dict[str, Any]]:
    """Return for each version whether it is the default, its archive, workers and batching."""
    if not torchserve.models():
        return []
    default = torchserve.describe()[0]["modelVersion"]
    return [
        {
            "version": version["modelVersion"],
            "default": version["modelVersion"] == default,
            "archive": version["modelUrl"],
            "ready": sum(worker["status"] == "READY" for worker in version["workers"]),
            "workers": version["minWorkers"],
            "batch_size": version["batchSize"],
            "batch_delay": version["maxBatchDelay"],
        }
        for version in torchserve.describe("all")
    ]


def as_line(version: dict[str, Any]) -> str:
    return (
        f"{version['version']:8} {'default' if version['default'] else '':8} "
        f"{version['archive']}, {version['ready']} of {version['workers']} workers ready, "
        f"batches of {version['batch_size']} within {version['batch_delay']} ms"
    )


def manage(command: str, config: Path, run: Path, **given: Any) -> Outcome:
    """Carry out a command of 'classifier models' with its arguments. Raises Stopped."""
    try:
        torchserve = Management(config, run / "key_file.json", timeout=TIMEOUT)
    except FileNotFoundError:
        raise Stopped(f"There is no file {config}; name TorchServe's with --config.") from None
    try:
        match command:
            case "list":
                known = versions(torchserve)
                return Outcome(0, "\n".join(map(as_line, known)) or NO_MODEL, known)
            case "describe":
                description = torchserve.describe(given["version"])
                return Outcome(0, json.dumps(description, indent=2), description)
            case _:
                done = change(command, torchserve, run, **given)
                return Outcome(0, done, {"said": done, "versions": versions(torchserve)})
    except Refused as error:
        raise Stopped(f"Nothing was changed: {error}") from None
    except NoSuchVersion:
        raise Stopped(f"There is no version {given['version']}; name one of: {_names(versions(torchserve))}.") from None
    except BackendError as error:
        raise Stopped(str(error)) from None


def change(command: str, torchserve: Management, run: Path, **given: Any) -> str:
    """Carry out a command that changes the served versions, and note it; returns the result as a sentence."""
    match command:
        case "scale":
            return torchserve.scale(**given)
        case "roll":
            archive, sample = in_store(given.pop("archive"), run), given.pop("sample")
            return roll(torchserve, archive, run, sample, Limits(**given))
        case "rollback":
            return rollback(torchserve, run)
        case "register":
            done = register(torchserve, in_store(given["archive"], run), run)
        case "set-default":
            done = torchserve.set_default(given["version"])
        case _:
            _check_others(versions(torchserve), **given)
            done = torchserve.unregister(given["version"])
    served.record(torchserve, run)
    return done


def _check_others(known: list[dict[str, Any]], version: str, leave_none: bool) -> None:
    """Raise Refused if requests that name no version would fail without this one, unless you allow it."""
    if version not in (its["version"] for its in known if its["default"]):
        return
    if len(known) > 1:
        raise Refused(
            f"version {version} is the default version, which requests get that name none. First serve another one, "
            f"'classifier models set-default {next(other['version'] for other in known if not other['default'])}'."
        )
    if not leave_none:
        raise Refused(f"version {version} is the only one, and nothing would be served; --leave-none allows that.")


def _names(known: list[dict[str, Any]]) -> str:
    return ", ".join(f"{version['version']}{' (the default)' * version['default']}" for version in known)

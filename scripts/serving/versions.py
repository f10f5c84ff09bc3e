"""The commands of `classifier models`: list, register, scale and roll the served versions."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gateway.backend import NO_MODEL, BackendError, Deployed, NoSuchVersion
from gateway.torchserve.management import Management
from scripts.serving import served
from scripts.serving.defaults import EMBEDDED, KEY_FILE, LIVE_MINUTES
from scripts.serving.deployment import Deployment, Limits, Refused
from scripts.serving.embedded import EmbeddedDeployment
from scripts.serving.rolling import register, roll, rollback, stored
from scripts.serving.traffic import Live
from training import signals
from training.outcome import Outcome, Stopped

TIMEOUT = 120  # seconds, for workers to start


def as_line(version: Deployed) -> str:
    return (
        f"{version['version']:8} {'default' if version['default'] else '':8} "
        f"{version['archive']}, {version['ready']} of {version['workers']} workers ready"
    )


def manage(command: str, config: Path, run: Path, **given: Any) -> Outcome:
    """Carry out a command of 'classifier models' with its arguments. Raises Stopped."""
    try:
        deployment = _deployment(config, run)
        try:
            return _carry_out(command, deployment, run, **given)
        except NoSuchVersion as error:
            missing = f"There is no version {given['version']}" if given.get("version") else str(error).rstrip(".")
            raise Stopped(f"{missing}; name one of: {_names(deployment.versions())}.") from None
    except Refused as error:
        raise Stopped(f"Nothing was changed: {error}") from None
    except BackendError as error:
        raise Stopped(str(error)) from None


def _carry_out(command: str, deployment: Deployment, run: Path, **given: Any) -> Outcome:
    match command:
        case "list":
            known = deployment.versions()
            return Outcome(0, "\n".join(map(as_line, known)) or NO_MODEL, known)
        case "describe":
            description = deployment.describe(given["version"])
            return Outcome(0, json.dumps(description, indent=2), description)
        case _:
            done = change(command, deployment, run, **given)
            return Outcome(0, done, {"said": done, "versions": deployment.versions()})


def _deployment(config: Path, run: Path) -> Deployment:
    """Return the versions that are served in the folder `run`. Raises Stopped."""
    if served.backend(run) == EMBEDDED:
        return EmbeddedDeployment(run, TIMEOUT)
    try:
        return Management(config, run / KEY_FILE, TIMEOUT)
    except FileNotFoundError:
        raise Stopped(f"There is no file {config}; name TorchServe's with --config.") from None


def change(command: str, deployment: Deployment, run: Path, **given: Any) -> str:
    """Carry out a command that changes the served versions, and note it; returns the result as a sentence.

    A signal ends it as Ctrl-C does. Raises Refused while another such command is under way.
    """
    if command == "scale":
        return deployment.scale(**given)
    with signals.handling(signals.interrupt), _alone(run):
        return _change(command, deployment, run, **given)


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    try:
        with FileLock(run / "models.lock", timeout=0):
            yield
    except Timeout:
        raise Refused(
            "another command changes what is served now. Wait until it has ended, or end it with Ctrl-C where it runs."
        ) from None


def _change(command: str, deployment: Deployment, run: Path, **given: Any) -> str:
    match command:
        case "roll":
            named, sample = given.pop("archive"), given.pop("sample")
            live = _live(given.pop("shadow", None), given.pop("canary", None), given.pop("time", None))
            with stored(named, run, deployment) as archive:
                return roll(deployment, archive, run, sample, Limits(**given), live)
        case "rollback":
            return rollback(deployment, run)
        case "register":
            with stored(given["archive"], run, deployment) as archive:
                done = f"Version {register(deployment, archive, run)} of {archive} is registered."
        case "set-default":
            deployment.set_default(given["version"])
            done = f"Version {given['version']} is the default."
        case _:
            _check_others(deployment.versions(), **given)
            deployment.unregister(given["version"])
            done = f"Version {given['version']} is unregistered."
    try:
        served.record(deployment, run)
    except OSError as error:
        raise Stopped(
            f"{done} But {error.filename or run} cannot be written ({error.strerror}), so the next start serves what "
            "it did before. Make room, then run 'classifier models set-default' with the version that is the default."
        ) from None
    return done


def _live(shadow: float | None, canary: float | None, seconds: float | None) -> Live | None:
    """Return the roll on live traffic that was asked for. Raises Refused if both kinds were, or a time alone."""
    if shadow and canary:
        raise Refused("a new version is either a shadow or a canary; name one of --shadow and --canary.")
    share = canary or shadow
    if seconds and not share:
        raise Refused("--for says how long a new version meets live traffic; add --canary 10% or --shadow 10%.")
    return Live(bool(canary), share, seconds or 60 * LIVE_MINUTES) if share else None


def _check_others(known: list[Deployed], version: str, leave_none: bool) -> None:
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


def _names(known: list[Deployed]) -> str:
    return ", ".join(f"{version['version']}{' (the default)' * version['default']}" for version in known)

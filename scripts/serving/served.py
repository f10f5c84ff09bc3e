"""The served versions and the last roll, in one file of the run folder; a restart serves them again.

`named` is the archive that `classifier serve` was given, and `backend` is how. `versions` has every version that
`classifier models` has served since, the default first; it is empty if nothing changed. `last_roll` is the last roll.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from scripts.serving.archives import check_archive
from scripts.serving.defaults import RELEASED, SUFFIXES, TORCHSERVE
from scripts.serving.deployment import Deployment
from scripts.serving.supervisor import say
from training.archive import version_of
from training.files import digest_path, sha256, write_whole
from training.outcome import Stopped

FILE = "served.json"
STORE = "model_store"  # a link in the run folder to the folder of the archives
Version = dict[str, str]  # its `archive`, a file name of the store, its `version`, and the `digest` of the archive


def begin(archive: Path, run: Path, backend: str, model: Path | None = None) -> bool:
    """Note that `archive` is to be served by `backend`, and that it is packed from the checkpoint `model`, if it is.

    Keeps what was rolled in its place, also if a newer version of the project has packed the same checkpoint again, or
    brings another network as its default. Another archive, checkpoint or version is served itself; returns whether it
    is another than at an earlier start. Raises Stopped if the file of that start is damaged.
    """
    store = run / STORE
    store.unlink(missing_ok=True)
    store.symlink_to(archive.parent.resolve())
    content = _digest(archive) if model in (None, archive) else sha256(model)
    named = {"archive": str(archive.resolve()), "version": version_of(archive), "digest": content}
    with _changing(run) as state:
        state["backend"] = backend
        known = state["named"]
        if known and "version" not in known:  # an earlier version of the project wrote it
            known = named | {"archive": known["archive"]}
        same_place = known and known["archive"] == named["archive"]
        if known == named or (same_place and state["versions"] and _is_released(model or archive)):
            state["named"] = named
            for version in (*state["versions"], *(state["last_roll"] or {}).values()):
                if version["archive"] == archive.name:
                    version["digest"] = _digest(archive)
            return False
        if state["versions"]:
            say(f"{archive.name} is served, because you named it; before, {_called(state['versions'][0])} was.")
        state.update(named=named, versions=[], last_roll=None)
        return known is not None


def archives(run: Path) -> list[str]:
    """Return the file names of the archives to serve, the default first, and say if that is not the named one."""
    with _changing(run) as state:
        named = Path(state["named"]["archive"]).name
        intact = [version for version in state["versions"] if _is_whole(version, run, state["backend"])]
        if intact[:1] != state["versions"][:1]:
            say(f"{named} is served instead, because you named it.")
            intact = []
        state["versions"] = intact
    if intact and intact[0]["archive"] != named:
        new = (state["last_roll"] or {}).get("new", {})
        was_rolled = all(new.get(key) == intact[0][key] for key in ("archive", "version"))
        back = "; return with 'classifier models rollback'" if was_rolled else ""
        say(f"{_called(intact[0])} is served, because it has replaced {named}{back}.")
    return [version["archive"] for version in intact] or [named]


def record(deployment: Deployment, run: Path, last_roll: dict[str, Version] | None = None) -> None:
    """Note the versions that are deployed now, and a roll if there was one."""
    deployed = sorted(deployment.versions(), key=lambda version: not version["default"])
    with _changing(run) as state:
        known = {(version["archive"], version["version"]): version for version in state["versions"]}
        state["versions"] = [
            known.get((version["archive"], version["version"]))
            or {
                "archive": version["archive"],
                "version": version["version"],
                "digest": _digest(run / STORE / version["archive"]),
            }
            for version in deployed
        ]
        state["last_roll"] = last_roll or state["last_roll"]


def digest(run: Path, archive: str) -> str | None:
    """Return the digest of an archive of the store, or None if it is gone."""
    path = run / STORE / archive
    return _digest(path) if digest_path(path).is_file() else None


def backend(run: Path) -> str:
    """Return which of BACKENDS serves in `run`, now or the last time."""
    name: str = _read(run)["backend"]
    return name


def last_roll(run: Path) -> dict[str, Version] | None:
    """Return the `old` and the `new` version of the last roll, or rollback."""
    return _read(run)["last_roll"]


def _is_released(model: Path) -> bool:
    """Return whether a checkpoint or archive is the project's default, of which an upgrade may bring another one."""
    return model.resolve() in (RELEASED, *map(RELEASED.with_suffix, SUFFIXES.values()))


@contextmanager
def _changing(run: Path) -> Iterator[dict[str, Any]]:
    """Yield what the file holds, and write it if that was changed, while no other command does."""
    with FileLock(run / "served.lock"):
        state = _read(run)
        before = json.dumps(state)
        yield state
        if json.dumps(state) != before:
            write_whole(run / FILE, json.dumps(state, indent=2))


def _read(run: Path) -> dict[str, Any]:
    path = run / FILE
    nothing: dict[str, Any] = {"named": None, "backend": TORCHSERVE, "versions": [], "last_roll": None}
    if not path.exists():
        return nothing
    try:
        return nothing | json.loads(path.read_text())
    except ValueError:
        raise Stopped(f"{path} is damaged; remove it, and the archive that you name is served.") from None


def _is_whole(version: Version, run: Path, backend: str) -> bool:
    """Return whether the archive of a version is still the one that was served, and can be; says if not."""
    archive = run / STORE / version["archive"]
    try:
        check_archive(archive, backend)
        if _digest(archive) != version["digest"]:
            raise Stopped(f"{version['archive']} was built again since; roll it.")
    except Stopped as error:
        say(f"{_called(version)} is not served again. {error}")
        return False
    return True


def _called(version: Version) -> str:
    return f"Version {version['version']} of {version['archive']}"


def _digest(archive: Path) -> str:
    return digest_path(archive).read_text().split()[0]

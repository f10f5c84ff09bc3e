"""What deploy/Dockerfile makes of this tree, as far as that can be had without a container engine.

`read` tells of one of its images, and `container` runs it: on a read-only root that holds this machine's /usr and,
beside it, only what the Dockerfile copies and the lock file names; as a user without rights, on a network of its own.
"""

import io
import json
import re
import shlex
import shutil
import string
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import files
from pathlib import Path, PurePosixPath

from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from tests.stack import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
WORK = PurePosixPath("/")  # the working directory where none is named
SET_UP = Path(__file__).with_name("container.sh")


@dataclass
class Image:
    """One target: what is copied, from where to where; its user, working directory, environment, ports and commands.

    `modes` are the permissions that what is copied gets; what has none there keeps those it has here. `packages` is the
    stage its packages come from; `runs` are the shell commands of the target itself.
    """

    copied: dict[str, PurePosixPath] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    folder: PurePosixPath = WORK
    packages: str = ""
    user: str = "0"


def read(target: str) -> Image:
    """Return what is known of a target, and of those it begins with."""
    image, arguments, stages = Image(), {"PATH": "/usr/local/bin:/usr/bin:/bin"}, _stages()
    for instruction, written in _from_the_first(target, stages):
        value = string.Template(written).safe_substitute(arguments | image.environment)
        if instruction in ("ARG", "ENV"):
            given = dict(each.split("=", 1) for each in shlex.split(value))
            arguments |= given
            image.environment |= given if instruction == "ENV" else {}
        elif instruction == "WORKDIR":
            image.folder = PurePosixPath(value)
        elif instruction == "COPY" and (stage := re.match(r"--from=(\S+) ", value)):
            image.packages = stage[1]
        elif instruction == "COPY":
            mode = re.match(r"--chmod=(\d+) ", value)
            *sources, destination = value.removeprefix(mode[0] if mode else "").split()
            image.modes |= {source: int(mode[1], 8) for source in sources if mode}
            alone = len(sources) == 1 and not destination.endswith("/")
            place = image.folder / destination
            image.copied |= {source: place if alone else place / PurePosixPath(source).name for source in sources}
        elif instruction == "RUN":
            image.runs.append(written)
        elif instruction == "EXPOSE":
            image.ports = list(map(int, value.split()))
        elif instruction == "USER":
            image.user = value
        elif instruction == "CMD":
            image.command = json.loads(written)
        elif instruction == "HEALTHCHECK":
            image.healthcheck = json.loads(written.split("CMD", 1)[1])
    return image


def _stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return the stages by name, each with the one it begins with and its instructions."""
    stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for each in DockerfileParser(fileobj=io.BytesIO(DOCKERFILE.read_bytes())).structure:
        if each["instruction"] == "FROM":
            base, _, name = each["value"].split()
            stages[name] = base, []
        elif stages and each["instruction"] != "COMMENT":
            stages[name][1].append((each["instruction"], each["value"]))
    return stages


def _from_the_first(target: str, stages: dict[str, tuple[str, list[tuple[str, str]]]]) -> list[tuple[str, str]]:
    if target not in stages:
        return []  # what is pulled, not built
    base, instructions = stages[target]
    return _from_the_first(base, stages) + instructions


def locked(lock: Path) -> dict[str, str]:
    """Return the lines of each package of a lock file by its name, for those that are for this machine."""
    entries = re.findall(r"^[^\s#](?:.*\\\n)*.*$", lock.read_text(), re.MULTILINE)
    asked = {entry: Requirement(entry.split("\\")[0]) for entry in entries}
    return {each.name: entry for entry, each in asked.items() if not each.marker or each.marker.evaluate()}


@dataclass
class Container:
    """A running image: its process, and all it has printed."""

    image: Image
    process: subprocess.Popen[str]
    log: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as `docker exec` would."""
        enter = ["nsenter", f"--target={self.process.pid}", "--user", "--mount", "--net", "--root"]
        enter += [
            "--preserve-credentials",
            "env",
            "-i",
            f"--chdir={self.image.folder}",
            *_assignments(self.image.environment),
        ]
        return subprocess.run([*enter, *command], capture_output=True, text=True)


def copy(image: Image, root: Path) -> None:
    """Copy into a folder what the Dockerfile copies, with the permissions that it gives."""
    for source, destination in image.copied.items():
        place = root / destination.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place)
        if source in image.modes:
            for each in (place, *place.rglob("*")):
                each.chmod(image.modes[source])


@contextmanager
def container(image: Image, lock: Path, folder: Path) -> Iterator[Container]:
    """Run an image's command until the block ends, with its files and root below an empty folder."""
    copy(image, folder / "image")
    _install(lock, folder / "image" / "venv")
    log, root = folder / "log", folder / "root"
    root.mkdir()
    namespaces = ["unshare", "--user", "--map-root-user", "--mount", "--net"]
    command = [*namespaces, "sh", str(SET_UP), str(root), str(folder / "image"), image.user, str(image.folder)]
    command += [sys.base_prefix, sys.prefix, "--", "env", "-i", *_assignments(image.environment)]
    with log.open("w") as printed:
        process = subprocess.Popen([*command, *image.command], stdout=printed, stderr=subprocess.STDOUT, text=True)
    try:
        yield Container(image, process, log)
    finally:
        process.kill()
        process.wait()


def _assignments(environment: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


def _install(lock: Path, folder: Path) -> None:
    """Make an environment of what a lock file names, by links to what is installed here."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/*/site-packages")
    installed = {file.parts[0] for name in locked(lock) for file in files(name) or []}
    for top in installed - {"..", "__pycache__"}:
        (packages / top).symlink_to(Path(sysconfig.get_path("purelib")) / top)

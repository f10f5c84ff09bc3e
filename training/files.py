"""Files that are written completely or not at all, and digests that show later changes. Imports no torch."""

import errno
import glob
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.outcome import Stopped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # from file systems without fsync


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a file to write beside `path`; it replaces `path` in one step when it is complete and on disk.

    This removes the files of killed writers, so that they do not pile up. If such a writer still lives, it fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        os.close(handle)
        yield temporary
        with temporary.open("rb") as written:
            _sync(written.fileno())
        with suppress(OSError):  # network drives and memory cards may have no permissions
            temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path) if error.filename in (None, name) else error.filename
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync(descriptor: int) -> None:
    """Wait until a file is on disk, if its file system can do that. Raises OSError if the disk is full or broken."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def check_writable(folder: Path) -> None:
    """Raise Stopped if no file can be written into a folder, before work that takes long."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Stopped(f"{folder} cannot be written ({error.strerror}); name another folder with --output.") from None


def write_whole(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_figure(figure: "Figure", path: Path, **options: Any) -> None:
    """Save a figure as PNG, completely or not at all; `options` are those of savefig."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", **options)


class DigestError(Stopped, ValueError):
    """An archive has changed since it was built; the message says what to do."""


def digest_path(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.sha256")


def write_digest(archive: Path, content: Path) -> None:
    """Write the digest of `content` beside `archive`, as sha256sum does. `content` is the archive, or becomes it."""
    write_whole(digest_path(archive), f"{sha256(content)}  {archive.name}\n")


def check_digest(archive: Path) -> None:
    """Raise DigestError if an archive or its digest is missing, or if they do not match."""
    again = f"build it with 'classifier archive CHECKPOINT --output {archive}'."
    if not archive.is_file():
        raise DigestError(f"There is no archive {archive}; {again}")
    if not digest_path(archive).is_file():
        raise DigestError(f"There is no {digest_path(archive)} to check {archive.name} with; {again}")
    if digest_path(archive).read_text().split()[:1] != [sha256(archive)]:
        raise DigestError(f"{archive} is not the archive that {digest_path(archive).name} was written for; {again}")


def sha256(path: Path) -> str:
    """Return the digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

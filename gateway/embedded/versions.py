"""The versions that all processes of the gateway serve, in one file, and the word that it has changed.

`classifier models` writes the file, and then knocks at the socket of every process. A process answers when it serves
what the file says, so that nobody is sent to a version that a process does not have yet.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import TypedDict

from gateway.backend import BackendError, TooSlow, Unavailable

FILE = "versions.json"
MAX_TRIES, SECONDS_TO_START = 5, 1
SOCKET = ".socket"  # how the names of the sockets end; a process has its number before it


class Unpacked(TypedDict):
    """A version, the name of its archive, and the folder beside the file in which that is unpacked."""

    version: str
    archive: str
    folder: str


def read(folder: Path) -> list[Unpacked]:
    """Return the versions, the default first."""
    versions: list[Unpacked] = json.loads((folder / FILE).read_text())
    return versions


def open_socket(folder: Path) -> socket.socket:
    """Return a socket at which this process is found from now on. Whoever knocks waits until it answers."""
    path = folder / f"{os.getpid()}{SOCKET}"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def answer(listener: socket.socket, follow: Callable[[], None]) -> None:
    """From now on call `follow` for everyone who knocks, and tell them how it went."""
    Thread(target=_answer, args=(listener, follow), daemon=True).start()


def _answer(listener: socket.socket, follow: Callable[[], None]) -> None:
    while True:
        connection, _ = listener.accept()
        failure = ""
        try:
            follow()
        except Exception as error:  # of the archive's own code, and whoever knocked is told
            failure = f"{type(error).__name__}: {error}"
        with closing(connection), suppress(OSError):  # they may be gone
            connection.sendall(json.dumps(failure).encode())


def knock(folder: Path, seconds: float) -> int:
    """Have every process follow the file; returns how many there are.

    Raises BackendError with the reason of a process that cannot, TooSlow after `seconds`, and Unavailable if there is
    no process, or if processes die again and again. One that died follows the file when it is started again.
    """
    for _ in range(MAX_TRIES):
        failures = [_reply(connection) for connection in list(_connections(folder, seconds))]
        if not failures:
            raise Unavailable("The gateway does not run; start it with 'classifier serve --backend embedded'.")
        if None not in failures:
            break
        time.sleep(SECONDS_TO_START)
    else:
        raise Unavailable("The processes of the gateway keep dying; gateway.log says why.")
    for failure in filter(None, failures):
        raise BackendError(failure)
    return len(failures)


def _connections(folder: Path, seconds: float) -> Iterator[socket.socket]:
    for path in folder.glob(f"*{SOCKET}"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(seconds)
        try:
            connection.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):  # that process has ended
            connection.close()
            path.unlink(missing_ok=True)
        else:
            yield connection


def _reply(connection: socket.socket) -> str | None:
    """Return why a process cannot follow, or an empty string if it does; None if it has died."""
    with closing(connection), connection.makefile("rb") as file:
        try:
            said = file.read()
        except TimeoutError:
            raise TooSlow from None
        except ConnectionResetError:
            return None
    return json.loads(said) if said else None

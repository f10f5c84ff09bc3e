"""How `classifier models` reaches the processes of the gateway: each has a socket beside the file of versions.

A process is asked to follow the file, and answers when it serves what the file says, so that nobody is sent to a
version that a process does not have yet. Or it is asked to predict an image, for a comparison that counts as nobody's
request. A question is a line of JSON, with the image behind it; an answer is a line of JSON.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from gateway.backend import BackendError, ImageRefused, NoSuchVersion, Prediction, TooSlow, Unavailable, WorkerDied

SOCKET = ".socket"  # how the names of the sockets end; a process has its number before it
MAX_TRIES, SECONDS_TO_START = 5, 1
QUESTION_SECONDS = 10  # until a question has arrived
Asked = Callable[[bytes | None, str | None], Any]  # with an image and a version, or else to follow the file
logger = logging.getLogger(__name__)


def open_socket(folder: Path) -> socket.socket:
    """Return a socket at which this process is found from now on. Who asks waits until it answers."""
    path = folder / f"{os.getpid()}{SOCKET}"
    listener = socket.socket(socket.AF_UNIX)
    with suppress(FileNotFoundError):
        path.with_suffix(".new").unlink()
    listener.bind(str(path.with_suffix(".new")))
    listener.listen()
    path.with_suffix(".new").replace(path)  # not found before it listens, or else it would be taken for a dead one
    return listener


def answer(listener: socket.socket, asked: Asked) -> None:
    """Answer each question from now on: `asked` returns the answer, or raises."""
    Thread(target=_answer, args=(listener, asked), daemon=True).start()


def _answer(listener: socket.socket, asked: Asked) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # too many files are open just now
            time.sleep(SECONDS_TO_START)
            continue
        with closing(connection), suppress(OSError, ValueError, LookupError):  # who asked may be gone, or ask nothing
            connection.settimeout(QUESTION_SECONDS)
            with connection.makefile("rb") as file:
                question = json.loads(file.readline())
                image = None if question["bytes"] is None else file.read(question["bytes"])
            connection.sendall(json.dumps(_reply(asked, image, question["version"])).encode())


def _reply(asked: Asked, image: bytes | None, version: str | None) -> dict[str, Any]:
    try:
        return {"answer": asked(image, version)}
    except BackendError as error:
        return {"failure": type(error).__name__, "message": str(error), "status": getattr(error, "status", None)}
    except (Exception, SystemExit) as error:  # of an archive's own code
        logger.warning("A version of the model has failed.", exc_info=True)
        return {"failure": "", "message": f"{type(error).__name__}: {error}"}


def knock(folder: Path, seconds: float) -> int:
    """Have every process follow the file; returns how many there are.

    Raises BackendError with the reason of a process that cannot, TooSlow after `seconds`, and Unavailable if there is
    no process, or if processes die again and again. One that died follows the file when it is started again.
    """
    for _ in range(MAX_TRIES):
        connections = list(_connections(folder, seconds))
        try:
            for connection in connections:
                _ask(connection, None, None)
        except WorkerDied:
            time.sleep(SECONDS_TO_START)
            continue
        finally:
            for connection in connections:
                connection.close()
        if not connections:
            raise Unavailable("The gateway does not run; start it with 'classifier serve --backend embedded'.")
        return len(connections)
    raise Unavailable("The processes of the gateway keep dying; gateway.log says why.")


def predict(folder: Path, seconds: float, image: bytes, version: str | None) -> Prediction:
    """Have one process predict an image. Raises BackendError as the process does, and WorkerDied if it dies."""
    for connection in _connections(folder, seconds):
        with closing(connection):
            prediction: Prediction = _ask(connection, image, version)
            return prediction
    raise Unavailable("The gateway does not run.")


def _connections(folder: Path, seconds: float) -> Iterator[socket.socket]:
    for path in sorted(folder.glob(f"*{SOCKET}")):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(seconds)
        try:
            connection.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):  # that process has ended
            connection.close()
            path.unlink(missing_ok=True)
        else:
            yield connection


def _ask(connection: socket.socket, image: bytes | None, version: str | None) -> Any:
    """Return the answer of a process. Raises the BackendError that it tells, TooSlow, or WorkerDied."""
    question = {"bytes": None if image is None else len(image), "version": version}
    try:
        connection.sendall(json.dumps(question).encode() + b"\n" + (image or b""))
        with connection.makefile("rb") as file:
            said = file.read()
    except TimeoutError:
        raise TooSlow from None
    except OSError:
        said = b""
    if not said:
        raise WorkerDied("A process of the gateway has died.")
    reply = json.loads(said)
    if "failure" not in reply:
        return reply["answer"]
    match reply["failure"]:
        case "ImageRefused":
            raise ImageRefused(reply["message"], reply["status"])
        case "NoSuchVersion":
            raise NoSuchVersion(reply["message"])
        case _:
            raise BackendError(reply["message"])

"""The tokens without which TorchServe does not answer: its own short-lived keys, or the token that its nodes share."""

import json
import time
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from gateway.backend import BackendError, Unavailable
from gateway.torchserve.client import Headers
from gateway.torchserve.nodes import Nodes

POLL_INTERVAL = 0.005  # seconds
KEY_FILE_SECONDS = 0.5  # seconds; TorchServe does not replace the file in one step


def bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


class Tokens(Protocol):
    def read(self, kind: str) -> str:
        """Return the token for `inference` or `management`."""

    def renew(self, kind: str, expired: str) -> str:
        """Return a token other than `expired`."""


class TokenFile:
    """One token for everything, in a file. It is read for every request, so that a new token is followed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, kind: str) -> str:
        try:
            token = self._path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BackendError(f"The token of the nodes cannot be read: {error}.") from None
        if not (token.isascii() and token.isprintable()):
            raise BackendError("The token of the nodes has to be one line of ASCII characters.")
        return token

    def renew(self, kind: str, expired: str) -> str:
        return self.read(kind)


class Keys:
    """TorchServe's short-lived keys, which it writes into `key_file` and nowhere else."""

    def __init__(self, key_file: Path, management: Nodes) -> None:
        self._key_file, self._management = key_file, management

    def read(self, kind: str) -> str:
        """Return the current key for `inference`, `management` or `API`."""
        until = time.monotonic() + KEY_FILE_SECONDS
        while True:
            try:
                return json.loads(self._key_file.read_text())[kind]["key"]
            except (ValueError, KeyError, TypeError):  # half-written: another process is renewing
                if time.monotonic() > until:
                    raise Unavailable("TorchServe's keys cannot be read.") from None
            except OSError:
                raise Unavailable("TorchServe is not running, or is just starting.") from None
            time.sleep(POLL_INTERVAL)

    def renew(self, kind: str, expired: str) -> str:
        """Return a key other than `expired`. Renewing kills the old key, so of several processes one does it."""
        # Polls, because a blocking lock would stop all greenlets of the process, also the one that holds it.
        with FileLock(self._key_file.with_suffix(".lock"), poll_interval=POLL_INTERVAL):
            if self.read(kind) == expired:
                self._management.send("GET", f"/token?type={kind}", None, bearer(self.read("API")))
            return self.read(kind)

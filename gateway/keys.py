"""Who may ask: the clients in a file of keys, and how often each of them may.

A line of the file holds the client's name, the SHA-256 of its key in hexadecimal, and a rate if the client has one, in
requests a second. A client with two lines has two keys. Lines that begin with # are comments.
"""

import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_UN, flock
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flask import Flask, Response, g, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import TooManyRequests, Unauthorized

from gateway import metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
LINE = re.compile(
    rf"\s*(?P<name>{NAME.pattern})\s+(?P<digest>[0-9a-fA-F]{{64}})(\s+(?P<rate>\d{{0,9}}\.?\d{{1,9}}))?\s*", re.ASCII
)
# What says nothing of the model: the page and the documentation, and what balancers ask.
OPEN = {
    "_add_slash",
    "contract.asset",
    "contract.live",
    "contract.page",
    "contract.ready",
    "flasgger.apidocs",
    "flasgger.openapi",
    "flasgger.static",
    "open_inference.server_live",
    "open_inference.server_ready",
}
METRICS = "contract.measured"
NEEDED = "Send your API key: 'Authorization: Bearer <key>' or 'X-API-Key: <key>'."
WRONG = "The API key is wrong, or no longer valid. Ask for a new one."
WHO = WWWAuthenticate("bearer", {"realm": "classifier"})

logger = logging.getLogger(__name__)


class BadKeys(ValueError):
    """A file of keys that cannot be used."""


class Client(NamedTuple):
    """A client: its name, the SHA-256 of one of its keys, and its requests a second at most (None: any number)."""

    name: str
    digest: bytes
    rate: float | None


class Keys:
    """The clients of a file, which is read again when it changes. Raises BadKeys if it cannot be used at the start."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._state = _state(file)
        self._clients = read_clients(file)

    def client(self, key: str) -> Client | None:
        """Return the client with this key. It takes as long for a wrong key as for a right one."""
        self._follow()
        digest = hashlib.sha256(key.encode("latin-1")).digest()
        found = None
        for client in self._clients:
            if hmac.compare_digest(client.digest, digest):
                found = client
        return found

    def _follow(self) -> None:
        """Read the file if it has changed. If it cannot be used, those stay who were there, and the log says why."""
        state = _state(self._file)
        if state == self._state:
            return
        self._state = state
        try:
            self._clients = read_clients(self._file)
        except BadKeys as error:
            logger.error("The keys have not changed: %s", error)


class Rates:
    """Keeps each client to its rate, over all processes: a file in `folder` says when its next request is due.

    A second's worth of requests may come at once.
    """

    def __init__(self, folder: Path) -> None:
        self._open = cache(lambda name: os.open(folder / f"{name}.rate", os.O_RDWR | os.O_CREAT, 0o600))

    def seconds_to_wait(self, client: Client) -> float:
        """Count a request, and return 0; or how long its client has to wait before the next one."""
        if not client.rate:
            return 0
        try:
            return self._seconds_to_wait(client.name, 1 / client.rate)
        except OSError as error:  # no reason to refuse a client
            logger.error("The requests of %s cannot be counted, so they have no limit: %s", client.name, error)
            return 0

    def _seconds_to_wait(self, name: str, interval: float) -> float:
        with _locked(self._open(name)) as file:
            now = time.monotonic()
            due = max(now, *struct.unpack("d", os.pread(file, 8, 0) or bytes(8)))
            due = min(due, now + max(1, interval))  # later ones are of a machine's earlier life
            early = due - now - max(0, 1 - interval)
            if early > 0:
                return early
            os.pwrite(file, struct.pack("d", due + interval), 0)
            return 0


def register(app: Flask, shared: Path) -> None:
    """Ask for a key before anything else, the reading of the body included. All processes have a folder in common."""
    keys = app.extensions["keys"] = Keys(Path(app.config["API_KEYS_FILE"]))
    rates = Rates(shared)
    unasked = OPEN | {METRICS} if app.config["OPEN_METRICS"] else OPEN

    @app.before_request
    def admit() -> None:
        if request.endpoint in unasked or request.method == "OPTIONS":  # which browsers send without a key
            return
        key = sent_key(request.environ)
        client = keys.client(key)
        if not client:
            raise Unauthorized(WRONG if key else NEEDED, www_authenticate=WHO)
        g.access.client = client.name
        if request.method == "POST" and (seconds := rates.seconds_to_wait(client)):  # all that costs
            words = f"Your key allows {client.rate:g} requests a second. Try again after the time in Retry-After."
            raise TooManyRequests(words, retry_after=math.ceil(seconds))

    @app.after_request
    def count(response: Response) -> Response:
        if g.access.client:
            metrics.count_client(g.access.client, response.status_code)
        return response


def sent_key(environ: "WSGIEnvironment") -> str:
    """Return the key in the headers of a request, or nothing. Of two headers X-API-Key counts."""
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return environ.get("HTTP_X_API_KEY") or bearer


def read_clients(file: Path) -> list[Client]:
    """Read a file of keys. Raises BadKeys with a sentence."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeError) as error:
        raise BadKeys(f"The API keys in {file} cannot be read ({error}). 'classifier key' makes such a file.") from None
    return [
        _client(line, f"{file}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]


def add_client(file: Path, name: str, rate: float | None = None) -> str:
    """Add a client with a new key to a file, which only its owner may read; returns the key, which is kept nowhere.

    A client that the file has keeps its rate unless you give another.
    """
    if not NAME.fullmatch(name):
        raise BadKeys(f"{name!r} cannot name a client. Use up to 64 letters, digits, '.', '_' and '-'.")
    for client in reversed(read_clients(file)) if file.exists() else ():
        if client.name == name:
            rate = rate or client.rate
    key = secrets.token_urlsafe(32)
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()}" + (f" {rate:.6f}" if rate else "")
    before = file.read_text(encoding="ascii") if file.exists() else ""
    with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="ascii") as keys:
        keys.write(f"\n{line}\n" if before and not before.endswith("\n") else f"{line}\n")
    return key


def _client(line: str, place: str) -> Client:
    read = LINE.fullmatch(line)
    if not read or (read["rate"] and not float(read["rate"])):
        raise BadKeys(
            f"{place} must hold a name of letters, digits, '.', '_' or '-', the SHA-256 of a key (64 hexadecimal "
            "digits) and, for a client with a rate, its requests a second. 'classifier key' writes such a line."
        )
    return Client(read["name"], bytes.fromhex(read["digest"]), float(read["rate"]) if read["rate"] else None)


def _state(file: Path) -> tuple[int, ...]:
    """Return something that changes when a file does."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextmanager
def _locked(file: int) -> Iterator[int]:
    flock(file, LOCK_EX)  # for microseconds
    try:
        yield file
    finally:
        flock(file, LOCK_UN)

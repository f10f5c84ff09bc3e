"""HTTP/1.1 to a server: connections that are kept, and answers that llhttp reads, in a quarter of urllib3's time."""

import json
import socket
import ssl
import time
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.limits import PIECE_BYTES, TIMEOUT

KEPT = 64  # connections; more may be open
MAX_SILENCE_SECONDS = 3  # without a confirmation from the other machine, which then counts as gone
MAX_COPIED_BYTES = 256 * 1024  # of a body; a smaller one leaves with its head, so that the server wakes up once
Headers = dict[str, str]

# A machine that loses its power closes nothing; the kernel asks every second whether it is there.
OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, MAX_SILENCE_SECONDS * 1000),
)


class Answer(NamedTuple):
    status: int
    body: bytes

    def json(self) -> Any:
        """Read the body. Raises ValueError if it is not JSON."""
        return json.loads(self.body)


class Ended(Exception):
    """The connection ended before the answer did, or brought something else than HTTP."""


class Slow(Exception):
    """The request could not be sent in time, or its answer did not come in time."""


class Client:
    """A server, by its base URL. Its answers say their length, or come in chunks. Raises ValueError for another URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
            raise ValueError(f"{url!r} is no URL of a server, such as http://127.0.0.1:8080.")
        self._address = parts.hostname, parts.port or (443 if secure else 80)
        self._host = parts.netloc.rpartition("@")[2]
        self._context = ssl.create_default_context() if secure else None
        self._kept: list[_Connection] = []

    def send(
        self, method: str, path: str, body: bytes | None, headers: Headers, connect: float, answer: float
    ) -> Answer:
        """Send a request. It has `connect` seconds to connect, TIMEOUT to be sent, and `answer` to be answered.

        Raises OSError if it cannot connect, Slow or Ended if a connection is slow or ends. Raises ValueError for a path
        or header with other characters than those of printable ASCII.
        """
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if method != "GET":
            lines.append(f"Content-Length: {len(body or b'')}")
        written = "".join(lines)
        if not written.isascii() or not written.isprintable() or " " in path:
            raise ValueError("A header of a request to TorchServe holds characters that may not be there.")
        head = "\r\n".join([*lines, "", ""]).encode()
        small = body is None or len(body) <= MAX_COPIED_BYTES
        connection = self._connection(connect)
        try:
            reply = connection.exchange([head + (body or b"")] if small else [head, body or b""], answer)
        except BaseException:  # among them the time limit of a greenlet
            connection.close()
            raise
        if connection.stays and len(self._kept) < KEPT:
            self._kept.append(connection)
        else:
            connection.close()
        return reply

    def _connection(self, timeout: float) -> "_Connection":
        """Return a kept connection that has not ended meanwhile, or a new one."""
        with suppress(IndexError):
            while True:
                kept = self._kept.pop()
                if kept.is_open():
                    return kept
                kept.close()
        plain = socket.create_connection(self._address, timeout)
        try:
            for option in OPTIONS:
                plain.setsockopt(*option)
            return _Connection(
                self._context.wrap_socket(plain, server_hostname=self._address[0]) if self._context else plain
            )
        except BaseException:
            plain.close()
            raise


class _Connection:
    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._parser = HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._complete = self.stays = False  # the answer; the connection behind it

    def close(self) -> None:
        self._socket.close()

    def is_open(self) -> bool:
        """Return whether nothing has come since the last answer, not even the end."""
        self._socket.settimeout(0)
        try:
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def exchange(self, request: list[bytes], timeout: float) -> Answer:
        self._pieces, self._complete = [], False
        try:
            self._socket.settimeout(TIMEOUT)  # not that of connecting: a slow line takes seconds for a large image
            with suppress(BrokenPipeError, ConnectionResetError):  # who takes no more of it may have answered already
                for piece in request:
                    self._socket.sendall(piece)
            until = time.monotonic() + timeout
            while not self._complete:
                self._socket.settimeout(max(until - time.monotonic(), 0.001))
                received = self._socket.recv(PIECE_BYTES)
                if not received:
                    raise Ended("The server has ended the connection.")
                self._parser.feed_data(received)
        except TimeoutError as error:
            raise (Slow if error.errno is None else Ended)(error) from None  # the kernel's own have a number
        except (HttpParserError, HttpParserUpgrade) as error:
            self.stays = False  # behind a complete answer there is something else
            if not self._complete:
                raise Ended(error) from None
        except OSError as error:
            raise Ended(error) from None
        return Answer(self._parser.get_status_code(), b"".join(self._pieces))

    def on_message_begin(self) -> None:
        if self._complete:
            raise Ended("The server has sent more than an answer.")

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self._complete = self._parser.get_status_code() >= 200  # others announce an answer
        self.stays = self._parser.should_keep_alive()  # which it knows only here

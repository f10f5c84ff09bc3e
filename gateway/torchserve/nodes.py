"""Round-robin over nodes that answer alike. A node that just failed is tried last; the next one stands in for it."""

import errno
import logging
import socket
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from urllib3 import BaseHTTPResponse, Timeout, connection_from_url
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from gateway.backend import BackendError, TooSlow, Unavailable
from gateway.limits import TIMEOUT

CONNECT_TIMEOUT = 2.0  # seconds
MAX_SILENCE_SECONDS = 3  # without a confirmation from the other machine, which then counts as gone
POOL_SIZE = 64  # connections kept to each node, not a limit
MAX_PIECE_BYTES = 256 * 1024  # of a request; larger ones are not copied to send them in one piece
REST_SECONDS = 5.0  # in which a node that failed is tried last
UNAVAILABLE_STATUSES = (502, 503, 504)  # a node is not there behind its proxy, is busy or slow; another may answer
Headers = dict[str, str]
LOG = logging.getLogger(__name__)

# A machine that loses its power closes nothing; the kernel asks every second whether it is there.
SOCKET_OPTIONS = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, MAX_SILENCE_SECONDS * 1000),
]


Send = Callable[[str, str, bytes | None, Headers], BaseHTTPResponse]
Check = Callable[[Send], None]


class Nodes:
    """Servers that answer alike, by their base URLs. `timeout`, in seconds, is that of an answer.

    `check` gets a function that sends a request to a node that was away; it raises BackendError if that does not work
    yet.
    """

    def __init__(self, addresses: list[str], timeout: float, check: Check = lambda send: None) -> None:
        self._nodes = [_Node(address, timeout, check) for address in addresses]
        self._turns = count()

    def send(self, method: str, path: str, body: bytes | None, headers: Headers) -> BaseHTTPResponse:
        """Try one after the other; returns the first answer without one of UNAVAILABLE_STATUSES, or else the last.

        Raises TooSlow as soon as one takes too long, and Unavailable if the last one cannot be reached.
        """
        *others, last = self._in_turn()
        for node in others:
            try:
                answer = node.send(method, path, body, headers)
            except Unavailable:
                continue
            if answer.status not in UNAVAILABLE_STATUSES:
                return answer
        return last.send(method, path, body, headers)

    def _in_turn(self) -> list["_Node"]:
        first = next(self._turns) % len(self._nodes)
        now = time.monotonic()
        return sorted(self._nodes[first:] + self._nodes[:first], key=lambda node: node.rests_until > now)


class _Connection(HTTPConnection):
    """Sends a request in one piece if it is small: half the calls of the kernel, and the server wakes up once."""

    _pieces: list[bytes] | None = None  # of the request that is being put together

    def request(self, *arguments: Any, **options: Any) -> None:
        pieces: list[Any] = []
        self._pieces = pieces
        try:
            super().request(*arguments, **options)
        finally:
            self._pieces = None
        if sum(len(piece) for piece in pieces) <= MAX_PIECE_BYTES:
            pieces = [b"".join(pieces)]
        if self.sock is None:
            self.connect()
        self.sock.settimeout(TIMEOUT)  # not that of connecting: a slow line takes seconds for a large image
        for piece in pieces:
            self.send(piece)

    def send(self, data: Any) -> None:
        if self._pieces is None:
            super().send(data)
        else:
            self._pieces.append(data)


class _Node:
    """One server: its connections, and until when it is tried last (as monotonic has it; 0 if it works)."""

    def __init__(self, address: str, timeout: float, check: Check) -> None:
        limits = Timeout(connect=CONNECT_TIMEOUT, read=timeout)
        self._pool = connection_from_url(address, timeout=limits, maxsize=POOL_SIZE, socket_options=SOCKET_OPTIONS)
        if self._pool.scheme == "http":
            self._pool.ConnectionCls = _Connection
        self._address, self._check = address, check
        self.rests_until = time.monotonic()

    def send(self, method: str, path: str, body: bytes | None, headers: Headers) -> BaseHTTPResponse:
        try:
            if self.rests_until:
                self._rest()  # for the others, while this request finds out whether it works again
                self._check_it_works()
            answer = self._send_once_more(method, path, body, headers)
        except (HTTPError, Unavailable) as error:
            self._rest()
            if isinstance(error, ReadTimeoutError) or _was_sent_slowly(error):
                raise TooSlow from None
            raise Unavailable("TorchServe cannot be reached.") from None
        if answer.status in UNAVAILABLE_STATUSES:
            self._rest()
        else:
            self.rests_until = 0.0
        return answer

    def _rest(self) -> None:
        self.rests_until = time.monotonic() + REST_SECONDS

    def _send_once_more(self, method: str, path: str, body: bytes | None, headers: Headers) -> BaseHTTPResponse:
        def request() -> BaseHTTPResponse:
            return self._pool.urlopen(method, path, body=body, headers=headers, retries=False)

        try:
            return request()
        except HTTPError as error:
            if not _has_ended(error):
                raise
            self._check_it_works()
            return request()  # the connection had been kept, and ended just now: a fresh one decides

    def _check_it_works(self) -> None:
        """Raise Unavailable if it does not, or does not answer within CONNECT_TIMEOUT."""

        def send(method: str, path: str, body: bytes | None, headers: Headers) -> BaseHTTPResponse:
            return self._pool.urlopen(method, path, body, headers, retries=False, timeout=CONNECT_TIMEOUT)

        try:
            self._check(send)
        except (HTTPError, BackendError) as error:
            LOG.warning("The node %s gets no requests now: %s", self._address, error)
            raise Unavailable("TorchServe cannot be reached.") from None


def _has_ended(error: HTTPError) -> bool:
    """Say whether it is the connection that ended, not the time for a request or an answer."""
    if isinstance(error, ProtocolError):
        return not _was_sent_slowly(error)
    return getattr(error.__cause__, "errno", None) == errno.ETIMEDOUT


def _was_sent_slowly(error: Exception) -> bool:
    reason = error.args[-1] if isinstance(error, ProtocolError) else None
    return isinstance(reason, TimeoutError) and reason.errno is None  # the kernel's own errors have a number

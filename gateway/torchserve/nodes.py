"""Which node is asked: each in its turn, one that failed just now after all others, and the next where one fails."""

import errno
import logging
import socket
import time
from collections.abc import Callable
from itertools import count

from urllib3 import BaseHTTPResponse, Timeout, connection_from_url
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

CONNECT_TIMEOUT = 2.0  # seconds
SILENCE = 5  # seconds in which a machine confirms nothing that reaches it, after which it counts as gone
POOL_SIZE = 64  # connections kept to each node, not a limit
REST = 5.0  # seconds in which a node that failed is asked last
CANNOT_NOW = (502, 503)  # a node is not there behind its proxy, has no worker, or too much to do; another may answer
Headers = dict[str, str]
LOG = logging.getLogger(__name__)

# A machine that loses its power closes nothing; the kernel asks every second whether it is there.
SOCKET_OPTIONS = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE * 1000),
]


class TorchServeError(Exception):
    """TorchServe did not do what it was asked. A message of its own is for operators, not for clients."""


class Unavailable(TorchServeError):
    """TorchServe or the model is not there, or is too busy; asking again later may work."""


class TooSlow(TorchServeError):
    """No answer within the time limit."""


Ask = Callable[[str, str, bytes | None, Headers], BaseHTTPResponse]
Check = Callable[[Ask], None]


class Nodes:
    """Servers that answer alike, by their base URLs. `timeout`, in seconds, is that of an answer.

    `check` is told how to ask a node that was away, and raises TorchServeError where it does not work yet.
    """

    def __init__(self, addresses: list[str], timeout: float, check: Check = lambda ask: None) -> None:
        self._nodes = [_Node(address, timeout, check) for address in addresses]
        self._turns = count()

    def ask(self, method: str, path: str, body: bytes | None, headers: Headers) -> BaseHTTPResponse:
        """Ask one after the other; returns the first answer other than CANNOT_NOW, or else that of the last one.

        Raises TooSlow as soon as one takes too long, and Unavailable if the last one cannot be reached.
        """
        *others, last = self._in_turn()
        for node in others:
            try:
                answer = node.ask(method, path, body, headers)
            except Unavailable:
                continue
            if answer.status not in CANNOT_NOW:
                return answer
        return last.ask(method, path, body, headers)

    def _in_turn(self) -> list["_Node"]:
        first = next(self._turns) % len(self._nodes)
        now = time.monotonic()
        return sorted(self._nodes[first:] + self._nodes[:first], key=lambda node: node.rests_until > now)


class _Node:
    """One server: its connections, and until when it is asked last (as monotonic has it; 0 where it works)."""

    def __init__(self, address: str, timeout: float, check: Check) -> None:
        limits = Timeout(connect=CONNECT_TIMEOUT, read=timeout)
        self._pool = connection_from_url(address, timeout=limits, maxsize=POOL_SIZE, socket_options=SOCKET_OPTIONS)
        self._address, self._check = address, check
        self.rests_until = time.monotonic()

    def ask(self, method: str, path: str, body: bytes | None, headers: Headers) -> BaseHTTPResponse:
        try:
            if self.rests_until:
                self._rest()  # for the others, while this request finds out whether it works again
                self._see_that_it_works()
            answer = self._send(method, path, body, headers)
        except ReadTimeoutError:
            self._rest()
            raise TooSlow("The model took too long to answer.") from None
        except (HTTPError, Unavailable):
            self._rest()
            raise Unavailable("TorchServe cannot be reached.") from None
        if answer.status in CANNOT_NOW:
            self._rest()
        else:
            self.rests_until = 0.0
        return answer

    def _rest(self) -> None:
        self.rests_until = time.monotonic() + REST

    def _send(self, method: str, path: str, body: bytes | None, headers: Headers) -> BaseHTTPResponse:
        def request() -> BaseHTTPResponse:
            return self._pool.urlopen(method, path, body=body, headers=headers, retries=False)

        try:
            return request()
        except HTTPError as error:
            if not _has_ended(error):
                raise
            self._see_that_it_works()
            return request()  # the connection had been kept, and ended just now: a fresh one decides

    def _see_that_it_works(self) -> None:
        """Raise Unavailable where it does not, or does not say so within CONNECT_TIMEOUT."""

        def ask(method: str, path: str, body: bytes | None, headers: Headers) -> BaseHTTPResponse:
            return self._pool.urlopen(method, path, body, headers, retries=False, timeout=CONNECT_TIMEOUT)

        try:
            self._check(ask)
        except (HTTPError, TorchServeError) as error:
            LOG.warning("The node %s is not asked now: %s", self._address, error)
            raise Unavailable("TorchServe cannot be reached.") from None


def _has_ended(error: HTTPError) -> bool:
    """Say whether it is the connection that ended, not the time for an answer."""
    return isinstance(error, ProtocolError) or getattr(error.__cause__, "errno", None) == errno.ETIMEDOUT

"""Round-robin over nodes that answer alike. A node that just failed is tried last; the next one stands in for it."""

import logging
import time
from collections.abc import Callable
from itertools import count

from gateway.backend import BackendError, TooSlow, Unavailable
from gateway.torchserve.client import Answer, Client, Ended, Headers, Slow

CONNECT_TIMEOUT = 2.0  # seconds
REST_SECONDS = 5.0  # in which a node that failed is tried last
UNAVAILABLE_STATUSES = (502, 503, 504)  # a node is not there behind its proxy, is busy or slow; another may answer
LOG = logging.getLogger(__name__)

Send = Callable[[str, str, bytes | None, Headers], Answer]
Check = Callable[[Send], None]


class Nodes:
    """Servers that answer alike, by their base URLs. `timeout`, in seconds, is that of an answer.

    `check` gets a function that sends a request to a node that was away; it raises BackendError if that does not work
    yet.
    """

    def __init__(self, addresses: list[str], timeout: float, check: Check = lambda send: None) -> None:
        self._nodes = [_Node(address, timeout, check) for address in addresses]
        self._turns = count()

    def send(self, method: str, path: str, body: bytes | None, headers: Headers) -> Answer:
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


class _Node:
    """One server: its connections, and until when it is tried last (as monotonic has it; 0 if it works)."""

    def __init__(self, address: str, timeout: float, check: Check) -> None:
        self._client = Client(address)
        self._address, self._timeout, self._check = address, timeout, check
        self.rests_until = time.monotonic()

    def send(self, method: str, path: str, body: bytes | None, headers: Headers) -> Answer:
        try:
            if self.rests_until:
                self._rest()  # for the others, while this request finds out whether it works again
                self._check_it_works()
            answer = self._send_once_more(method, path, body, headers)
        except Slow:
            self._rest()
            raise TooSlow from None
        except (OSError, Ended, Unavailable):
            self._rest()
            raise Unavailable("TorchServe cannot be reached.") from None
        except BaseException:  # the time limit of a request, which a node that hangs has let pass
            self._rest()
            raise
        if answer.status in UNAVAILABLE_STATUSES:
            self._rest()
        else:
            self.rests_until = 0.0
        return answer

    def _rest(self) -> None:
        self.rests_until = time.monotonic() + REST_SECONDS

    def _send_once_more(self, method: str, path: str, body: bytes | None, headers: Headers) -> Answer:
        try:
            return self._client.send(method, path, body, headers, CONNECT_TIMEOUT, self._timeout)
        except Ended:
            self._check_it_works()  # the connection had been kept, and ended just now: a fresh one decides
            return self._client.send(method, path, body, headers, CONNECT_TIMEOUT, self._timeout)

    def _check_it_works(self) -> None:
        """Raise Unavailable if it does not, or does not answer within CONNECT_TIMEOUT."""

        def send(method: str, path: str, body: bytes | None, headers: Headers) -> Answer:
            return self._client.send(method, path, body, headers, CONNECT_TIMEOUT, CONNECT_TIMEOUT)

        try:
            self._check(send)
        except (OSError, Ended, Slow, BackendError) as error:
            LOG.warning("The node %s gets no requests now: %s", self._address, error)
            raise Unavailable("TorchServe cannot be reached.") from None

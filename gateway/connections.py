"""HTTP/1.1 on a connection: llhttp, the parser of Node.js, reads the requests, and each is answered in one piece.

It does what gunicorn's own reader and writer do, in a fifth of their time. It runs in a greenlet of gevent, so that it
reads and writes like a program with one client.
"""

import json
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote_to_bytes

from gevent import Timeout
from gevent.socket import wait_read, wait_write
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url

from gateway import context, limits
from gateway.error_handlers import RETRY_AFTER, failure
from gateway.limits import PIECE_BYTES
from gateway.request_log import ID, Access

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

BASE: dict[str, Any] = {
    "SCRIPT_NAME": "",
    "SERVER_SOFTWARE": "gunicorn",
    "wsgi.errors": sys.stderr,
    "wsgi.input_terminated": True,
    "wsgi.multiprocess": True,
    "wsgi.multithread": True,
    "wsgi.run_once": False,
    "wsgi.url_scheme": "http",
    "wsgi.version": (1, 0),
}
WITHOUT_A_BODY = ("204", "304")
FRAMING = (("Content-Length", "CONTENT_LENGTH"), ("Transfer-Encoding", "HTTP_TRANSFER_ENCODING"))
UNREAD = "-"  # the method in the log of a request whose head was refused
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Refused(Exception):
    """A request that is too long, or not HTTP: the status of the reply."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.description or status.phrase)
        self.status = status


class Request:
    """A request as it arrives, and its body as the application reads it: it waits for bytes that are not there yet."""

    def __init__(self, connection: "Connection", environ: "WSGIEnvironment", keep_alive: bool) -> None:
        self.environ, self.keep_alive = environ, keep_alive
        self.complete = self.given_up = False
        self.pieces: list[bytes] = []
        self._available = 0
        self._connection = connection
        self.expects = environ.get("HTTP_EXPECT", "").lower() == "100-continue"  # and sends no body until it is told
        environ["wsgi.input"] = self

    def add(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self._available += len(piece)

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or all that are left. Raises OSError if the body is torn."""
        if self.expects:
            self.expects = False
            if not self.complete and not self.pieces:
                self._connection.send(CONTINUE)
        try:
            while self._available < size and not self.complete:
                self._connection.receive()
        except BaseException:  # among them the time limit of the gate
            self.given_up = True
            raise
        data = b"".join(self.pieces) if len(self.pieces) != 1 else self.pieces[0]
        self.pieces.clear()
        if len(data) > size:
            self.pieces.append(data[size:])
            data = data[:size]
        self._available -= len(data)
        return data


class Rest:
    """Hears of a body alone, the last one of its connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def on_body(self, piece: bytes) -> None:
        if not self._connection.last.complete:
            self._connection.on_body(piece)

    def on_message_complete(self) -> None:
        self._connection.on_message_complete()


class Waiting(Protocol):
    """Knows which connections wait for a request, and since when (monotonic)."""

    alive: bool
    keep_seconds: float
    waiting: dict["Connection", float]


class Connection:
    """A connection with a client, whose requests `application` answers one after the other."""

    def __init__(self, client: Any, application: "WSGIApplication", base: "WSGIEnvironment", process: Waiting) -> None:
        self._socket, self._application, self._base, self._process = client, application, base, process
        self._parser = HttpRequestParser(self)
        self._arrived: deque[Request] = deque()  # those whose heads are complete
        self._failure: Refused | None = None  # of what comes behind them
        self._offered = False  # another protocol, behind which no request is answered
        self._beside = 0  # bytes since the last head or piece of a body: of a head, of trailers, between chunks
        self._environ: dict[str, Any]
        self._begin()

    def serve(self) -> None:
        """Answer requests until the client or the process ends the connection."""
        try:
            while self._answer(self._next()):
                pass
        except Refused as refusal:
            context.enter("")
            access = Access("")
            headers = [("Content-Type", "application/json"), (ID, access.id)]
            if refusal.status == HTTPStatus.TOO_MANY_REQUESTS:
                headers += RETRY_AFTER.items()
            body = json.dumps(failure(str(refusal), refusal.status)[0]).encode()
            access.end(UNREAD, None, refusal.status)
            self._reply(f"{refusal.status} {refusal.status.phrase}", headers, body, close=True, head_alone=False)

    def close_idle(self) -> None:
        """End the wait for a next request."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> None:
        """Wait for the next bytes, and read them. Raises OSError if there are none, or no HTTP."""
        if self._failure:
            raise ConnectionError("The body is no HTTP.")
        data = self._socket.recv(PIECE_BYTES)
        if not data:
            raise ConnectionError("The client has closed the connection.")
        self._beside += len(data)
        try:
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as offer:  # is not taken up: what was asked in HTTP/1.1 is answered, and no more
                if not self._offered:
                    self._offered, self.last.keep_alive = True, False
                    self._read_on(data[offer.args[0] :])
        except HttpParserError:
            self._failure = self._failure or Refused(HTTPStatus.BAD_REQUEST)
        if self._beside > limits.MAX_HEAD_BYTES:
            self._failure = self._failure or Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _read_on(self, rest: bytes) -> None:
        """Read the body behind a head that offers another protocol; `rest` has its first bytes. llhttp skips it."""
        framing = [f"{name}: {self.last.environ[key]}" for name, key in FRAMING if key in self.last.environ]
        if framing:
            self.last.complete = False
            self._parser = HttpRequestParser(Rest(self))
            with suppress(HttpParserUpgrade):  # of a request behind it, which nobody answers
                self._parser.feed_data("\r\n".join(["POST / HTTP/1.1", *framing, "", ""]).encode("latin-1") + rest)

    # The parser calls these.

    def on_message_begin(self) -> None:
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._check(len(self._url) <= limits.MAX_URL_BYTES, HTTPStatus.REQUEST_URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._check(self._headers <= limits.MAX_HEADERS, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if key := _key(name):
            text, environ = value.decode("latin-1"), self._environ
            environ[key] = f"{environ[key]},{text}" if key in environ else text

    def on_headers_complete(self) -> None:
        self._beside = 0
        self._check(len(self._arrived) < limits.MAX_UNANSWERED, HTTPStatus.TOO_MANY_REQUESTS)
        environ, version = self._environ, self._parser.get_http_version()
        environ["REQUEST_METHOD"] = self._parser.get_method().decode()
        environ["SERVER_PROTOCOL"] = f"HTTP/{version}"
        environ["PATH_INFO"], environ["QUERY_STRING"] = _split(self._url)
        self._environ = {}  # for the trailers behind a body in chunks, which nobody has checked and nobody reads
        self.last = Request(self, environ, self._parser.should_keep_alive())
        self._arrived.append(self.last)

    def on_body(self, piece: bytes) -> None:
        self._beside = 0
        self.last.add(piece)

    def on_message_complete(self) -> None:
        self.last.complete = True

    def _begin(self) -> None:
        self._environ, self._url, self._headers = self._base.copy(), b"", 0

    def _check(self, allowed: bool, status: HTTPStatus) -> None:
        if not allowed:
            self._failure = Refused(status)
            raise self._failure

    def _next(self) -> Request:
        """Return the next request when its head is there. Raises Refused, or OSError if none comes."""
        if self._arrived or self._failure:
            wait_write(self._socket.fileno(), limits.READ_SECONDS)  # other connections have their turn before it
        else:
            self._wait()
            self._receive_head()
        if not self._arrived:
            raise self._failure or Refused(HTTPStatus.BAD_REQUEST)
        return self._arrived.popleft()

    def _wait(self) -> None:
        """Wait for the first bytes of a request."""
        self._socket.settimeout(self._process.keep_seconds)
        self._process.waiting[self] = time.monotonic()
        try:
            # Even if they are there already: other connections have their turn then.
            wait_read(self._socket.fileno(), self._process.keep_seconds)
            self.receive()
        finally:
            del self._process.waiting[self]

    def _receive_head(self) -> None:
        """Receive the rest of a head. Raises Refused if it does not come in time."""
        until = time.monotonic() + limits.READ_SECONDS
        while not (self._arrived or self._failure):
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            try:
                self.receive()
            except TimeoutError:
                raise Refused(HTTPStatus.REQUEST_TIMEOUT) from None

    def _answer(self, request: Request) -> bool:
        """Answer a request; returns whether another one may follow."""
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started[:] = status, headers

        self._socket.settimeout(limits.READ_SECONDS)
        pieces = self._application(request.environ, start_response)
        try:
            body = b"".join(pieces)
        finally:
            if close_pieces := getattr(pieces, "close", None):
                close_pieces()
        status, headers = started
        ends = request.given_up or (request.expects and not request.complete)
        close = ends or not (request.keep_alive and self._process.alive)
        self._reply(status, headers, body, close, request.environ["REQUEST_METHOD"] == "HEAD")
        return (request.complete or ends or self._read_rest(request)) and not close

    def _reply(self, status: str, headers: list[tuple[str, str]], body: bytes, close: bool, head_alone: bool) -> None:
        lines = [f"HTTP/1.1 {status}\r\nServer: gunicorn\r\nDate: {_date(int(time.time()))}\r\n"]
        sized = status.startswith(WITHOUT_A_BODY) or head_alone
        for name, value in headers:
            lines.append(f"{name}: {value}\r\n")
            sized = sized or name.lower() == "content-length"
        if not sized:
            lines.append(f"Content-Length: {len(body)}\r\n")
        lines.append("Connection: close\r\n\r\n" if close else "Connection: keep-alive\r\n\r\n")
        head = "".join(lines).encode("latin-1")
        reply = head if head_alone else head + body
        for start in range(0, len(reply), PIECE_BYTES):  # each piece has the time of a read, for clients far away
            self._socket.sendall(reply[start : start + PIECE_BYTES])

    def _read_rest(self, request: Request) -> bool:
        """Read what is left of a refused body, so that its client, who may still be sending, hears the answer."""
        left = limits.MAX_BODY_BYTES
        with suppress(OSError), Timeout(limits.READ_SECONDS, False):
            while left > 0 and not request.complete:
                left -= len(request.read(PIECE_BYTES))
        return request.complete


@lru_cache(1)
def _date(now: int) -> str:
    return formatdate(now, usegmt=True)


@lru_cache(64)  # clients send some 30 names, but a hostile one may be as long as a head
def _key(name: bytes) -> str:
    """Return the key of a header in WSGI; empty for a name that could be taken for another one's."""
    if b"_" in name:
        return ""
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def _split(url: bytes) -> tuple[str, str]:
    """Return the path and the query of a URL."""
    path, _, query = url.partition(b"#")[0].partition(b"?")
    if not path.startswith((b"/", b"*")):  # the whole URL, as clients send it to a proxy
        parsed = parse_url(url)
        path, query = parsed.path or b"/", parsed.query or b""
    return (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1"), query.decode("latin-1")

"""HTTP on a connection: requests that come in pieces, together, torn or not as HTTP, and what is answered."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent
import pytest
from gevent.socket import socket, socketpair
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import limits, request_log
from gateway.connections import BASE, Connection

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Process:
    alive = True
    keep_seconds = 1.0

    def __init__(self) -> None:
        self.waiting: dict[Connection, float] = {}


def echo(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    """Answer what was asked, as JSON."""
    body = b"" if environ["PATH_INFO"] == "/unread" else b"given up"
    with gevent.Timeout(0.05 if environ["PATH_INFO"] == "/slow" else None, False):
        body = body and environ["wsgi.input"].read(10**9)
    asked = {key: value for key, value in environ.items() if isinstance(value, str)} | {"body": body.decode("latin-1")}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(asked).encode()]


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def client(process: Process) -> Iterator[socket]:
    """The client's end of a connection to an application that echoes."""
    theirs, ours = socketpair()

    def serve() -> None:
        with ours:
            try:
                Connection(ours, echo, BASE, process).serve()
            except OSError:
                return

    serving = gevent.spawn(serve)
    theirs.settimeout(5)
    with theirs:
        yield theirs
    serving.join(5)
    assert serving.ready()


def received(client: socket) -> bytes:
    with client.makefile("rb") as file:
        return file.read()


def answers(replies: bytes) -> list[dict[str, Any]]:
    """Return what was echoed in replies of the status 200, one after the other."""
    found = []
    while replies:
        head, _, rest = replies.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        length = int(re.findall(rb"Content-Length: (\d+)", head)[0])
        found.append(json.loads(rest[:length]))
        replies = rest[length:]
    return found


POST = b"POST /a%20b/%C3%BC?c=%20d HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nX-A: 1\r\nx-a: 2\r\n"
LAST = b"GET /last HTTP/1.1\r\nConnection: close\r\n\r\n"


def test_a_request_becomes_what_wsgi_says(client: socket) -> None:
    client.sendall(POST + b"X_Forwarded_For: evil\r\nContent-Length: 4\r\n\r\nbody" + LAST)
    first, last = answers(received(client))
    assert first["PATH_INFO"].encode("latin-1").decode() == "/a b/ü"
    assert (first["QUERY_STRING"], first["REQUEST_METHOD"], first["SERVER_PROTOCOL"]) == ("c=%20d", "POST", "HTTP/1.1")
    assert (first["CONTENT_TYPE"], first["CONTENT_LENGTH"], first["HTTP_X_A"]) == ("text/plain", "4", "1,2")
    assert first["body"] == "body"
    assert "HTTP_X_FORWARDED_FOR" not in first
    assert (last["PATH_INFO"], last["body"]) == ("/last", "")


@pytest.mark.parametrize("url", [b"http://host:1/path?q", b"/path?q#fragment"])
def test_a_whole_url(client: socket, url: bytes) -> None:
    client.sendall(b"GET " + url + b" HTTP/1.0\r\n\r\n")
    (answer,) = answers(received(client))
    assert (answer["PATH_INFO"], answer["QUERY_STRING"]) == ("/path", "q")


@pytest.mark.parametrize("together", [True, False])
def test_other_connections_have_their_turn_between_the_requests_of_one(process: Process, together: bool) -> None:
    """Though the application lets nobody else work, and the next request of the same client is always there already."""
    answered: list[str] = []
    ends = [socketpair(), socketpair()]

    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
        answered.append(environ["PATH_INFO"])
        time.sleep(0.01)
        if environ["PATH_INFO"] == "/mine":
            if not together and len(answered) < 20:
                ends[0][0].send(b"GET /mine HTTP/1.1\r\n\r\n")
            if len(answered) == 1:
                ends[1][0].send(b"GET /yours HTTP/1.1\r\n\r\n")
        start_response("200 OK", [])
        return [b""]

    served = [gevent.spawn(Connection(ours, application, BASE, process).serve) for _, ours in ends]
    ends[0][0].send(b"GET /mine HTTP/1.1\r\n\r\n" * (20 if together else 1))
    while "/yours" not in answered or len(answered) < 20:
        gevent.sleep(0.01)
    gevent.killall(served)
    assert answered.index("/yours") < 5


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.lists(st.integers(1, 60), max_size=12))
def test_pieces_of_any_size_are_the_same_request(sizes: list[int]) -> None:
    chunks = b"4\r\nbody\r\n5;x=y\r\n\r\n--x\r\n0\r\nX-Trailer: z\r\n\r\n"
    requests = POST + b"Content-Length: 4\r\n\r\nbody" + POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + LAST
    theirs, ours = socketpair()
    with theirs:
        with ours:
            serving = gevent.spawn(Connection(ours, echo, BASE, Process()).serve)
            for size in sizes:
                theirs.sendall(requests[:size])
                requests = requests[size:]
                gevent.sleep(0)
            theirs.sendall(requests)
            serving.join(5)
        assert [answer["body"] for answer in answers(received(theirs))] == ["body", "body\r\n--x", ""]


def test_the_rest_of_an_unread_body_is_no_request(client: socket) -> None:
    client.sendall(b"POST /unread HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + LAST.ljust(100_000, b"x"))
    client.sendall(LAST)
    assert [answer["PATH_INFO"] for answer in answers(received(client))] == ["/unread", "/last"]


def test_more_than_is_ever_read_ends_the_connection(client: socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BODY_BYTES", 10)
    client.sendall(b"POST /unread HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n" + bytes(100_000))
    assert len(answers(received(client))) == 1


def test_a_body_is_asked_for_when_it_is_read(client: socket) -> None:
    head = b"HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    client.sendall(b"POST / " + head)
    assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"body" + b"POST /unread " + head)
    first, unread = answers(received(client))
    assert (first["body"], unread["PATH_INFO"]) == ("body", "/unread")


def test_a_request_of_no_bytes_that_waits_for_a_go_ahead_keeps_its_connection(client: socket) -> None:
    client.sendall(b"POST /unread HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n" + LAST)
    assert len(answers(received(client))) == 2


def test_a_reply_without_a_body(client: socket) -> None:
    client.sendall(b"HEAD /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert received(client).count(b"\r\n\r\n") == 2


def test_an_upgrade_is_not_made(client: socket) -> None:
    client.sendall(b"GET /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    (answer,) = answers(received(client))
    assert answer["PATH_INFO"] == "/a"


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
BEHIND = {
    "nothing": b"",
    "a request": b"POST /b HTTP/1.1\r\nContent-Length: 4\r\n\r\nevil",
    "another offer": b"POST /b HTTP/1.1\r\n" + OFFER + b"Content-Length: 4\r\n\r\nevil",
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("cut", [0, 1, 2, None], ids=["before the body", "in the body", "later", "nowhere"])
@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"Content-Length: 4", b"body"), (b"Transfer-Encoding: chunked", b"2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n")],
    ids=["length", "chunks"],
)
def test_nor_is_the_body_lost_with_which_it_is_offered(
    client: socket, framing: bytes, body: bytes, cut: int | None, behind: str
) -> None:
    sent = b"POST /a HTTP/1.1\r\n" + OFFER + framing + b"\r\n\r\n"
    at = len(sent) + (len(body) if cut is None else cut)
    sent += body + BEHIND[behind]
    client.sendall(sent[:at])
    gevent.sleep(0.01)  # in which the first piece is read
    with suppress(BrokenPipeError):  # if the whole body was in it, its answer is on the way
        client.sendall(sent[at:])
    (answer,) = answers(received(client))
    assert (answer["PATH_INFO"], answer["body"]) == ("/a", "body")


def test_a_body_that_is_torn_behind_such_an_offer_is_an_error(client: socket) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
    assert received(client) == b""


BROKEN: dict[str, tuple[bytes, int]] = {
    "long URL": (b"GET /" + b"x" * limits.MAX_URL_BYTES + b" HTTP/1.1\r\n\r\n", 414),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (limits.MAX_HEADERS + 1) + b"\r\n", 431),
    "long header": (b"GET / HTTP/1.1\r\nA: " + b"x" * (2 * limits.MAX_HEAD_BYTES), 431),
    "line break in a header": (b"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", 400),
    "folded header": (b"GET / HTTP/1.1\r\nA: b\r\n\x00c\r\n\r\n", 400),
    "blank before the colon": (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
    "no name": (b"GET / HTTP/1.1\r\n: b\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    "length and chunks": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "another coding": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "signed length": (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_request_is_refused_and_ends_the_connection(
    client: socket, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, status = BROKEN[name]
    lines = list[str]()
    monkeypatch.setattr(request_log._LOG, "add", lines.append)
    client.sendall(b"GET /before HTTP/1.1\r\n\r\n" + sent)
    replies = received(client)
    before, _, refusal = replies.rpartition(b"HTTP/1.1 ")
    assert [answer["PATH_INFO"] for answer in answers(before)] == ["/before"]
    assert refusal.startswith(f"{status} ".encode())
    head, _, body = refusal.partition(b"\r\n\r\n")
    assert json.loads(body)["success"] is False
    (line,) = map(json.loads, lines)
    assert f"X-Request-ID: {line['id']}".encode() in head.split(b"\r\n")
    assert (line["method"], line["route"], line["status"]) == ("-", None, status)


@pytest.mark.parametrize("body", [b"zz\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloX", b"fffffffffffffffff\r\n"])
def test_a_body_that_is_torn_is_an_error_for_its_reader(client: socket, body: bytes) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert received(client) == b""  # the application of this test does not answer then


@pytest.mark.parametrize("endless", [b"0\r\nX: ", b"1;"], ids=["trailer", "extension"])
def test_what_stands_beside_a_body_has_an_end(client: socket, endless: bytes) -> None:
    client.sendall(b"POST /unread HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + endless)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        client.sendall(b"x" * 100 * limits.MAX_HEAD_BYTES)


def test_who_reads_no_answer_may_not_go_on_asking(client: socket) -> None:
    client.sendall(b"GET /before HTTP/1.1\r\n\r\n" * 1000)
    before, _, refusal = received(client).rpartition(b"HTTP/1.1 ")
    assert len(answers(before)) == limits.MAX_UNANSWERED
    assert refusal.startswith(b"429 ")
    assert b"\r\nRetry-After: 1\r\n" in refusal


def test_a_body_that_was_given_up_is_not_waited_for(client: socket) -> None:
    client.sendall(b"POST /slow HTTP/1.1\r\nContent-Length: 4\r\n\r\nbo")
    started = time.monotonic()
    assert [answer["body"] for answer in answers(received(client))] == ["given up"]
    assert time.monotonic() < started + 4


def test_a_head_has_to_come_in_time(client: socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "READ_SECONDS", 0.05)
    client.sendall(b"GET / HT")
    assert received(client).startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_ends(client: socket, process: Process) -> None:
    process.keep_seconds = 0.05
    started = time.monotonic()
    assert received(client) == b""
    assert time.monotonic() < started + 4


def test_a_connection_that_waits_is_known_and_may_be_ended(client: socket, process: Process) -> None:
    def until(condition: Callable[[], object]) -> None:
        with gevent.Timeout(5):
            while not condition():
                gevent.sleep(0.001)

    until(lambda: process.waiting)
    (connection,) = process.waiting
    connection.close_idle()
    assert received(client) == b""
    until(lambda: not process.waiting)


def test_a_process_that_stops_answers_what_is_under_way(client: socket, process: Process) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbo")
    gevent.sleep(0.01)
    process.alive = False
    client.sendall(b"dy")
    (answer,) = answers(received(client))
    assert answer["body"] == "body"


def test_trailers_are_no_headers(client: socket) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.sendall(head + b"3\r\nabc\r\n0\r\nX-Request-Id: forged\r\nContent-Type: text/html\r\n\r\n")
    (asked,) = answers(received(client))
    assert asked["body"] == "abc"
    assert not {"HTTP_X_REQUEST_ID", "CONTENT_TYPE"} & asked.keys()

"""The client for TorchServe, with servers that say by the byte what it has to read."""

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from gateway.torchserve.client import Answer, Client, Ended, Headers, Slow
from tests.stack import wait_until

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
IN_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
ANNOUNCED = b"HTTP/1.1 103 Early Hints\r\nLink: <style.css>\r\n\r\n" + GOOD
TORN = b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{}"


class Server:
    """Takes connections, and sends one of `answers` after each request, which it keeps; it hangs up after the last."""

    def __init__(self, *answers: bytes, context: ssl.SSLContext | None = None) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if context else ''}://localhost:{self._listening.getsockname()[1]}"
        self._answers, self._context = answers, context
        self.connections = self.ended = 0
        self.requests: list[bytes] = []
        Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listening.accept()[0]
                self.connections += 1
                with self._context.wrap_socket(connection, server_side=True) if self._context else connection as taken:
                    for answer in self._answers:
                        self.requests.append(taken.recv(65536))
                        taken.sendall(answer)
                self.ended += 1


@contextlib.contextmanager
def serving(*answers: bytes, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    with contextlib.closing(Server(*answers, context=context)) as server:
        yield server


def hung_up(server: Server, times: int) -> bool:
    return server.ended == times


def ask(client: Client, headers: Headers | None = None, path: str = "/path") -> Answer:
    return client.send("POST", path, b"body", headers or {}, connect=2, answer=0.5)


def test_sends_a_request_in_one_piece_and_keeps_its_connection() -> None:
    with serving(GOOD, GOOD, GOOD) as server:
        client = Client(server.url)
        assert [ask(client, {"niceness": "5"}) for _ in range(3)] == [Answer(200, b"{}")] * 3
        assert server.connections == 1
        host = server.url.removeprefix("http://")
        head = f"POST /path HTTP/1.1\r\nHost: {host}\r\nniceness: 5\r\nContent-Length: 4\r\n\r\n"
        assert server.requests == [head.encode() + b"body"] * 3


@pytest.mark.parametrize("answer", [GOOD, LAST], ids=["hangs up", "says so"])
def test_connects_again_when_a_connection_has_ended(answer: bytes) -> None:
    with serving(answer) as server:
        client = Client(server.url)
        for ended in (1, 2, 3):
            assert ask(client).json() == {}
            wait_until(partial(hung_up, server, ended))
        assert server.connections == 3


@pytest.mark.parametrize("answer", [IN_CHUNKS, ANNOUNCED], ids=["in chunks", "announced"])
def test_reads_an_answer_of_any_form(answer: bytes) -> None:
    with serving(answer, answer) as server:
        client = Client(server.url)
        assert [ask(client), ask(client)] == [Answer(200, b"{}")] * 2


@pytest.mark.parametrize("more", [GOOD, GOOD[:20], b"what"], ids=["another", "half of another", "something"])
@pytest.mark.parametrize("answer", [GOOD, LAST], ids=["stays", "says that it ends"])
def test_takes_nothing_behind_an_answer_for_the_next_one(answer: bytes, more: bytes) -> None:
    with serving(answer + more) as server:
        client = Client(server.url)
        assert [ask(client), ask(client)] == [Answer(200, b"{}")] * 2
        assert server.connections == 2


def test_hears_an_answer_that_comes_before_all_is_sent() -> None:
    with serving(LAST) as server:
        answer = Client(server.url).send("POST", "/path", bytes(50_000_000), {}, connect=2, answer=5)
        assert answer == Answer(200, b"{}")


@pytest.mark.parametrize("wrong", ["10.0.0.1:8080", "node:8080", "unix:/socket", "http://", "http://größe:80"])
def test_refuses_what_is_no_url_of_a_server(wrong: str) -> None:
    with pytest.raises(ValueError, match="no URL of a server"):
        Client(wrong)


@pytest.mark.parametrize(
    "answer",
    [b"", TORN, b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 101 Other\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"],
    ids=["none", "torn", "another protocol", "an offer of another protocol"],
)
def test_says_that_a_connection_ended(answer: bytes) -> None:
    with serving(answer) as server, pytest.raises(Ended):
        ask(Client(server.url))


def test_waits_no_longer_for_an_answer_than_it_should() -> None:
    with serving(TORN, GOOD) as server, pytest.raises(Slow):
        ask(Client(server.url))


@pytest.mark.parametrize("wrong", ["a\r\nOther: header", "a\nb", "größe"])
def test_sends_no_header_that_would_be_another_one(wrong: str) -> None:
    with serving(GOOD) as server:
        client = Client(server.url)
        with pytest.raises(ValueError, match="characters"):
            ask(client, {"name": wrong})
        with pytest.raises(ValueError, match="characters"):
            ask(client, path=f"/{wrong}")
        assert not server.requests


def test_speaks_tls_with_who_has_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with serving(GOOD, GOOD, context=context) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(Client(server.url))
        server.close()
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    with serving(GOOD, GOOD, context=context) as server:
        client = Client(server.url)
        assert [ask(client), ask(client)] == [Answer(200, b"{}")] * 2
        assert server.connections == 1

"""The gateway's client: what fails alone, what is asked again, and what else may stand at or before the address."""

import base64
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from gateway.keys import add_client
from gateway.limits import MAX_IMAGE_BYTES
from scripts.batch import client
from scripts.batch.client import NO_ANSWER, Gateway, GatewayGone, may_pass
from tests.drawing import draw, encode
from tests.fake_backend import serving
from tests.fake_gateway import CLASSES, HTML, RED, Reply, answering, gateway_that
from tests.stack import Stack, free_ports
from training.outcome import Stopped


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path in paths:
        path.write_bytes(b"bytes")
    return paths


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DELAYS", (0.01,))
    monkeypatch.setattr(client, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(client, "READ_DELAYS", (0, 0))


def test_a_file_that_cannot_be_read_fails_alone(stack: Stack, tmp_path: Path) -> None:
    paths = [tmp_path / "one.png", tmp_path / "gone.png", tmp_path / "two.png", tmp_path, Path("no\0file.png")]
    for path, colour in zip(paths[:3], ("red", "red", "blue"), strict=True):
        path.write_bytes(encode(draw(colour, 1)))
    gateway = Gateway(stack.url, 1)
    paths[1].unlink()
    one, gone, two, folder, impossible = gateway.predict(paths)
    assert [answer.get("predicted_class") for answer in (one, two)] == ["red", "blue"]
    assert gone == {"error": "No such file or directory", "status": NO_ANSWER, "success": False}
    assert may_pass(folder)
    assert may_pass(impossible)


def test_a_file_of_many_gigabytes_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**36)
    content = Gateway("http://127.0.0.1:9", 1)._read(tmp_path / "huge.png")
    assert isinstance(content, bytes)
    assert len(content) == MAX_IMAGE_BYTES + 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_asks_again_what_may_pass(status: int, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DELAYS", (0.01,))
    with answering(
        gateway_that((status, {"error": "busy", "success": False}), (status, HTML), (200, [RED, RED]))
    ) as address:
        assert Gateway(f"http://{address}", 1).predict(images) == [RED, RED]


def test_comes_again_when_it_was_told_to(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    gateway = Gateway("http://127.0.0.1:1", 1)
    replies = iter([client.PassingError("busy", after=7), client.PassingError("busy"), [RED, RED]])

    def post(_: object) -> Any:
        if isinstance(reply := next(replies), Exception):
            raise reply
        return reply

    monkeypatch.setattr(gateway, "_post", post)
    monkeypatch.setattr(gateway.stop, "wait", waits.append)
    assert gateway.predict(images) == [RED, RED]
    assert [seconds for seconds in waits if seconds] == [7, 1]


@pytest.mark.parametrize(
    "reply", [(504, {"error": "It takes too long.", "success": False}), (500, HTML), (200, {"status": "healthy"})]
)
@pytest.mark.usefixtures("_impatient")
def test_an_image_that_alone_has_no_answer_is_to_be_asked_again(reply: Reply, images: list[Path]) -> None:
    images[1].write_bytes(b"poison")

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        return (200, {}) if request.command == "GET" else reply if b"poison" in body else (200, RED)

    with answering(answer) as address:
        one, two = Gateway(f"http://{address}", 1).predict(images)
    assert one == RED
    assert may_pass(two)
    assert two.get("error")


@pytest.mark.parametrize("status", [400, 413, 415])
def test_what_the_gateway_says_of_an_image_is_final(status: int, images: list[Path]) -> None:
    refused = {"error": "It is damaged.", "success": False}
    with answering(gateway_that((200, [RED, refused | {"status": status}]), (status, refused))) as address:
        gateway = Gateway(f"http://{address}", 1)
        assert not any(map(may_pass, gateway.predict(images)))
        assert gateway.predict(images[:1]) == [refused | {"status": status}]
        assert not any(map(may_pass, gateway.predict(images[:1])))


def test_a_failure_in_a_list_that_is_not_the_images_is_not_final(images: list[Path]) -> None:
    with answering(
        gateway_that((200, [RED, {"error": "The model is not available.", "status": 503, "success": False}]))
    ) as address:
        assert may_pass(Gateway(f"http://{address}", 1).predict(images)[1])


@pytest.mark.parametrize(
    ("reply", "ready", "said"),
    [
        ((503, {"error": "busy", "success": False}), (503, {"reason": "No model."}), "cannot predict: No model."),
        ((502, HTML), (502, HTML), r"The proxy at \S+ does not reach the gateway behind it"),
        ((401, HTML), (401, HTML), "asks for a password or token"),
        ((404, HTML), (200, {}), "Something else than the gateway"),
        ((302, HTML), (200, {}), "leads to /login; name"),
    ],
)
@pytest.mark.usefixtures("_impatient")
def test_stops_if_no_image_can_be_answered(reply: Reply, ready: Reply, said: str, images: list[Path]) -> None:
    with answering(gateway_that(reply, ready=ready)) as address, pytest.raises(GatewayGone, match=said):
        Gateway(f"http://{address}", 1).predict(images)


@pytest.mark.parametrize(
    "reply",
    [
        (200, {"status": "healthy"}),
        (200, ["ok"]),
        (200, "classes"),
        (200, {"classes": "cat"}),
        (200, {"classes": []}),
        (200, {"classes": [1, 2]}),
        (200, HTML),
        (200, b""),
        (200, b"\xff\xfe"),
        (200, b"[" * 100_000),
        (404, HTML),
        (405, {"detail": "Not allowed"}),
    ],
)
@pytest.mark.usefixtures("_no_garbage")
def test_another_service_at_the_address_is_called_that(reply: Reply) -> None:
    with (
        answering(lambda *_: reply) as address,
        pytest.raises(Stopped, match=f"Something else than the gateway answers at http://{address}/classes"),
    ):
        Gateway(f"http://{address}", 1).classes()


@pytest.mark.parametrize(
    "greeting", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_service_without_http_is_no_gateway(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(greeting)

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(Stopped, match=r"gateway .*name another --url\."):
            Gateway(f"http://127.0.0.1:{server.getsockname()[1]}", 1).classes()


@pytest.mark.parametrize("url", ["localhost:5001", "http://", "ftp://host", "http://[::1", "http://host:none", ""])
def test_says_what_an_address_is(url: str) -> None:
    with pytest.raises(Stopped, match="--url must be an address such as http"):
        Gateway(url, 1)


def test_loopback_is_asked_directly_and_others_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere,) = free_ports(1)
    through: list[str] = []

    def proxy(request: BaseHTTPRequestHandler, _: bytes) -> Reply:
        through.append(request.path)
        return 200, CLASSES

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with answering(gateway_that((200, RED))) as address, answering(proxy) as proxied:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nowhere}")
        for host in ("127.0.0.1", "localhost"):
            assert Gateway(f"http://{host}:{address.rpartition(':')[2]}", 1).classes() == ["red"]
        with pytest.raises(Stopped, match="The proxy that the environment names does not lead to http://classifier"):
            Gateway("http://classifier.example", 1).classes()
        monkeypatch.setenv("http_proxy", f"http://{proxied}")
        assert Gateway("http://classifier.example", 1).classes() == ["red"]
    assert through == ["http://classifier.example/classes"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    pem = tmp_path_factory.mktemp("tls") / "classifier.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=classifier"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pem, "-out", pem.with_suffix(".crt")],
        check=True,
        capture_output=True,
    )
    pem.write_bytes(pem.read_bytes() + pem.with_suffix(".crt").read_bytes())
    return pem


def guarded(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
    """Answer as the documented proxy does: a password or token, and uploads of at most 10 bytes of an image."""
    password = base64.b64encode("ann:sécret@1".encode()).decode()
    if request.headers.get("Authorization") not in (f"Basic {password}", "Bearer s3cret"):
        return 401, HTML
    if request.command == "GET":
        return 200, CLASSES
    return (413, HTML) if len(body) > 1000 else (200, RED)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without a certificate authority, a password or a proxy."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_environment_names_the_certificate_authority(
    variable: str, clean: pytest.MonkeyPatch, certificate: Path
) -> None:
    with answering(gateway_that((200, RED)), tls=certificate) as address:
        with pytest.raises(Stopped, match=r"cannot be trusted .*self-signed.*REQUESTS_CA_BUNDLE") as refused:
            Gateway(f"https://{address}", 1).classes()
        assert "classifier serve" not in str(refused.value)
        clean.setenv(variable, str(certificate.with_suffix(".crt")))
        assert Gateway(f"https://{address}", 1).classes() == ["red"]
        clean.setenv(variable, "/none.pem")
        with pytest.raises(Stopped, match=r"cannot be reached \(.*/none.pem\)"):
            Gateway(f"https://{address}", 1).classes()
    clean.delenv(variable)
    with answering(gateway_that((200, RED))) as address, pytest.raises(Stopped, match="There is no TLS"):
        Gateway(f"https://{address}", 1).classes()


def test_password_of_netrc_or_url_and_token(clean: pytest.MonkeyPatch, tmp_path: Path, images: list[Path]) -> None:
    netrc, token = tmp_path / "netrc", tmp_path / "token"
    token.write_text("s3cret\n")
    with answering(guarded) as address:
        with pytest.raises(Stopped, match=r"asks for a password or token; write it into ~/\.netrc") as refused:
            Gateway(f"http://{address}", 1).classes()
        assert "classifier serve" not in str(refused.value)
        assert Gateway(f"http://{address}", 1, token).classes() == ["red"]
        named = Gateway(f"http://ann:s%C3%A9cret%401@{address}", 1)
        assert (named.classes(), named.url) == (["red"], f"http://{address}")
        with pytest.raises(Stopped, match="does not take the password") as refused:
            Gateway(f"http://ann:wrong@{address}", 1).classes()
        assert "wrong" not in str(refused.value)
        netrc.write_text("machine 127.0.0.1 login ann password any")
        clean.setenv("NETRC", str(netrc))
        with pytest.raises(Stopped, match="does not take the password"):
            Gateway(f"http://{address}", 1).classes()
        assert Gateway(f"http://{address}", 1, token).classes() == ["red"]

        images[1].write_bytes(bytes(2000))
        small, large = Gateway(f"http://{address}", 1, token).predict(images)
    assert small == RED
    assert may_pass(large)
    assert "The proxy refuses uploads of this size (0.0 MB); raise its client_max_body_size." in str(large.get("error"))


def test_netrc_is_sent(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password plain")
    expected = "Basic " + base64.b64encode(b"ann:plain").decode()

    def reply(request: BaseHTTPRequestHandler, _: bytes) -> Reply:
        return (200, CLASSES) if request.headers["Authorization"] == expected else (403, HTML)

    with answering(reply) as address:
        assert Gateway(f"http://{address}", 1).classes() == ["red"]
        clean.setenv("HOME", "/none")
        with pytest.raises(Stopped, match=r"refuses access \(status 403\)"):
            Gateway(f"http://{address}", 1).classes()


@pytest.mark.parametrize("content", [b"", b"two words", b"two\nlines", b"\xff", None])
def test_what_is_no_token_is_not_sent_and_not_printed(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(Stopped, match="token") as refused:
        Gateway("http://127.0.0.1:1", 1, tmp_path / "token")
    assert "words" not in str(refused.value)


def test_the_api_key_is_in_a_file_or_the_environment(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys, file = tmp_path / "keys", tmp_path / "key"
    key = add_client(keys, "ann")
    with serving(API_KEYS_FILE=str(keys)) as url:
        with pytest.raises(Stopped, match="asks for an API key; name a file with yours as --key, or set"):
            Gateway(url, 1).classes()
        file.write_text(f"{key}\n")
        assert Gateway(url, 1, key_file=file).classes() == ["cat"]
        clean.setenv("CLASSIFIER_KEY", key)
        assert Gateway(url, 1).classes() == ["cat"]
        file.write_text("wrong")
        with pytest.raises(Stopped, match="does not take the API key that was sent"):
            Gateway(url, 1, key_file=file).classes()
        clean.setenv("CLASSIFIER_KEY", "two words")
        with pytest.raises(Stopped, match="CLASSIFIER_KEY must hold a token or key"):
            Gateway(url, 1)


def test_a_client_with_a_rate_gets_all_its_images_predicted(
    clean: pytest.MonkeyPatch, tmp_path: Path, images: list[Path]
) -> None:
    clean.setenv("CLASSIFIER_KEY", add_client(tmp_path / "keys", "slow", rate=3))
    with serving(API_KEYS_FILE=str(tmp_path / "keys")) as url:
        answers = list(Gateway(url, 2).predict_all([[image] for image in images * 3]))
    assert [answer["success"] for (answer,) in answers] == [True] * len(images) * 3

"""Images as clients send them: taken, or refused with a sentence that says how to send them."""

import base64
import gzip
import json
import subprocess
import textwrap
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from werkzeug.exceptions import BadRequest

from gateway.bodies import decode_base64
from gateway.limits import MAX_FIELD_BYTES, MAX_IMAGE_BYTES, MAX_JSON_BYTES
from tests.drawing import draw, encode
from tests.stack import Stack

PICTURE = encode(draw("purple", 21), "JPEG", quality=97)
BASE64 = base64.b64encode(PICTURE).decode()
URL_SAFE = base64.urlsafe_b64encode(PICTURE).decode()
AS_FILE = "curl -F file=@photo.jpg"
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
TAIL = b"\r\n--x--\r\n"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PICTURE)
    return path


def curl(stack: Stack, *options: str, folder: Path) -> tuple[int, dict[str, object]]:
    """Return the status and the answer that curl gets, run in `folder`."""
    command = ["curl", "-sS", "-w", "\n%{http_code}", *options, f"{stack.url}/predict"]
    body, status = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=60
    ).stdout.rsplit("\n", 1)
    return int(status), json.loads(body)


def post_form(stack: Stack, body: bytes, content_type: str = "multipart/form-data; boundary=x") -> requests.Response:
    return requests.post(f"{stack.url}/predict", data=body, headers={"Content-Type": content_type})


def post_json(stack: Stack, body: str | bytes, **headers: str) -> requests.Response:
    return requests.post(
        f"{stack.url}/predict_base64", data=body, headers={"Content-Type": "application/json"} | headers
    )


def post_image(stack: Stack, text: str) -> requests.Response:
    return requests.post(f"{stack.url}/predict_base64", json={"image": text})


def assert_refused(response: requests.Response, status: int, words: str) -> None:
    assert (response.status_code, response.json()["success"]) == (status, False)
    assert words in response.json()["error"]


@pytest.mark.parametrize(
    "head",
    [
        "data:image/jpeg;charset=utf-8;base64,",
        'data:image/jpeg;name="a,b;c.jpg";base64,',
        "data:;base64,",
        "data:application/octet-stream;base64,",
        "Data:IMAGE/JPEG; Base64,\n",
        " data:image/jpeg;base64,",
    ],
)
def test_a_data_url_may_have_any_parameters(stack: Stack, head: str) -> None:
    assert post_image(stack, head + BASE64).json()["predicted_class"] == "purple"


@pytest.mark.parametrize(
    "text",
    [
        URL_SAFE,
        URL_SAFE.rstrip("="),
        BASE64.rstrip("="),
        "data:image/jpeg;base64," + URL_SAFE.rstrip("="),
        "\r\n".join(textwrap.wrap(URL_SAFE, 76)) + "\r\n",
        quote(BASE64, safe=""),
        "data:image/jpeg;base64," + quote(BASE64, safe=""),
    ],
    ids=["URL-safe", "unpadded", "standard, unpadded", "data URL", "lines", "percent", "percent in a data URL"],
)
def test_base64_of_either_alphabet(stack: Stack, text: str) -> None:
    assert {"+", "/"} <= set(BASE64)
    assert BASE64.endswith("=")
    assert post_image(stack, text).json()["predicted_class"] == "purple"


def test_the_longest_text_of_escapes_takes_neither_a_second_nor_much_memory() -> None:
    text = "%2B" * (MAX_JSON_BYTES // 12 * 4)
    tracemalloc.start()
    started = time.process_time()
    assert len(decode_base64(text)) == MAX_JSON_BYTES // 12 * 3
    assert time.process_time() - started < 1
    assert tracemalloc.get_traced_memory()[1] < 5 * MAX_JSON_BYTES
    tracemalloc.stop()


def test_the_longest_text_with_a_strange_letter_is_refused_at_once() -> None:
    text = "\u00e9" + "A" * (MAX_JSON_BYTES - 1)
    started = time.process_time()
    with pytest.raises(BadRequest):
        decode_base64(text)
    assert time.process_time() - started < 0.2


def large_form() -> Iterator[bytes]:
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n\r\n'
    for _ in range(13):
        yield bytes(2**20)
    yield b"\r\n--x--\r\n"


def large_json() -> Iterator[bytes]:
    yield b'{"image": "'
    for _ in range(31):
        yield b"A" * 2**19
    yield b'"}'


@pytest.mark.parametrize(
    ("route", "kind", "body"),
    [
        ("predict", "multipart/form-data; boundary=x", large_form),
        ("predict_base64", "application/json", large_json),
        ("v2/models/classifier/infer", "application/json", large_json),
    ],
)
def test_a_body_in_chunks_that_is_too_large(
    stack: Stack, route: str, kind: str, body: Callable[[], Iterator[bytes]]
) -> None:
    refused = requests.post(f"{stack.url}/{route}", body(), headers={"Content-Type": kind})
    assert refused.request.headers["Transfer-Encoding"] == "chunked"
    assert_refused(refused, 413, "larger than 10 MB")


@pytest.mark.parametrize("piece", ["{}", "[]", '""'])
def test_many_values_of_json_are_refused_unread(stack: Stack, piece: str) -> None:
    body = f'{{"image": "", "x": [{",".join([piece] * 100_000)}]}}'
    refused = requests.post(f"{stack.url}/predict_base64", body, headers={"Content-Type": "application/json"})
    assert_refused(refused, 400, "more than 10,000 values")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"data:image/jpeg,{quote(PICTURE)}", "no ';base64,'"),
        ("data:image/jpeg;base64", "no ';base64,'"),
        ("https://example.org/photo.jpg", "holds ':'"),
        (BASE64[:100] + "é" + BASE64[100:], r"holds '\xe9'"),
        (BASE64[:101], "characters are missing"),
        (BASE64.replace("+", " ", 1), "'+' become a blank"),
        ("QUJD=QUJD", "characters are missing"),
        ("*", "holds '*'"),
        ("QUJD\0", r"holds '\x00'"),
        ("QUJDdata:image/png;base64,QUJD", "holds ':'"),
        ("data:image/png;base64,", "The image is empty."),
        ("data:text/plain;base64,QUJD", "cannot be read"),  # by the model: the type of a data URL says nothing
    ],
)
def test_what_is_no_base64_is_named(stack: Stack, text: str, words: str) -> None:
    assert_refused(post_image(stack, text), 400, words)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_json_in_any_of_its_encodings(stack: Stack, encoding: str) -> None:
    body = json.dumps({"image": BASE64}).encode(encoding)
    assert post_json(stack, body).json()["predicted_class"] == "purple"


@pytest.mark.parametrize(
    "body", [PICTURE, b"", b"{", b'{"image": "\xff"}', b'{"image": "QUJD"', f"image={BASE64}".encode()]
)
def test_a_body_that_is_no_json(stack: Stack, body: bytes) -> None:
    assert_refused(post_json(stack, body), 400, "The body is not JSON. Send")


def test_a_file_at_the_route_for_json_and_the_reverse(stack: Stack) -> None:
    as_file = requests.post(f"{stack.url}/predict_base64", files={"file": PICTURE})
    assert_refused(as_file, 400, "files go to /predict.")
    for route in ("predict", "explain"):
        as_json = requests.post(f"{stack.url}/{route}", json={"image": BASE64})
        assert_refused(as_json, 400, "/predict_base64")


@pytest.mark.parametrize("size", [len(PICTURE), MAX_FIELD_BYTES + 1, MAX_IMAGE_BYTES])
def test_curl_with_a_field_of_text_for_a_file(stack: Stack, photo: Path, size: int) -> None:
    photo.write_bytes(PICTURE + bytes(size - len(PICTURE)))
    status, answer = curl(stack, "-F", "file=<photo.jpg", folder=photo.parent)
    assert (status, answer["success"]) == (400, False)
    assert AS_FILE in str(answer["error"])


@pytest.mark.parametrize(
    "options",
    [
        ["--data-binary", "@photo.jpg"],
        ["--data-binary", "@photo.jpg", "-H", "Content-Type: image/jpeg"],
        ["-d", "file=@photo.jpg"],
        ["-F", "image=@photo.jpg"],
        ["-F", "file=photo.jpg"],
        ["-X", "POST"],
    ],
    ids=lambda options: " ".join(options),
)
def test_curl_with_other_options_learns_the_right_ones(stack: Stack, photo: Path, options: list[str]) -> None:
    status, answer = curl(stack, *options, folder=photo.parent)
    assert (status, answer["success"]) == (400, False)
    assert AS_FILE in str(answer["error"])


def test_a_large_body_of_another_type(stack: Stack) -> None:
    assert_refused(post_form(stack, bytes(MAX_IMAGE_BYTES), "application/x-www-form-urlencoded"), 400, AS_FILE)


def test_other_fields_are_ignored(stack: Stack) -> None:
    largest = PICTURE + bytes(MAX_IMAGE_BYTES - len(PICTURE))
    for image, text in ((PICTURE, MAX_FIELD_BYTES), (largest, 600_000)):
        form = [("comment", (None, b"x" * text)), ("file", ("a.jpg", image)), ("thumbnail", ("b.jpg", b"no image"))]
        assert requests.post(f"{stack.url}/predict", files=form).json()["predicted_class"] == "purple"


def test_other_fields_have_a_bound(stack: Stack) -> None:
    form = [("comment", (None, b"x" * (MAX_FIELD_BYTES + 1))), ("file", ("a.jpg", PICTURE))]
    assert_refused(requests.post(f"{stack.url}/predict", files=form), 400, "larger than 1 MB")
    many = [(f"field{number}", (None, "x")) for number in range(1001)]
    assert_refused(requests.post(f"{stack.url}/predict", files=many), 400, "too many fields")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (HEAD + PICTURE + TAIL, "multipart/form-data"),
        (HEAD + PICTURE + TAIL, "multipart/form-data; boundary=other"),
        (HEAD + PICTURE + TAIL, "multipart/form-data; boundary=größe".encode().decode("latin-1")),
        (HEAD + PICTURE[:100], "multipart/form-data; boundary=x"),
        (HEAD[:30], "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n" + PICTURE + TAIL, "multipart/form-data; boundary=x"),
    ],
    ids=["no boundary", "another boundary", "odd boundary", "torn", "torn in its head", "empty", "no name"],
)
def test_a_form_that_is_torn_or_has_no_boundary(stack: Stack, body: bytes, content_type: str) -> None:
    assert_refused(post_form(stack, body, content_type), 400, "cut off, or its boundary")


def test_an_empty_part(stack: Stack) -> None:
    assert_refused(post_form(stack, HEAD + TAIL), 400, "The image is empty")


@pytest.mark.parametrize("route", ["predict", "explain", "predict_base64"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
def test_a_compressed_body(stack: Stack, route: str, encoding: str) -> None:
    plain = json.dumps({"image": BASE64}).encode()
    body = {"gzip": gzip.compress(plain), "deflate": zlib.compress(plain)}.get(encoding, plain)
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    response = requests.post(f"{stack.url}/{route}", data=body, headers=headers)
    assert_refused(response, 415, "without Content-Encoding")


def test_a_body_that_is_said_to_be_as_it_is(stack: Stack) -> None:
    body = json.dumps({"image": BASE64})
    assert post_json(stack, body, **{"Content-Encoding": "identity"}).json()["predicted_class"] == "purple"

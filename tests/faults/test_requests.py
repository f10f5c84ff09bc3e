"""Requests made up by tools that look for trouble, and images made to be costly."""

import base64
import json
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.drawing import draw, encode
from tests.replies import assert_tells_nothing
from tests.stack import WORKER, Record, Stack, times

PICTURE = encode(draw("red", 1))
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def outcome(response: requests.Response) -> tuple[int, object]:
    return response.status_code, response.json().get("predicted_class")


def upload(stack: Stack, content: bytes) -> requests.Response:
    return requests.post(f"{stack.url}/predict", files={"file": ("image", content)})


def send_json(stack: Stack, text: str | bytes) -> requests.Response:
    return requests.post(f"{stack.url}/predict_base64", data=text, headers={"Content-Type": "application/json"})


def test_base64_is_answered_as_the_file_is(stack: Stack, record_property: Record) -> None:
    pictures = st.sampled_from([PICTURE, encode(draw("azure", 2), "JPEG"), PICTURE[:200], b"text", b""])
    spaces, heads = st.sampled_from(["", "\n", "\r\n", " \t"]), st.sampled_from(["", "data:image/png;base64,"])

    @settings(max_examples=times(100, 5000), deadline=None, database=None, derandomize=True)
    @given(st.one_of(pictures, st.binary(max_size=300)), spaces, heads, st.integers(1, 80))
    def answers_alike(content: bytes, space: str, head: str, width: int) -> None:
        text = base64.b64encode(content).decode()
        lines = space.join(text[first : first + width] for first in range(0, len(text), width))
        assert outcome(send_json(stack, json.dumps({"image": head + lines}))) == outcome(upload(stack, content))

    @settings(max_examples=times(100, 5000), deadline=None, database=None, derandomize=True)
    @given(st.one_of(st.text(), st.binary(), JSON.map(json.dumps), JSON.map(lambda each: json.dumps({"image": each}))))
    def is_refused(body: str | bytes) -> None:
        assert send_json(stack, body.encode() if isinstance(body, str) else body).status_code == 400

    answers_alike()
    is_refused()
    record_property(
        f"{times(100, 5000):,} images as base64 and {times(100, 5000):,} other bodies", "as the file, or 400"
    )


@pytest.mark.parametrize(
    "body",
    [
        "[" * 10**5,
        '{"image": ' * 10**5,
        '{"image": NaN}',
        '{"image": "%s", "x": NaN}',
        '{"image": "%s", "x": -Infinity}',
        '{"image": "%s", "image": "%s"}',
        '{"image": ["%s"]}',
        '{"image": {"image": "%s"}}',
        '"%s"',
    ],
    ids=range(9),
)
def test_json_that_is_not_what_it_should_be(stack: Stack, body: str) -> None:
    text = body.replace("%s", base64.b64encode(PICTURE).decode())
    assert send_json(stack, text.encode()).status_code == 400


def test_does_what_it_documents(stack: Stack, tmp_path: Path, record_property: Record) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{stack.url}/swagger.json", "--seed=1"]
    command.append(f"--url={stack.url}")  # it would ask the document's relative server at /./
    # No schema can say which bytes are an image, so its own are refused, as is documented.
    command += ["--exclude-checks=positive_data_acceptance"]
    command += [f"--max-examples={times(20, 500)}", "--generation-database=none", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    record_property("schemathesis on /swagger.json", done.stdout.strip().splitlines()[-1].strip("= "))
    assert done.returncode == 0, done.stdout


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


BOMBS = {
    "PNG": png(100_000, 100_000),
    "GIF": b"GIF89a"
    + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
    + b","
    + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
    + b"\x08\x00;",
    "JPEG": encode(draw("red", 1), "JPEG").replace(struct.pack(">HH", 40, 48), b"\xff\xff\xff\xff", 1),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_an_enormous_image_is_refused_by_its_header(stack: Stack, kind: str, record_property: Record) -> None:
    workers = stack.processes(WORKER)
    upload(stack, BOMBS[kind])
    before, took = sum(each.memory_full_info().uss for each in workers), []
    for _ in range(20):
        started = time.monotonic()
        response = upload(stack, BOMBS[kind])
        took.append(time.monotonic() - started)
        assert response.status_code == 400
        assert "more than 50,000,000 pixels" in response.json()["error"]
    more = (sum(each.memory_full_info().uss for each in workers) - before) / 2**20
    record_property(f"a {kind} that says it is enormous", f"400 in {max(took) * 1e3:.0f} ms at most, {more:+.1f} MB")
    assert sorted(took)[10] < 0.05
    assert more < 10


INVALID = {
    "no request": b"nonsense\r\n\r\n",
    "unknown version": b"GET /live HTTP/9.9\r\nHost: x\r\n\r\n",
    "bad header": b"GET /live HTTP/1.1\r\nHost x\r\n\r\n",
    "NUL in a header": b"GET /live HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\x00b\r\n\r\n",
    "two lengths": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length and chunks": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
    "negative length": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "bad chunk": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "long line": b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "many headers": b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"X-Y: z\r\n" * 1000 + b"\r\n",
}


@pytest.mark.parametrize("name", INVALID)
def test_a_request_that_is_no_http_is_refused(stack: Stack, name: str) -> None:
    with stack.connect(timeout=5) as connection:
        connection.sendall(INVALID[name])
        reply = connection.makefile("rb").read()
    assert re.match(rb"HTTP/1\.1 (4\d\d|505) ", reply), reply
    assert_tells_nothing(400, reply.decode("latin-1"))
    assert requests.get(f"{stack.url}/live").ok

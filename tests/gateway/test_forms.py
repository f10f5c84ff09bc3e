"""Forms, cut at their boundary: as Werkzeug's parser has them, and in a time that grows with their size alone."""

import io
import time

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.formparser import MultiPartParser

from gateway.forms import MAX_HEAD_BYTES, MAX_PARTS, TooManyParts, parts
from gateway.limits import MAX_MULTIPART_BYTES

Found = list[tuple[str, str | None, bytes]]
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'


def ours(body: bytes, boundary: str = "x") -> Found:
    return [(part.name, part.file_name, body[part.data]) for part in parts(body, boundary)]


def werkzeugs(body: bytes, boundary: str = "x") -> Found:
    fields, files = MultiPartParser().parse(io.BytesIO(body), boundary.encode(), len(body))
    found: Found = [(name, None, text.encode()) for name, text in fields.items(multi=True)]
    return found + [(name, file.filename, file.read()) for name, file in files.items(multi=True)]


@pytest.mark.parametrize(
    "body",
    [
        HEAD + b"data\r\n--x--\r\n",
        HEAD + b"data\r\n--x--",
        HEAD + b"\r\n--x--\r\n",
        HEAD + b"\r\n\r\n\n\r\n--x--\r\n",
        (HEAD + b"data\r\n--x--\r\n").replace(b"\r\n", b"\n"),
        b"a preamble\r\n" + HEAD + b"data\r\n--x--\r\nan epilogue\r\n--x\r\n",
        b"\r\n" + HEAD + b"data\r\n--x--\r\n",
        HEAD.replace(b"--x", b"--x \t") + b"data\r\n--x--\r\n",
        HEAD + b"--x--\r\n--xy\r\n--x-\r\n --x--\r\n\r--xx--\r\n--x--\r\n",
        HEAD + b"one\r\n" + HEAD.replace(b"a.jpg", b"b.jpg") + b"two\r\n--x--\r\n",
        HEAD.replace(b'"file"', b"file").replace(b'"a.jpg"', b"a.jpg") + b"data\r\n--x--\r\n",
        HEAD.replace(b"a.jpg", rb"a\"b;c.jpg") + b"data\r\n--x--\r\n",
        HEAD.replace(b"a.jpg", b"a%22b%0D.jpg") + b"data\r\n--x--\r\n",
        HEAD.replace(b"a.jpg", rb"C:\a.jpg") + b"data\r\n--x--\r\n",
        HEAD.replace(b"a.jpg", "größe.jpg".encode()) + b"data\r\n--x--\r\n",
        HEAD.replace(b'filename="a.jpg"', b"filename*=UTF-8''gr%C3%B6%C3%9Fe.jpg") + b"data\r\n--x--\r\n",
        HEAD.replace(b"a.jpg", b"") + b"\r\n--x--\r\n",
        HEAD.replace(b"Content-Disposition", b"Content-Type: image/jpeg\r\ncontent-DISPOSITION") + b"data\r\n--x--\r\n",
        HEAD.replace(b"; filename", b";\r\n filename") + b"data\r\n--x--\r\n",
        HEAD.replace(b'; filename="a.jpg"', b"") + b"text\r\n--x--\r\n",
        b"--x--\r\n",
        b"--xy\r\n" + HEAD + b"data\r\n--x--\r\n",
    ],
    ids=range(22),
)
def test_a_form_is_read_as_werkzeug_reads_it(body: bytes) -> None:
    assert ours(body) == werkzeugs(body)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.lists(st.sampled_from([b"\r\n", b"-", b"x", b"--x", b"--x--", b" ", b"data"]), max_size=12))
def test_no_data_are_taken_for_a_boundary(pieces: list[bytes]) -> None:
    body = HEAD + b"".join(pieces) + b"\r\n--x--\r\n"
    try:
        expected = werkzeugs(body)
    except ValueError:
        with pytest.raises(ValueError, match=r"boundary|part"):
            ours(body)
    else:
        assert ours(body) == expected


def test_what_requests_sends() -> None:
    files = [("file", ("a.jpg", b"\r\n--\r\n")), ("file", ("ü.jpg", b"two"))]
    sent = requests.Request("POST", "http://x/", files=files, data={"note": "text"}).prepare()
    assert isinstance(sent.body, bytes)
    found = ours(sent.body, sent.headers["Content-Type"].partition("boundary=")[2])
    assert found == [("note", None, b"text"), ("file", "a.jpg", b"\r\n--\r\n"), ("file", "ü.jpg", b"two")]


@pytest.mark.parametrize(
    ("body", "boundary"),
    [
        (b"", "x"),
        (b"no\r\n\r\n", "x"),
        (HEAD, "x"),
        (HEAD + b"data\r\n--x", "x"),
        (HEAD + b"data--x--\r\n", "x"),
        (HEAD[:30], "x"),
        (b"--x\r\n\r\ndata\r\n--x--\r\n", "x"),
        (b"--x\r\nContent-Type: image/jpeg\r\n\r\ndata\r\n--x--\r\n", "x"),
        (HEAD.replace(b"a.jpg", b"a" * MAX_HEAD_BYTES) + b"data\r\n--x--\r\n", "x"),
        (HEAD + b"data\r\n--x--\r\n", ""),
        (HEAD + b"data\r\n--x--\r\n", "y"),
        (HEAD + b"data\r\n--x--\r\n", "größe"),
        (HEAD + b"data\r\n--x--\r\n", "漢"),
    ],
    ids=range(13),
)
def test_a_form_that_is_torn_or_of_another_boundary(body: bytes, boundary: str) -> None:
    with pytest.raises(ValueError, match=r"boundary|part|decode|encode"):
        ours(body, boundary)


def test_a_name_in_another_code() -> None:
    form = HEAD.replace(b"a.jpg", "größe.jpg".encode("cp1252")) + b"data\r\n--x--\r\n"
    assert ours(form) == [("file", "gr\ufffd\ufffde.jpg", b"data")]


def test_too_many_parts() -> None:
    assert len(ours(HEAD.replace(b"--x\r\n", b"\r\n--x\r\n") * MAX_PARTS + b"\r\n--x--\r\n")) == MAX_PARTS
    with pytest.raises(TooManyParts):
        ours((HEAD + b"\r\n") * (MAX_PARTS + 1) + b"--x--\r\n")


def test_many_strange_heads_take_no_second() -> None:
    head = HEAD[:-4] + b";" * (MAX_HEAD_BYTES - 200) + b"\r\n\r\ndata\r\n"
    body = head * (MAX_MULTIPART_BYTES // len(head)) + b"--x--\r\n"
    started = time.process_time()
    with pytest.raises(ValueError, match="heads of all parts"):
        ours(body)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("piece", [b" --x", b"\n--x", b"\r\n--x ", b"\n\n", HEAD[:-4] + b"\r\n", b"\r\n \r\n "])
def test_the_largest_body_of_what_looks_like_boundaries_takes_no_second(piece: bytes) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match=r"boundary|part"):
        ours(HEAD + piece * (MAX_MULTIPART_BYTES // len(piece)))
    assert time.process_time() - started < 1

"""Limits and formats stand in many files that cannot import them. Each copy is found here, and compared."""

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path

import pytest
from urllib3.filepost import encode_multipart_formdata

from gateway import limits
from handler.transforms import FORMAT_NAMES, FORMATS, MAX_JPEG_PIXELS, MAX_PIXELS
from scripts.batch.images import BYTES_AT_ONCE
from scripts.bench.scaling import GATEWAYS
from tests.stack import ROOT
from training import folders

KB, MB, MILLION = 1024, 1024 * 1024, 1_000_000
SUFFIXES = {suffix for known in FORMATS.values() for suffix in known.suffixes}
PAGE = "ui/UI.html ui/*.js"
DOCS = "README.md SECURITY.md docs/*.md docs/howto/*.md deploy/monitoring/**/*.md deploy/**/*.json deploy/**/*.yaml"
# In these files a pattern has to stand, with the limit in units of so many bytes or pixels.
COPIES = [
    (PAGE, r"MAX_BYTES = ([\d *]+);", limits.MAX_IMAGE_BYTES, 1),
    (PAGE, r"(?:at most|larger than) (\d+) MB", limits.MAX_IMAGE_BYTES, MB),
    ("gateway/openapi.yaml", r"(\d+) MB", limits.MAX_IMAGE_BYTES, MB),
    ("gateway/openapi.yaml", r"as many as (\d+)", limits.MAX_FILES, 1),
    ("gateway/openapi.yaml", r" class:\n +type: string\n +maxLength: (\d+)", limits.MAX_FOLDER_NAME_BYTES, 1),
    ("gateway/openapi.yaml", r" id:\n +type: string\n +maxLength: (\d+)", limits.MAX_REQUEST_ID_LENGTH, 1),
    ("gateway/openapi.yaml", r" note:\n +type: string\n +maxLength: (\d+)", limits.MAX_NOTE_LENGTH, 1),
    ("ui/UI.html", r'id="right"[^>]* maxlength="(\d+)"', limits.MAX_FOLDER_NAME_BYTES, 1),
    ("ui/UI.html", r'id="remark"[^>]* maxlength="(\d+)"', limits.MAX_NOTE_LENGTH, 1),
    ("config.properties deploy/torchserve.properties", r"max_request_size=(\d+)", limits.MAX_TORCHSERVE_BYTES, 1),
    ("config.properties", r"A (\d+) MB image", limits.MAX_IMAGE_BYTES, MB),
    ("deploy/nginx/*", r"client_(?:max_body|body_buffer)_size (\d+);", limits.MAX_TORCHSERVE_BYTES, 1),
    ("README.md", r"at most (\d+) MB", limits.MAX_IMAGE_BYTES, MB),
    ("gateway/gunicorn.conf.py", r"\bworkers = (\d+)", GATEWAYS, 1),
]
# In these files it may stand, in whichever words there are.
MENTIONS = [
    (DOCS, r"(?:at most|larger than|photos of) (\d+) MB\b", limits.MAX_IMAGE_BYTES, MB),
    (DOCS, r"more than (\d+) MB (?:are|is|get)\b", limits.MAX_IMAGE_BYTES, MB),
    (DOCS, r"as many as (\d+)", limits.MAX_FILES, 1),
    (DOCS, r"at most (\d+) (?:files|images)", limits.MAX_FILES, 1),
    (DOCS, r"(\d+) MB of JSON", limits.MAX_JSON_BYTES, MB),
    (DOCS, r"up to (\d+) kB", limits.SMALL_IMAGE_BYTES, KB),
    (DOCS, r"(\d+) in a call", limits.MAX_BATCH, 1),
    (DOCS, r"(\d+) images may wait\b", limits.MAX_WAITING_IMAGES, 1),
    (DOCS, r"added to (\d+)", limits.MAX_IMAGES_OF_SLOW_LINE, 1),
    (DOCS, r"second, (\d+) of them at least", GATEWAYS * limits.MAX_IMAGES_OF_SLOW_LINE, 1),
    (DOCS, r"at least and (\d+) at most", GATEWAYS * limits.MAX_WAITING_IMAGES, 1),
    (DOCS, r"(\d+) MB (?:together, from|of large bodies)", limits.MAX_HELD_BYTES, MB),
    (DOCS, r"(\d+) s for its headers and for each", limits.READ_SECONDS, 1),
    (DOCS, r"(\d+) s if more than \d+ bodies", limits.HURRIED_READ_SECONDS, 1),
    (DOCS, r"if more than (\d+) bodies", limits.MANY_SLOW_BODIES, 1),
    (DOCS, r"(\d+) s for all of it", limits.BODY_SECONDS, 1),
    (DOCS, r"only if it is of (\d+) letters", limits.MAX_REQUEST_ID_LENGTH, 1),
    (DOCS, r"(\d+) million pixels", MAX_PIXELS, MILLION),
    (DOCS, r"A JPEG may have (\d+)\s*million", MAX_JPEG_PIXELS, MILLION),
]


def texts(globs: str) -> Iterator[tuple[Path, str]]:
    for path in sorted({path for glob in globs.split() for path in ROOT.glob(glob) if path.is_file()}):
        yield path, path.read_text()


def copies(globs: str, pattern: str) -> list[tuple[Path, int]]:
    """Return each number that a pattern finds, and where; products are multiplied."""
    return [
        (path, prod(map(int, number.split("*"))))
        for path, text in texts(globs)
        for number in re.findall(pattern, re.sub(r"\s+", " ", text) if path.suffix == ".md" else text)
    ]


@pytest.mark.parametrize(("globs", "pattern", "limit", "unit"), COPIES + MENTIONS)
def test_a_copy_of_a_limit_is_the_limit(globs: str, pattern: str, limit: int, unit: int) -> None:
    found = copies(globs, pattern)
    assert not [(path, number) for path, number in found if number * unit != limit]
    assert {path for path, _ in found} or (globs, pattern, limit, unit) in MENTIONS
    for glob in globs.split() if (globs, pattern, limit, unit) in COPIES and globs != PAGE else ():
        assert {path for path, _ in found} & set(ROOT.glob(glob)), glob


def test_every_list_of_formats_has_them_all() -> None:
    everywhere = "*.md docs/**/*.md ui/* gateway/*.yaml *.yml scripts/**/*.py training/**/*.py gateway/**/*.py"
    pattern = re.compile(r"\bJPE?G, (?:\w+, )*\w+,? (?:or|and|nor) \w+")
    lists = {
        (path, re.sub(r",? (or|and|nor) ", ", ", text))
        for path, content in texts(everywhere)
        if path.name != "CHANGELOG.md"
        for text in pattern.findall(re.sub(r"\s+", " ", content))
    }
    names = set(FORMATS)
    assert {path.name for path, _ in lists} >= {"UI.html", "script.js", "openapi.yaml", "folders.py", "README.md"}
    assert not [(path, text) for path, text in lists if set(text.replace("JPG", "JPEG").split(", ")) != names]
    assert folders.FORMAT_NAMES == FORMAT_NAMES


def test_suffixes_are_those_of_the_formats() -> None:
    assert folders.EXTENSIONS == SUFFIXES
    (accepted,) = re.findall(r'accept="([^"]+)"', (ROOT / "ui" / "UI.html").read_text())
    assert {kind for kind in accepted.split(",") if "/" in kind} == {known.media_type for known in FORMATS.values()}
    assert {kind for kind in accepted.split(",") if "/" not in kind} <= SUFFIXES
    (photo,) = re.findall(r"const PHOTO = /(.+)/i;", (ROOT / "ui" / "script.js").read_text())
    assert all(re.search(photo, f"a{suffix}") for suffix in SUFFIXES | folders.HEIC_EXTENSIONS)
    assert {f".{suffix}" for suffix in ("bmp", "tiff", "svg", "txt")}.isdisjoint(SUFFIXES)
    assert not any(re.search(photo, f"a.{suffix}") for suffix in ("bmp", "tiff", "svg", "txt"))


def test_limits_leave_room_for_each_other() -> None:
    files = {str(number): ("image", b"", "application/octet-stream") for number in range(limits.MAX_FILES)}
    around = len(encode_multipart_formdata(files)[0])
    assert limits.MAX_IMAGE_BYTES + around <= limits.MAX_TORCHSERVE_BYTES
    assert max(limits.MAX_MULTIPART_BYTES, limits.MAX_JSON_BYTES) <= limits.MAX_BODY_BYTES <= limits.MAX_HELD_BYTES
    assert BYTES_AT_ONCE <= limits.MAX_IMAGE_BYTES

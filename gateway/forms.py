"""The parts of a body of the type multipart/form-data (RFC 7578), cut where its boundary stands.

The body lies in memory as a whole, because the gate bounds it. A few searches for the boundary find its parts then, in
a tenth of the time that a parser for streams takes.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from werkzeug.http import parse_options_header

MAX_PARTS = 1000
MAX_HEAD_BYTES = 64 * 1024  # of one part: its names may be long
MAX_HEADS_BYTES = 4 * MAX_HEAD_BYTES  # of all together, because a strange one takes a microsecond for two bytes
DISPOSITION = b"content-disposition:"
END_OF_LINE = re.compile(rb"(--)|[ \t]*\r?\n")  # behind a boundary; '--' is behind the last one
END_OF_HEAD = re.compile(rb"\r\n\r\n|\n\n")
USUAL = re.compile(r' form-data; name="([^"\\%]*)"(?:; filename="([^"\\%]*)")?')  # as most clients write it
FOLD = re.compile(rb"\r?\n[ \t]")  # a line of a head goes on behind it


class Part(NamedTuple):
    """A part: its field's name, the name of its file (None if it is no file), and where in the body its data lie."""

    name: str
    file_name: str | None
    data: slice

    @property
    def size(self) -> int:
        return self.data.stop - self.data.start


class TooManyParts(Exception):
    pass


def parts(body: bytes, boundary: str) -> Iterator[Part]:
    """Yield the parts in order. Raises ValueError if the form is torn or has another boundary, or TooManyParts."""
    if not boundary:
        raise ValueError("The boundary is empty.")
    mark = b"--" + boundary.encode("latin-1")
    begin, last = _next_line(body, mark, 0)[1:]
    heads = 0
    for _ in range(MAX_PARTS):
        if last:
            return
        name, file_name, behind = _head(body, begin)
        heads += behind - begin
        if heads > MAX_HEADS_BYTES:
            raise ValueError("The heads of all parts are too long.")
        begin = behind
        end, after, last = _next_line(body, mark, begin)
        yield Part(name, file_name, slice(begin, end))
        begin = after
    if not last:
        raise TooManyParts


def _next_line(body: bytes, mark: bytes, begin: int) -> tuple[int, int, bool]:
    """Find the next line of a boundary: where the data before it end, where that line ends, and if it is the last one.

    A boundary begins a line and ends it. Elsewhere the same letters are data.
    """
    first = not begin and body.startswith(mark)
    found = 0 if first else body.find(b"\n" + mark, max(0, begin - 1)) + 1
    line = END_OF_LINE.match(body, found + len(mark)) if first or found else None
    if not line:  # rare, but a body may be full of what looks like it, and a loop in Python would take seconds then
        line = re.compile(rb"\n%s(?:(--)|[ \t]*\r?\n)" % re.escape(mark)).search(body, max(0, begin - 1))
        if not line:
            raise ValueError("There is no further boundary.")
        found = line.start() + 1
    before = found - 2 if body[found - 2 : found] == b"\r\n" else found - 1
    return max(begin, before), line.end(), bool(line[1])


def _head(body: bytes, begin: int) -> tuple[str, str | None, int]:
    """Return the name of a part, that of its file if it is one, and where its data begin."""
    end = END_OF_HEAD.search(body, begin, begin + MAX_HEAD_BYTES)
    if not end:
        raise ValueError("The head of a part does not end.")
    for line in FOLD.sub(b" ", body[begin : end.start()]).splitlines():
        if line[: len(DISPOSITION)].lower() == DISPOSITION:
            value = line[len(DISPOSITION) :].decode(errors="replace")  # some clients write it in other codes
            if usual := USUAL.fullmatch(value):
                return usual[1], usual[2], end.end()
            _, options = parse_options_header(value)
            return options.get("name", ""), options.get("filename"), end.end()
    raise ValueError("A part does not say what it is.")

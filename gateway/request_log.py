"""Every request has an id, which its reply carries too, leaves one line of JSON in the log, and is counted."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flask import Flask, Response, g, request
from gevent import get_hub

from gateway import context, limits, metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

ID = "X-Request-ID"
USABLE_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{limits.MAX_REQUEST_ID_LENGTH}}}")  # others would be reflected and logged


class Log:
    """Writes the lines of the requests that ended together, in one piece: another process writes to the same log."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        self._lines.append(line)
        get_hub().loop.run_callback(self._write)  # in the next turn of the loop

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            with suppress(OSError):  # a log that is full or gone costs its lines alone
                os.write(sys.stdout.fileno(), "".join(lines).encode())


_LOG = Log()


class Access:
    """One request: its id, since when it is under way, the seconds it spent in TorchServe, and which version answered.

    `version` is None as long as none did, and `client` if no API key said who asks. `predictions` are to be logged.
    """

    def __init__(self, given_id: str) -> None:
        self.id = given_id if USABLE_ID.fullmatch(given_id) else uuid4().hex
        self.started = time.perf_counter()
        self.upstream = 0.0
        self.version: str | None = None
        self.client: str | None = None
        self.predictions: list[dict[str, Any]] = []

    def end(self, method: str, route: str | None, status: int) -> None:
        """Log and count the request."""
        total = time.perf_counter() - self.started
        gateway = total - self.upstream
        metrics.count_request(route, status, total, gateway)
        entry: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": self.id,
            "method": method,
            "route": route,
            "status": status,
            "gateway_ms": round(gateway * 1e3, 2),
            "upstream_ms": round(self.upstream * 1e3, 2),
            "version": self.version,
            "client": self.client,
        }
        if place := context.PLACE.get():
            entry[context.PLACE.name] = place
        if self.predictions:
            entry["predictions"] = self.predictions
        _LOG.add(f"{json.dumps(entry)}\n")


def begin(environ: "WSGIEnvironment") -> Access:
    """Begin a request: it has the id and the place in a trace that its headers say, if they can be used."""
    context.enter(environ.get("HTTP_TRACEPARENT", ""))
    return Access(environ.get("HTTP_X_REQUEST_ID", ""))


def register(app: Flask) -> None:
    @app.before_request
    def begin_request() -> None:
        g.access = begin(request.environ)

    @app.after_request
    def end(response: Response) -> Response:
        access: Access = g.access
        response.headers[ID] = access.id
        route = request.url_rule.rule if request.url_rule else None
        access.end(request.method, route, response.status_code)
        return response


@contextmanager
def upstream() -> Iterator[Access]:
    """Count the time of the block as TorchServe's."""
    access: Access = g.access
    started = time.perf_counter()
    try:
        yield access
    finally:
        access.upstream += time.perf_counter() - started

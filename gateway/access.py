"""Every request has an id, which its reply carries too, and leaves one line of JSON in the log."""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

from flask import Flask, Response, g, request

ID = "X-Request-ID"
USABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # another is not taken over, as it would be reflected and logged

log = logging.getLogger("gateway.access")


def register(app: Flask) -> None:
    @app.before_request
    def begin() -> None:
        given = request.headers.get(ID, "")
        g.id = given if USABLE_ID.fullmatch(given) else uuid4().hex
        g.started, g.upstream, g.version = time.perf_counter(), 0.0, None

    @app.after_request
    def end(response: Response) -> Response:
        response.headers[ID] = g.id
        if log.isEnabledFor(logging.INFO):
            log.info(json.dumps(_line(response.status_code)))
        return response


@contextmanager
def upstream() -> Iterator[None]:
    """Count the time of what is done within as TorchServe's."""
    started = time.perf_counter()
    try:
        yield
    finally:
        g.upstream += time.perf_counter() - started


def _line(status: int) -> dict[str, object]:
    total = time.perf_counter() - g.started
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": g.id,
        "method": request.method,
        "route": request.url_rule and request.url_rule.rule,
        "status": status,
        "gateway_ms": round((total - g.upstream) * 1e3, 2),
        "upstream_ms": round(g.upstream * 1e3, 2),
        "version": g.version,
    }

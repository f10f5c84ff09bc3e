"""The place of a request in a trace of many services, from the gateway's door to TorchServe.

See https://www.w3.org/TR/trace-context. The thread that calls TorchServe is not the one that has the request.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HEADER = "traceparent"
USABLE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
PLACE: ContextVar[str] = ContextVar(HEADER, default="")  # empty if the request is in no trace


@contextmanager
def at(place: str) -> Iterator[None]:
    """Do the work of the block for the request that has this place."""
    before = PLACE.set(place)
    try:
        yield
    finally:
        PLACE.reset(before)

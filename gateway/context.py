"""Headers that go along with a call to the model, from the gateway's door to TorchServe.

The thread that calls TorchServe is not the one that has the request.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")

# The place of the request in a trace of many services, or nothing; see https://www.w3.org/TR/trace-context.
PLACE: ContextVar[str] = ContextVar("traceparent", default="")
USABLE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# How far the call gives way to others on the machine, as nice(2) has it: 19 gives way to everybody.
NICENESS: ContextVar[int] = ContextVar("niceness", default=0)


def enter(traceparent: str) -> None:
    """Begin a request, whose connection may have had another one. It tells its place, if that can be used."""
    PLACE.set(traceparent if USABLE.fullmatch(traceparent) else "")


@contextmanager
def set_to(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    """Do the work of the block with this value."""
    before = variable.set(value)
    try:
        yield
    finally:
        variable.reset(before)

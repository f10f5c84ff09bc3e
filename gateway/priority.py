"""How far a call to the model gives way to the others on the machine, from the gateway to the worker that runs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HEADER = "niceness"
NICENESS: ContextVar[int] = ContextVar(HEADER, default=0)  # as of nice(2): 19 gives way to everybody


@contextmanager
def giving_way(niceness: int) -> Iterator[None]:
    """Give way to others in the calls of the block, if the backend can."""
    before = NICENESS.set(niceness)
    try:
        yield
    finally:
        NICENESS.reset(before)

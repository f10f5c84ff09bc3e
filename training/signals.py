"""Signals that end a command as Ctrl-C does, so that it can put back what it has begun."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Handle SIGNALS until the block ends; one that was inherited as ignored, as nohup's, stays ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number, earlier in before.items() if earlier != signal.SIG_IGN]
    try:
        for number in handled:
            signal.signal(number, handler)
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, once."""
    for repeated in SIGNALS:  # make hands on a signal that its group has got already
        signal.signal(repeated, signal.SIG_IGN)
    raise KeyboardInterrupt

"""Signals end a command as Ctrl-C does."""

import os
import signal

import pytest

from training.signals import SIGNALS, handling, interrupt


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_once_so_that_what_was_begun_can_be_put_back(number: signal.Signals) -> None:
    put_back = []
    before = [signal.getsignal(each) for each in SIGNALS]

    def work() -> None:
        with handling(interrupt):
            try:
                os.kill(os.getpid(), number)
            finally:
                os.kill(os.getpid(), number)
                put_back.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert put_back
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_signal_that_was_ignored_before_stays_ignored() -> None:
    caught = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with handling(lambda number, frame: caught.append(number)):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)

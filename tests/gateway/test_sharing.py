"""Connections of a gateway of two processes: each gets its share, and none waits for a process that does nothing."""

import contextlib
import socket
import time
from pathlib import Path

import gevent
import psutil
import requests

from gateway.sharing import PLACES, SLACK, Counts, SharingServer
from tests.gateway.test_request_log import gateway_alone
from tests.stack import GATEWAY, Stack, wait_until


def shares(gateway: Stack) -> list[int]:
    """Return how many connections each process has."""
    port = int(gateway.url.rpartition(":")[2])
    kept = [process.net_connections("tcp") for process in gateway.processes(GATEWAY)]
    return [sum(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in some) for some in kept]


def both_serve(gateway: Stack) -> bool:
    with contextlib.closing(gateway.connect()), contextlib.closing(gateway.connect()):
        time.sleep(0.1)
        return shares(gateway) == [1, 1]


def test_processes_get_as_many_connections_each(tmp_path: Path) -> None:
    with gateway_alone(tmp_path, str(tmp_path / "log"), processes=2) as alone, contextlib.ExitStack() as stack:
        wait_until(lambda: both_serve(alone))
        for _ in range(20):
            stack.enter_context(contextlib.closing(alone.connect()))
        wait_until(lambda: sum(shares(alone)) == 20)
        assert min(shares(alone)) >= 6  # a busy machine may wake one of them too late at times


def test_none_waits_for_a_process_that_does_nothing(tmp_path: Path) -> None:
    with gateway_alone(tmp_path, str(tmp_path / "log"), processes=2) as alone:
        wait_until(lambda: both_serve(alone))
        stopped = alone.processes(GATEWAY)[0]
        stopped.suspend()
        try:
            with contextlib.ExitStack() as stack:
                started = time.monotonic()
                for _ in range(20):
                    session = stack.enter_context(requests.Session())
                    assert session.get(f"{alone.url}/live", timeout=10).ok
                assert time.monotonic() - started < 10
        finally:
            stopped.resume()


def test_a_process_that_has_gone_counts_no_more() -> None:
    counts = Counts()
    one, other = counts.take(), counts.take()
    assert not counts.has_more(one)
    counts.add(one, 1)
    assert counts.has_more(one)
    assert not counts.has_more(other)
    counts.leave(other)
    assert not counts.has_more(one)
    assert [counts.take() for _ in range(PLACES - 1)].count(other) == 1


def test_a_process_may_be_ahead_by_a_few_of_many() -> None:
    counts = Counts()
    one, other = counts.take(), counts.take()
    counts.add(other, 10 * SLACK)
    counts.add(one, 11 * SLACK)
    assert not counts.has_more(one)
    counts.add(one, SLACK)
    assert counts.has_more(one)


def test_connections_that_come_at_once_are_taken_before_one_is_served() -> None:
    """Otherwise the last of them would wait for all that came before."""
    counts = Counts()
    taken: list[object] = []
    taken_when_served: list[int] = []

    def serve(*connection: object) -> None:
        taken.append(connection)
        gevent.sleep(0)  # a turn of the loop
        taken_when_served.append(len(taken))

    place = counts.take()
    server = SharingServer(counts, place, ("127.0.0.1", 0), handle=serve, backlog=50)
    server.init_socket()
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(socket.create_connection(server.address))
        server.start()
        gevent.sleep(0.1)
        server.stop()
    assert taken_when_served == [50] * 50
    counts.take()
    assert not counts.has_more(place)  # as all have been closed

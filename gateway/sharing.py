"""New connections, shared out evenly among the processes of the gateway.

Otherwise the process that wakes up first gets a connection, which is often the same one again. Then its clients wait
while another process has little to do.
"""

from mmap import mmap
from typing import Any

from gevent.server import StreamServer

PLACES = 256  # for processes, those that are ending included
SLACK = 8  # a process may be ahead by an eighth of its connections, so that it can take several at a time
PATIENCE = 0.001  # seconds for a process with fewer connections to take the next one
FREE, FIRST = 0, 1  # a place that no process has, and that of a process without a connection


class Counts:
    """How many connections each process has. All of them share its memory, if it is made before they are."""

    def __init__(self) -> None:
        self._places = memoryview(mmap(-1, 4 * PLACES)).cast("i")

    def take(self) -> int:
        """Take a place for a process."""
        place = self._places.tolist().index(FREE)
        self._places[place] = FIRST
        return place

    def leave(self, place: int) -> None:
        self._places[place] = FREE

    def add(self, place: int, connections: int) -> None:
        self._places[place] += connections

    def has_more(self, place: int) -> bool:
        """Say whether the process is ahead of another one by more connections than SLACK allows."""
        mine = self._places[place]
        return any(FREE < other < mine - mine // SLACK for other in self._places)


class SharingServer(StreamServer):
    """Takes a connection at once, or after PATIENCE if another process has fewer and has not taken it by then.

    It takes several at a time. If it took a single one each time that it looks, the last of a hundred that come at once
    would wait while all that came before them are served.
    """

    max_accept = 100

    def __init__(self, counts: Counts, place: int, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._counts, self._place, self._patient = counts, place, True

    def do_read(self) -> Any:
        """Accept a connection, or return None."""
        if self._patient and self._counts.has_more(self._place):
            self.stop_accepting()
            self._timer = self.loop.timer(PATIENCE)
            self._timer.start(self._accept_what_is_left)
            return None
        self._patient = True
        if accepted := super().do_read():
            self._counts.add(self._place, 1)
        return accepted

    def do_close(self, *connection: Any) -> None:
        super().do_close(*connection)
        self._counts.add(self._place, -1)

    def _accept_what_is_left(self) -> None:
        if self.started:
            self._patient = False
            self.start_accepting()
            self._do_read()
            self._patient = True

"""One gate for every route that costs: it counts the images that wait and the bytes that are held, and refuses more.

A flood would take the memory and time of all clients. So a request that declares its length is refused before Flask
begins with it, and before its body is read.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from queue import SimpleQueue
from threading import Event, Lock, Semaphore, Thread
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

from flask import Flask
from gevent import Timeout, sleep
from werkzeug.exceptions import RequestTimeout

from gateway import context, limits, metrics
from gateway.backend import Busy, TooSlow
from gateway.error_handlers import RETRY_AFTER, failure
from gateway.keys import sent_key
from gateway.request_log import ID, begin

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATHS = ("/predict", "/predict_base64", "/explain")
TOGETHER = 0.05  # seconds; refusals that wait leave together, because each time that the process wakes up costs
Work = TypeVar("Work")


class SlowBody(RequestTimeout):
    description = "The request took too long to arrive. Send it again."


@dataclass(eq=False, slots=True)
class Turn(Generic[Work]):
    """Work that waits for its call: on how many images, which part of a call it takes, and since when (perf_counter).

    `place` is that of its request in a trace. When it is done, `outcome` is its answer, or an exception.
    """

    work: Work
    images: int
    part: float
    place: str = field(default_factory=context.PLACE.get)
    outcome: Any = None
    done: Event = field(default_factory=Event)
    since: float = field(default_factory=time.perf_counter)

    def end(self, outcome: Any) -> None:
        self.outcome = outcome
        self.done.set()


class Line(Generic[Work]):
    """Work that waits, in the order it came. It is full with MAX_WAITING_IMAGES images, or fewer if the first is late.

    `timeout`, in seconds, is that of one request. It may wait for half of that, so that its call has the other half.
    """

    def __init__(self, size: str, timeout: float) -> None:
        self._timeout = timeout
        self._turns: deque[Turn[Work]] = deque()
        self._lock, self._came = Lock(), SimpleQueue[None]()
        self._gauge = metrics.IMAGES_WAITING.labels(size)
        self.images = 0  # that wait,
        self._first_since = math.inf  # the first of them, as perf_counter has it
        self._late_since: float | None = None  # monotonic, if no work has been done in time since then

    def full(self) -> bool:
        if self.images >= limits.MAX_WAITING_IMAGES:
            return True
        is_slow = time.perf_counter() > self._first_since + limits.SLOW_LINE_SECONDS
        return is_slow and self.images >= limits.MAX_IMAGES_OF_SLOW_LINE

    def wait(self, work: Work, images: int = 1, part: float = 1, spent: float = 0) -> Any:
        """Return the answer. Raises Busy if the line is full or too slow, TooSlow if the call is, and its errors.

        The work takes `part` of a call, so that more of it may share the call. Its request has waited `spent` seconds
        for other calls.
        """
        if spent >= self._timeout:
            raise TooSlow
        turn = Turn(work, images, part)
        with self._lock:
            if self.full():
                raise Busy
            self._turns.append(turn)
            self._count(images)
        self._came.put(None)
        outcome = self._outcome(turn, (self._timeout - spent) / 2)
        self.answered(late=isinstance(outcome, (Busy, TooSlow)))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def skip(self, call: Callable[[], Any], spent: float = 0) -> Any:
        """Return the answer of a call for work that does not wait. It has all the time that its request has left.

        Raises TooSlow, and what the call raises.
        """
        if spent >= self._timeout:
            raise TooSlow
        metrics.QUEUE.observe(0)
        limit = Timeout(self._timeout - spent)
        try:
            with limit:
                answer = call()
        except Timeout as ended:
            if ended is not limit:
                raise
            self.answered(late=True)
            raise TooSlow from None
        except Exception as error:
            self.answered(late=isinstance(error, (Busy, TooSlow)))
            raise
        self.answered()
        return answer

    def answered(self, late: bool = False) -> None:
        """Note that work has ended, in time or late."""
        self._late_since = (self._late_since or time.monotonic()) if late else None

    def stuck(self) -> bool:
        """Return whether nothing has been answered for the time of a request, although there was work."""
        return self._late_since is not None and time.monotonic() > self._late_since + self._timeout

    def _outcome(self, turn: Turn[Work], half: float) -> Any:
        if not turn.done.wait(half):
            if self._leave(turn):
                return Busy()
            if not turn.done.wait(half):
                return TooSlow()
        return turn.outcome

    def wake(self) -> None:
        """Let `take` look again, if there is work."""
        if self.images:
            self._came.put(None)

    def take(self, may: Callable[[], bool] = lambda: True) -> list[Turn[Work]]:
        """Wait until there is work, and it `may` be done; returns the first turns, as many as make up one call."""
        turns: list[Turn[Work]] = []
        while not turns:
            self._came.get()
            with self._lock:
                left = 1.0
                while may() and self._turns and (not turns or self._turns[0].part <= left):
                    turns.append(self._turns.popleft())
                    left -= turns[-1].part
                self._count(-sum(turn.images for turn in turns))
        now = time.perf_counter()
        for turn in turns:
            metrics.QUEUE.observe(now - turn.since)
        return turns

    def _leave(self, turn: Turn[Work]) -> bool:
        """Give up a place, and let go of the images; returns whether it was time, before the call began."""
        with self._lock:
            if turn not in self._turns:
                return False
            self._turns.remove(turn)
            self._count(-turn.images)
            return True

    def _count(self, images: int) -> None:
        self.images += images
        self._first_since = self._turns[0].since if self._turns else math.inf
        self._gauge.set(self.images)


class Gate:
    """The images and bytes that a process holds, and its calls: small images in one line, all others in another.

    At most `calls` are under way at once for each line, because TorchServe holds several copies of each in memory. The
    images that a canary answers have a line of their own, so that nobody else waits for it. Half of the time that a
    request may take is theirs, because the served version answers if the canary does not.
    """

    def __init__(self, calls: int, timeout: float) -> None:
        self.small: Line[bytes] = Line("small", timeout)  # batches.py sends these
        self.large: Line[Callable[[], Any]] = Line("large", timeout)
        self.canary: Line[bytes] = Line("canary", timeout / 2)  # traffic.py sends these
        self.slow_bodies = 0
        self._explanations = Semaphore(limits.MAX_EXPLANATIONS)
        self._held, self._lock = 0, Lock()
        for _ in range(calls):
            Thread(target=self._call_for_ever, daemon=True).start()

    def waiting(self) -> int:
        """Return how many images wait for the served version."""
        return self.small.images + self.large.images

    def check(self, size: int) -> None:
        """Raise Busy if a body of `size` bytes would find no place."""
        line = self.small if size <= limits.SMALL_IMAGE_BYTES else self.large
        counted = 0 if size <= limits.UNCOUNTED_BYTES else min(size, limits.MAX_BODY_BYTES)
        if line.full() or (counted and self._held + counted > limits.MAX_HELD_BYTES):
            raise Busy

    def hold(self, size: int, share: float = 1) -> None:
        """Count bytes that were read, until they are released. Raises Busy if a share of all would be exceeded."""
        with self._lock:
            if self._held + size > share * limits.MAX_HELD_BYTES:
                raise Busy
            self._held += size

    def release(self, size: int) -> None:
        with self._lock:
            self._held -= size

    def call(self, work: Callable[[], Any], images: int = 1, spent: float = 0) -> Any:
        """Do work with the model that is not one small image. Raises what Line.wait does."""
        return self.large.wait(work, images, spent=spent)

    def explain(self, work: Callable[[], Any]) -> Any:
        """Do the same, but raise Busy if MAX_EXPLANATIONS are being made or wait."""
        if not self._explanations.acquire(blocking=False):
            raise Busy("Too many explanations are being made.")
        try:
            return self.call(work)
        finally:
            self._explanations.release()

    def _call_for_ever(self) -> None:
        while True:
            (turn,) = self.large.take()
            try:
                with context.set_to(context.PLACE, turn.place):
                    turn.end(turn.work())
            except Exception as error:  # whatever it is, nobody is left waiting
                turn.end(error)
            del turn  # with its images, while the next is waited for


class Body:
    """A body that counts as it is read, and that has to arrive in time. Small ones are not counted: connections are."""

    def __init__(self, gate: Gate, stream: IO[bytes], declared: int | None) -> None:
        self._gate, self._stream = gate, stream
        self._counts = declared is None or declared > limits.UNCOUNTED_BYTES
        self._until = time.monotonic() + limits.BODY_SECONDS
        self._declared = declared or 0
        self._held = 0

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes. Raises Busy if there is no place for them, SlowBody if they do not come in time."""
        if not self._held:
            self._gate.check(self._declared)
        data = self._read(size)
        if self._counts:
            self._gate.hold(len(data))
            self._held += len(data)
        return data

    def release(self) -> None:
        if self._held:
            self._gate.release(self._held)

    def _read(self, size: int) -> bytes:
        if getattr(self._stream, "complete", False):  # it is all here, as small bodies are
            return self._stream.read(size)
        gate = self._gate
        patience = limits.HURRIED_READ_SECONDS if gate.slow_bodies >= limits.MANY_SLOW_BODIES else limits.READ_SECONDS
        gate.slow_bodies += 1
        try:
            with Timeout(min(patience, max(self._until - time.monotonic(), 0)), SlowBody):
                return self._stream.read(size)
        finally:
            gate.slow_bodies -= 1


class Pace:
    """When the next refusals may leave, so that a flood takes little time from those who are answered."""

    def __init__(self) -> None:
        self._next = 0.0  # as monotonic has it

    def wait(self) -> None:
        """Wait until a refusal may leave: REFUSALS_A_SECOND at once, more of them after REFUSAL_SECONDS at most."""
        now = time.monotonic()
        leaves = min(max(self._next, now), now + limits.REFUSAL_SECONDS)
        self._next = leaves + 1 / limits.REFUSALS_A_SECOND
        if leaves > now:
            sleep(math.ceil(leaves / TOGETHER) * TOGETHER - now)


class Admission:
    """WSGI middleware around `app`. A page is refused by its Body, in Flask, which knows what CORS allows."""

    def __init__(self, app: Flask) -> None:
        self._app, self._next, self._pace = app, app.wsgi_app, Pace()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH")
        if not length and "HTTP_TRANSFER_ENCODING" not in environ:
            return self._next(environ, start_response)
        gate: Gate = self._app.extensions["gate"]
        declared = int(length) if length else None
        if environ["PATH_INFO"] in PATHS and environ["REQUEST_METHOD"] == "POST" and "HTTP_ORIGIN" not in environ:
            try:
                gate.check(declared or 0)
            except Busy as full:
                return self._refuse(str(full), environ, start_response)
        body = environ["wsgi.input"] = Body(gate, environ["wsgi.input"], declared)
        try:
            return self._next(environ, start_response)
        finally:
            body.release()

    def _refuse(self, message: str, environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
        access = begin(environ)
        self._pace.wait()
        status, body = 503, _refusal(message)
        if (keys := self._app.extensions.get("keys")) and (client := keys.client(sent_key(environ))):
            access.client = client.name
            metrics.count_client(client.name, status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), ID: access.id, **RETRY_AFTER}
        start_response(f"{status} SERVICE UNAVAILABLE", list(headers.items()))
        access.end(environ["REQUEST_METHOD"], environ["PATH_INFO"], status)
        return [body]


@cache
def _refusal(message: str) -> bytes:
    return json.dumps(failure(message, 503)[0]).encode()

"""A client that writes down what became of every request, by its id."""

import asyncio
import contextlib
import json
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import aiohttp
import numpy as np

from gateway.limits import TIMEOUT
from gateway.request_log import ID
from handler.transforms import decode_image
from tests.drawing import TEN, draw, encode
from tests.replies import assert_tells_nothing
from training.checkpoint import load_checkpoint
from training.inputs import read_all
from training.metrics import predict

PATIENCE = 30  # seconds, after which a request hangs
CLIENTS = 32  # of a closed loop
FLOOD = Path(__file__).with_name("flood.lua")
FORM = "multipart/form-data; boundary=x"


Pictures = list[tuple[bytes, str]]  # image files, and the classes they are of


@dataclass
class Entry:
    """One request: when it was sent (seconds, monotonic), how long it took, what became of it, and its id."""

    sent: float
    seconds: float
    outcome: str
    id: str = ""


class Ledger:
    """The requests of one load on `url`; `pictures` are the files to send with the classes they are of."""

    def __init__(self, url: str, pictures: Pictures) -> None:
        self.url, self.pictures = url, pictures
        self.entries: list[Entry] = []
        self._numbers = count()

    def outcomes(self) -> Counter[str]:
        return Counter(entry.outcome for entry in self.entries)

    def rate(self, seconds: float) -> float:
        """Return right answers a second, in so many seconds from the first request."""
        until = min(entry.sent for entry in self.entries) + seconds
        done = sum(entry.outcome == "right" and entry.sent + entry.seconds <= until for entry in self.entries)
        return done / seconds

    def took(self, outcome: str, percentile: float) -> float:
        """Return a percentile of the seconds that requests of one outcome took."""
        seconds = [entry.seconds for entry in self.entries if entry.outcome == outcome]
        return float(np.percentile(seconds, percentile)) if seconds else float("nan")

    def closed_loop(self, seconds: float, clients: int = CLIENTS) -> float:
        """Ask from so many clients, each as soon as it has its answer; returns right answers a second."""
        _run(self._closed_loop(seconds, clients))
        return self.outcomes()["right"] / seconds

    def open_loop(self, rate: float, seconds: float) -> None:
        """Ask so often a second, whatever becomes of it."""
        _run(self._open_loop(rate, time.monotonic() + seconds, threading.Event()))

    def flood(self, rate: float, seconds: float, connections: int, answers: float = 150) -> None:
        """Ask so often a second, as long as a connection is free; by wrk, which takes a tenth of this client's CPU.

        `answers` a second can be given, so that it waits long enough for the last ones.
        """
        with tempfile.TemporaryDirectory() as folder:
            for index, (picture, _) in enumerate(self.pictures):
                Path(folder, str(index)).write_bytes(form(picture))
            command = ["wrk", "--threads", "1", "--connections", str(connections), "--script", str(FLOOD)]
            settling = 2 + min(TIMEOUT, 1.5 * connections / answers)  # seconds until the last has its answer
            command += ["--duration", f"{seconds + settling:.0f}s", "--timeout", f"{PATIENCE}s", f"{self.url}/predict"]
            told = Path(folder, "ledger")
            arguments = [folder, str(len(self.pictures)), str(rate), str(seconds), str(told)]
            subprocess.run([*command, "--", *arguments], check=True, capture_output=True)
            asked = told.read_text().splitlines()
        answered = [line.split("\t") for line in asked if line != "asked"]
        self.entries += map(self._flooded, answered)
        self.entries += [Entry(float("inf"), PATIENCE, "unanswered")] * (len(asked) - 2 * len(answered))

    @contextlib.contextmanager
    def under_load(self, rate: float) -> Iterator[None]:
        """Ask so often a second until the block ends and the last answer is there."""
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(asyncio.run, self._open_loop(rate, float("inf"), stop))
            try:
                yield
            finally:
                stop.set()
            load.result()

    def _flooded(self, told: list[str]) -> Entry:
        number, sent, seconds, status, retry_after, body = told
        _, label = self.pictures[int(number) % len(self.pictures)]
        outcome = _outcome(int(status), bool(retry_after), json.loads(body), label) if int(number) else "without its id"
        return Entry(float(sent), float(seconds), outcome)

    async def _closed_loop(self, seconds: float, clients: int) -> None:
        until = time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < until:
                await self._ask(session)

        async with _session() as session:
            await asyncio.gather(*(client() for _ in range(clients)))

    async def _open_loop(self, rate: float, until: float, stop: threading.Event) -> None:
        start = time.monotonic()
        async with _session() as session, asyncio.TaskGroup() as group:
            for number in count():
                due = start + number / rate
                if due > until or stop.is_set():
                    return
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._ask(session))

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        number = next(self._numbers)
        picture, label = self.pictures[number % len(self.pictures)]
        headers = {ID: f"request-{number}", "Content-Type": FORM}
        sent = time.monotonic()
        try:
            async with session.post(f"{self.url}/predict", data=form(picture), headers=headers) as response:
                body = await response.json(content_type=None)
                named = response.headers.get(ID) == headers[ID]
                later = "Retry-After" in response.headers
                outcome = _outcome(response.status, later, body, label) if named else "without its id"
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            outcome = type(error).__name__
        self.entries.append(Entry(sent, time.monotonic() - sent, outcome, headers[ID]))


def form(picture: bytes) -> bytes:
    """Return the body of an upload, whose content type is FORM."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="picture"\r\n\r\n'
    return head + picture + b"\r\n--x--\r\n"


def labelled_pictures(checkpoint: Path, each: int = 3) -> Pictures:
    """Draw pictures of every class, with the class that the checkpoint gives them offline."""
    files = [encode(draw(name, seed), "JPEG") for name in TEN for seed in range(each)]
    held = load_checkpoint(checkpoint)
    logits, _ = predict(held.classifier(), read_all(map(decode_image, files), held.inputs))
    return [(file, held.card["classes"][index]) for file, index in zip(files, logits.argmax(1).tolist(), strict=True)]


def _run(load: Coroutine[None, None, None]) -> None:
    """Run a load in a thread of its own, as Playwright keeps a loop running in that of the tests."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, load).result()


def _session() -> aiohttp.ClientSession:
    # A connection is let go before gunicorn closes it in the middle of a request.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE))


def _outcome(status: int, retry_after: bool, body: dict[str, object], label: str) -> str:
    """Return `right`, `refused` (come again later), or what is wrong with a reply."""
    assert_tells_nothing(status, str(body))
    if status == 200:
        return "right" if body["predicted_class"] == label else f"{body['predicted_class']} instead of {label}"
    return "refused" if status in (429, 503) and retry_after else str(status)

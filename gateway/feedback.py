"""Feedback: images with the classes that people say are right, in a folder that is shaped as training data.

An image lies as <class>/<sha256>.<ext>, and beside it <sha256>.jsonl has a line for each time that somebody said so.
Nothing learns from them until a person has reviewed them.
"""

import hashlib
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from threading import get_native_id
from typing import Any

from flask import Blueprint, abort, current_app, g
from gevent import Timeout, get_hub, sleep
from gevent.event import AsyncResult
from werkzeug.exceptions import HTTPException

from gateway import bodies, limits
from gateway.backend import Prediction
from gateway.pixels import pixels
from gateway.request_log import USABLE_ID

RECENT = "recent"  # the folder of images that were just predicted, among what all processes have in common
UNLABELLED = ".unlabelled"  # the folder of images that nobody has given a class; training leaves it out
UNSURE = 0.5  # confidence below which a prediction is worth a person's look
RECENT_BYTES = 16 * 1024 * 1024  # of images that a request's id finds, in memory, of each process
SECONDS_BETWEEN_SCANS = 60
DISK_SECONDS = 10  # that feedback waits for a disk, which may be far away
MAX_JOBS = 3  # on the disk at once, of the ten threads of a process
BLOCK_BYTES = 4096  # that the smallest file takes on disk
MAX_IMAGES = 10_000  # that wait for a review, because a scan of more takes too long
ENDINGS = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}  # of a file, by its first bytes
HEIC, HEIC_MAGIC = "heic", re.compile(rb".{4}ftyp(hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL)  # as handler.transforms
IMAGE = re.compile(r"[0-9a-f]{64}\.(?:jpg|png|gif|webp|heic)")
OWN = re.compile(rf"{IMAGE.pattern}|\.?[0-9a-f]{{64}}\.(?:jsonl|\d+\.part)")  # no other file is ever deleted
# A class is the name of a folder, on other systems too.
NO_CLASS = re.compile(r"""[\x00-\x1f/\\:*?"<>|\x7f]|^[. ]|[. ]$|^$""")

logger = logging.getLogger(__name__)
blueprint = Blueprint("feedback", __name__)
blueprint.before_request(bodies.check_encoding)


class NoPlace(HTTPException):
    """The folder for feedback is full, or its disk."""

    code, name = HTTPStatus.INSUFFICIENT_STORAGE, HTTPStatus.INSUFFICIENT_STORAGE.phrase
    description = "The folder for feedback is full, or cannot be written. Ask who runs this server to review it."


class Feedback:
    """Keeps feedback in `folder`, of at most `max_bytes`, none of it longer than `max_seconds`.

    `recent` is a folder in memory for images that were just predicted. `share` is the part of the unsure predictions
    and outliers whose images are kept too, for a person to label.
    """

    def __init__(self, folder: Path, max_bytes: int, max_seconds: float, share: float, recent: Path) -> None:
        self._folder, self._max_bytes, self._max_seconds, self._share = folder, max_bytes, max_seconds, share
        self._recent, self._mine = recent, recent / str(os.getpid())  # gunicorn.conf.py deletes it with the process
        self._remembered: dict[Path, int] = {}  # the files and their bytes, the oldest first
        self._held = 0  # bytes of them
        self._bytes, self._images, self._scanned = 0, 0, -float("inf")
        self._jobs: set[object] = set()  # that are under way
        self._scanning = False

    def remember(self, request_id: str, image: bytes, prediction: Prediction) -> None:
        """Keep a predicted image for a while, so that the request's id is enough to speak of it."""
        known = {
            "id": request_id,
            "predicted_class": prediction["predicted_class"],
            "confidence": prediction["confidence"],
            "in_distribution": prediction["in_distribution"],
            "version": prediction["version"],
            "client": g.access.client,
        }
        with suppress(OSError):  # no feedback is worth a prediction
            self._remember(_name_of(request_id), json.dumps(known).encode() + b"\n" + image)
        self.scan_if_due()  # so that what is too old goes, though nobody tells anything
        unsure = prediction["confidence"] < UNSURE or not prediction["in_distribution"]
        is_drawn = random.random() < self._share  # noqa: S311  for a sample, not a secret
        if unsure and is_drawn and self._has_place(len(image)) and _ending(image):
            self._begin(self._keep, image, UNLABELLED, known)

    def recall(self, request_id: str) -> tuple[dict[str, Any], bytes] | None:
        """Return what is known of a request of the same client, and its image, if that is still there."""
        found = []
        for file in self._recent.glob(f"*/{_name_of(request_id)}"):
            with suppress(OSError, ValueError):  # the last for a file that is torn
                text, _, image = file.read_bytes().partition(b"\n")
                found.append((file.stat().st_mtime_ns, json.loads(text), image))
        if not found:
            return None
        _, known, image = max(found, key=lambda each: each[0])  # a client may use an id again
        return known, image

    def keep(self, image: bytes, class_name: str, known: dict[str, Any]) -> str:
        """Write an image and a line on it; returns its path in the folder. Raises NoPlace."""
        if scan := self.scan_if_due():
            scan.wait(DISK_SECONDS)
        until = time.monotonic() + DISK_SECONDS
        while len(self._jobs) >= MAX_JOBS and time.monotonic() < until:
            sleep(0.02)
        job = self._begin(self._keep, image, class_name, known) if self._has_place(len(image)) else None
        try:
            kept = job.get(timeout=DISK_SECONDS) if job else None
        except Timeout:
            kept = None
        if kept is None:
            raise NoPlace
        return kept

    def _begin(self, work: Callable[..., Any], *arguments: Any) -> AsyncResult | None:
        """Begin work on the disk in a real thread; None if MAX_JOBS have not ended, as on a drive that has gone."""
        if len(self._jobs) >= MAX_JOBS:
            return None
        job = object()

        def run() -> Any:
            try:
                return work(*arguments)
            finally:
                self._jobs.discard(job)

        self._jobs.add(job)
        return get_hub().threadpool.spawn(run)

    def _keep(self, image: bytes, class_name: str, known: dict[str, Any]) -> str | None:
        try:
            return self._store(image, class_name, known)
        except OSError:
            logger.exception("Feedback cannot be kept.")
            return None

    def _store(self, image: bytes, class_name: str, known: dict[str, Any]) -> str:
        digest = hashlib.sha256(image).hexdigest()
        file = self._folder / class_name / f"{digest}.{_ending(image)}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            os.utime(file)  # it is as young as the last that was said of it
        else:
            _write(file, file.with_name(f".{digest}.{os.getpid()}{get_native_id()}.part"), image)
            self._bytes += len(image) + 2 * BLOCK_BYTES
            self._images += 1
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **known}) + "\n"
        with file.with_suffix(".jsonl").open("a") as lines:
            lines.write(line)
        self._bytes += len(line)
        return f"{class_name}/{file.name}"

    def _has_place(self, size: int) -> bool:
        return self._bytes + size <= self._max_bytes and self._images < MAX_IMAGES

    def scan_if_due(self) -> AsyncResult | None:
        """Begin a scan of the folder if the last one is old, and return it; None if none is due, or one under way."""
        if self._scanning or time.monotonic() - self._scanned <= SECONDS_BETWEEN_SCANS:
            return None
        self._scanning, self._scanned = True, time.monotonic()
        job = self._begin(self._scan_once)
        if not job:
            self._scanning = False
        return job

    def _scan_once(self) -> None:
        try:
            self._bytes, self._images = self._scan()
        finally:
            self._scanning = False

    def _scan(self) -> tuple[int, int]:
        """Return the bytes that the folder takes on disk, and its images. Deletes old ones, but no files of others."""
        oldest, total, images = time.time() - self._max_seconds, 0, 0
        for file in self._folder.rglob("*"):
            with suppress(OSError):  # it may go meanwhile
                found = file.stat()
                if OWN.fullmatch(file.name) and found.st_mtime < oldest:
                    file.unlink()
                else:
                    total += found.st_blocks * 512
                    images += bool(IMAGE.fullmatch(file.name))
        return total, images

    def _remember(self, name: str, content: bytes) -> None:
        """Write a file of this process's share of memory, for which its oldest ones make place first."""
        file = self._mine / name
        self._held += len(content) - self._remembered.pop(file, 0)
        while self._remembered and self._held > RECENT_BYTES:
            oldest = next(iter(self._remembered))
            oldest.unlink(missing_ok=True)
            self._held -= self._remembered.pop(oldest)
        self._remembered[file] = len(content)
        self._mine.mkdir(parents=True, exist_ok=True)  # which may have been tidied away
        _write(file, file.with_suffix(".part"), content)


@blueprint.post("/feedback")
def feedback() -> dict[str, Any]:
    store: Feedback | None = current_app.extensions.get("feedback")
    if not store:
        abort(404, "This server keeps no feedback.")
    files, fields = bodies.form(at_most=1)
    class_name, note = fields.get("class", "").strip(), fields.get("note", "").strip()
    if len(os.fsencode(class_name)) > limits.MAX_FOLDER_NAME_BYTES:
        abort(400, f"The right class may have {limits.MAX_FOLDER_NAME_BYTES} bytes; its name is longer.")
    if NO_CLASS.search(class_name):
        abort(400, "Send the right class in the field 'class': the name of a folder, without marks such as / or :.")
    if len(note) > limits.MAX_NOTE_LENGTH:
        abort(400, f"The note is too long; it may have {limits.MAX_NOTE_LENGTH} characters.")
    known, image = _meant(store, files, fields.get("id", ""))
    if not _ending(image) or not (pixels(image) or _ending(image) == HEIC):
        abort(415, "The file is not a JPEG, PNG, GIF or WebP. Send the image that was predicted.")
    said = known | {"class": class_name, "note": note, "client": g.access.client}
    return {"kept": store.keep(image, class_name, said), "success": True}


def _meant(store: Feedback, files: list[bytes], request_id: str) -> tuple[dict[str, Any], bytes]:
    """Return the image and the prediction of it, if that is known; aborts with 400, or with 404 without an image."""
    recalled = store.recall(request_id) if USABLE_ID.fullmatch(request_id) else None
    if files:
        known, image = recalled or ({}, b"")
        return (known if image == files[0] else {}), files[0]
    if not request_id:
        abort(400, "Send the image in the field 'file', or the X-Request-ID of its prediction in the field 'id'.")
    if not recalled:
        abort(404, "The image of this request is no longer there. Send it in the field 'file'.")
    return recalled


def _ending(image: bytes) -> str:
    """Return the ending of an image file's name; empty if it is none."""
    if HEIC_MAGIC.match(image):
        return HEIC
    return next((ending for start, ending in ENDINGS.items() if image.startswith(start)), "")


def _name_of(request_id: str) -> str:
    """Return the name of a file for a request of this client. Two clients may use the same id."""
    return hashlib.sha256(f"{g.access.client} {request_id}".encode()).hexdigest()


def _write(file: Path, part: Path, content: bytes) -> None:
    """Write a file whole or not at all, by way of another one beside it. Raises OSError."""
    try:
        part.write_bytes(content)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)

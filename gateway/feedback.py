"""Feedback: images with the classes that people say are right, in a folder that is shaped as training data.

An image lies as <class>/<sha256>.<ext>, and beside it <sha256>.jsonl has a line for each time that somebody said so.
Nothing learns from them until a person has reviewed them.
"""

import hashlib
import json
import os
import random
import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Blueprint, abort, current_app, g, request
from werkzeug.exceptions import HTTPException

from gateway import bodies, limits
from gateway.backend import Prediction
from gateway.request_log import USABLE_ID

RECENT = "recent"  # the folder of images that were just predicted, among what all processes have in common
UNLABELLED = ".unlabelled"  # the folder of images that nobody has given a class; training leaves it out
UNSURE = 0.5  # confidence below which a prediction is worth a person's look
RECENT_BYTES = 64 * 1024 * 1024  # of images that a request's id finds
WRITES_BETWEEN_TIDYING = 50
SECONDS_BETWEEN_SCANS = 10
ENDINGS = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}  # of a file, by its first bytes
# A class is the name of a folder, on other systems too.
NO_CLASS = re.compile(r"""[\x00-\x1f/\\:*?"<>|\x7f]|^[. ]|[. ]$|^$""")

blueprint = Blueprint("feedback", __name__)
blueprint.before_request(bodies.check_encoding)


class NoPlace(HTTPException):
    """The folder for feedback is full, or its disk."""

    code, name = HTTPStatus.INSUFFICIENT_STORAGE, HTTPStatus.INSUFFICIENT_STORAGE.phrase
    description = "There is no more place for feedback. Ask who runs this server to review it."


class Feedback:
    """Keeps feedback in `folder`, of at most `max_bytes`, none of it longer than `max_seconds`.

    `recent` is a folder in memory for images that were just predicted. `share` is the part of the unsure predictions
    and outliers whose images are kept too, for a person to label.
    """

    def __init__(self, folder: Path, max_bytes: int, max_seconds: float, share: float, recent: Path) -> None:
        self._folder, self._max_bytes, self._max_seconds, self._share = folder, max_bytes, max_seconds, share
        self._recent, self._writes = recent, 0
        self._bytes, self._scanned = 0, -float("inf")
        recent.mkdir(parents=True, exist_ok=True)

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
            self._place(request_id).write_bytes(json.dumps(known).encode() + b"\n" + image)
            self._writes += 1
            if self._writes % WRITES_BETWEEN_TIDYING == 0:
                _tidy(self._recent, RECENT_BYTES)
            unsure = prediction["confidence"] < UNSURE or not prediction["in_distribution"]
            if unsure and random.random() < self._share and self.has_place(len(image)):  # noqa: S311
                self.keep(image, UNLABELLED, known)

    def recall(self, request_id: str) -> tuple[dict[str, Any], bytes] | None:
        """Return what is known of a request of the same client, and its image, if that is still there."""
        try:
            text, _, image = self._place(request_id).read_bytes().partition(b"\n")
        except OSError:
            return None
        known = json.loads(text)
        return (known, image) if known["client"] == g.access.client else None

    def keep(self, image: bytes, class_name: str, known: dict[str, Any]) -> str:
        """Write an image and a line on it; returns its path in the folder. Raises OSError."""
        digest = hashlib.sha256(image).hexdigest()
        file = self._folder / class_name / f"{digest}.{_ending(image)}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            part = file.with_name(f".{digest}.{os.getpid()}.part")
            part.write_bytes(image)
            part.replace(file)
            self._bytes += len(image)
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **known}
        with file.with_suffix(".jsonl").open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        return f"{class_name}/{file.name}"

    def has_place(self, size: int) -> bool:
        """Say whether an image of `size` bytes has a place. Deletes what is too old first."""
        now = time.monotonic()
        if now - self._scanned > SECONDS_BETWEEN_SCANS:
            self._scanned = now
            self._bytes = self._scan()
        return self._bytes + size <= self._max_bytes

    def _scan(self) -> int:
        oldest, total = time.time() - self._max_seconds, 0
        for file in self._folder.rglob("*"):
            with suppress(OSError):  # it may go meanwhile
                found = file.stat()
                if not file.is_file():
                    continue
                if found.st_mtime < oldest:
                    file.unlink()
                else:
                    total += found.st_size
        return total

    def _place(self, request_id: str) -> Path:
        return self._recent / hashlib.sha256(request_id.encode()).hexdigest()


@blueprint.post("/feedback")
def feedback() -> dict[str, Any]:
    store: Feedback | None = current_app.extensions.get("feedback")
    if not store:
        abort(404, "This server keeps no feedback.")
    request.max_content_length = limits.MAX_MULTIPART_BYTES
    files, fields = bodies.form(at_most=1)
    class_name, note = fields.get("class", "").strip(), fields.get("note", "").strip()
    if NO_CLASS.search(class_name) or len(class_name) > limits.MAX_CLASS_NAME_LENGTH:
        abort(400, "Send the right class in the field 'class': the name of a folder, without marks such as / or :.")
    if len(note) > limits.MAX_NOTE_LENGTH:
        abort(400, f"The note is too long; it may have {limits.MAX_NOTE_LENGTH} characters.")
    known, image = _meant(store, files, fields.get("id", ""))
    if not _ending(image):
        abort(415, "The file is not a JPEG, PNG, GIF or WebP. Send the image that was predicted.")
    if not store.has_place(len(image)):
        raise NoPlace
    try:
        path = store.keep(image, class_name, known | {"class": class_name, "note": note, "client": g.access.client})
    except OSError:
        current_app.logger.exception("Feedback cannot be kept.")
        raise NoPlace from None
    return {"kept": path, "success": True}


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
    return next((ending for start, ending in ENDINGS.items() if image.startswith(start)), "")


def _tidy(folder: Path, max_bytes: int) -> None:
    """Delete the oldest files of a folder that are too much."""
    files = []
    for entry in os.scandir(folder):
        with suppress(OSError):
            files.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > max_bytes:
            with suppress(OSError):
                os.unlink(path)

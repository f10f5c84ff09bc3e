"""The images in the body of a request, as clients send them: files of a form, or base64 in JSON.

Every function aborts with a sentence that says how to send an image, if the body holds none.
"""

import base64
import re
from typing import Any, NoReturn

from flask import abort, current_app, request
from werkzeug.exceptions import ClientDisconnected
from werkzeug.http import parse_options_header

from gateway import forms
from gateway.limits import MAX_FIELD_BYTES, MAX_JSON_BYTES, MAX_MULTIPART_BYTES, PIECE_BYTES

FORM = "Send the image as multipart/form-data in the field 'file': curl -F file=@photo.jpg …"
JSON = 'Send JSON of the form {"image": "<base64>"}; files go to /predict.'
# Parameters may stand before the mark, with commas in quotation marks. Base64 itself holds no semicolon.
DATA_URL = re.compile(r"\s*data:.*?;\s*base64\s*,", re.IGNORECASE | re.DOTALL)
ESCAPED = {"%2B": "+", "%2F": "/", "%3D": "=", "%20": " ", "%0D": "\r", "%0A": "\n"}  # in URLs
MAX_VALUES = 10_000  # brackets and commas of JSON, whose values take far more memory and time than their letters
STANDARD = str.maketrans("-_", "+/", " \t\r\n")  # from the URL-safe alphabet, without white space
NOT_ASCII = re.compile(r"[^\x00-\x7f]")
NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")


def check_encoding() -> None:
    """Abort with 415 if the body is compressed: unpacking it would have no bound."""
    encoding = request.environ.get("HTTP_CONTENT_ENCODING", "")
    if encoding.strip().lower() not in ("identity", ""):
        abort(415, "The body is compressed. Send it as it is, without Content-Encoding; images hardly get smaller.")


def received(at_most: int) -> bytes:
    """Return the body of up to `at_most` bytes; aborts with 413 if it has more, or 400 if it is torn.

    It is read in pieces, because each of them has its time.
    """
    environ = request.environ
    declared, stream = int(environ["CONTENT_LENGTH"]) if environ.get("CONTENT_LENGTH") else None, environ["wsgi.input"]
    if declared is not None and declared > at_most:
        abort(413)
    pieces, left = list[bytes](), at_most + 1 if declared is None else declared
    try:
        while left and (piece := stream.read(min(left, PIECE_BYTES))):
            pieces.append(piece)
            left -= len(piece)
    except OSError:
        raise ClientDisconnected from None
    if declared is None and not left:
        abort(413)
    return b"".join(pieces)


def form_files(at_most: int) -> list[bytes]:
    """Return the files in the field 'file' of the form, one or more; aborts with 400, or 413 if it is too large."""
    files, _ = form(at_most)
    if not files:
        abort(400, FORM)
    return files


def form(at_most: int) -> tuple[list[bytes], dict[str, str]]:
    """Return the files in the field 'file' of the form, and its other fields; aborts as form_files does."""
    kind, options = parse_options_header(request.environ.get("CONTENT_TYPE", ""))
    if kind.lower() != "multipart/form-data":
        abort(400, f"{FORM} Base64 in JSON goes to /predict_base64.")
    body, sent = received(MAX_MULTIPART_BYTES), []
    try:
        for part in forms.parts(body, options.get("boundary", "")):
            if part.file_name is None and part.size > MAX_FIELD_BYTES:
                abort(400, f"A field that is not a file is larger than {MAX_FIELD_BYTES // 2**20} MB. {FORM}")
            sent.append(part)
    except forms.TooManyParts:
        abort(400, f"There are too many fields. {FORM}")
    except ValueError:
        abort(400, "The form is cut off, or its boundary is not in Content-Type. Let your client set that header.")
    named_file = [part for part in sent if part.name == "file"]
    files = [part for part in named_file if part.file_name is not None]
    if named_file and not files:
        abort(400, "The field 'file' holds text instead of a file. Write '@', not '<': curl -F file=@photo.jpg …")
    if not all(file.file_name for file in files):
        abort(400, "No file was chosen.")
    if len(files) > at_most:
        abort(400, f"Send at most {at_most} image{'s' * (at_most > 1)} at once.")
    fields = {part.name: body[part.data].decode(errors="replace") for part in sent if part.file_name is None}
    return [body[file.data] for file in files], fields


def json_image() -> bytes:
    """Return the image in the key 'image' of the JSON; aborts with 400, or 413 if it is too large."""
    body = json_object(received(MAX_JSON_BYTES), JSON)
    if not isinstance(body.get("image"), str):
        abort(400, JSON)
    return decode_base64(body["image"])


def json_object(text: bytes, how: str) -> dict[str, Any]:
    """Return an object in JSON; aborts with 400 and says `how` to send it."""
    if sum(map(text.count, (b"{", b"[", b","))) > MAX_VALUES:
        abort(400, f"The JSON has more than {MAX_VALUES:,} values.")
    try:
        body = current_app.json.loads(text)
    except RecursionError:
        abort(400, "The JSON is nested too deeply.")
    except ValueError:
        abort(400, f"The body is not JSON. {how}")
    if not isinstance(body, dict):
        abort(400, how)
    return body


def decode_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, padded or not, plain or as a data URL; aborts with 400."""
    head = DATA_URL.match(text)
    if not head and text.lstrip()[:5].lower() == "data:":
        abort(400, "The data URL has no ';base64,' before its data. Send the image as base64.")
    data = text[head.end() :] if head else text
    if not data.isascii() and (strange := NOT_ASCII.search(data)):  # translate() would take a second for it
        _refuse(strange[0])
    if "%" in data:
        for escaped, letter in ESCAPED.items():  # unquote() would take 80 bytes for each
            data = data.replace(escaped, letter).replace(escaped.lower(), letter)
    encoded = data.translate(STANDARD)
    if not encoded.endswith("="):
        encoded += "=" * (-len(encoded) % 4)
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        _refuse(encoded)


def _refuse(encoded: str) -> NoReturn:
    if strange := NOT_BASE64.search(encoded):
        abort(400, f"The image is not valid base64: it holds {strange[0]!a}.")
    abort(400, "The image is not valid base64: characters are missing. Was it cut off, or did each '+' become a blank?")

"""Turns away what would find no place before Flask begins with it: a flood is paid for with what serves the others."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask

from gateway.access import ID, Access
from gateway.errors import RETRY_AFTER, failure
from gateway.torchserve import Unavailable

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATHS = ("/predict", "/predict_base64", "/explain")


class Admission:
    """WSGI middleware around `app`. A page's requests go on to Flask, which knows what CORS allows; they are few."""

    def __init__(self, app: Flask) -> None:
        self._app, self._next = app, app.wsgi_app

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] in PATHS and environ["REQUEST_METHOD"] == "POST" and "HTTP_ORIGIN" not in environ:
            try:
                self._app.extensions["batches"].turn_away_if_full(int(environ.get("CONTENT_LENGTH") or 0))
            except Unavailable as full:
                return self._refuse(str(full), environ, start_response)
        return self._next(environ, start_response)

    def _refuse(self, message: str, environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
        access = Access(environ.get("HTTP_X_REQUEST_ID", ""))
        said, status = failure(message, 503)
        body = json.dumps(said).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), ID: access.id, **RETRY_AFTER}
        start_response(f"{status} SERVICE UNAVAILABLE", list(headers.items()))
        access.end(environ["REQUEST_METHOD"], environ["PATH_INFO"], status)
        return [body]

"""One JSON shape for every failure, whatever the route: {"error": "…", "success": false}."""

from flask import Flask, current_app
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, InternalServerError

from gateway import limits
from gateway.backend import BackendError, Failure, ImageRefused, NoSuchVersion, TooSlow, Unavailable

TOO_LARGE = f"The image is larger than {limits.MAX_IMAGE_BYTES // 2**20} MB, or all that the request holds is."
RETRY_AFTER = {"Retry-After": "1"}  # seconds


def register(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> ResponseReturnValue:
        headers = [header for header in error.get_headers() if header[0] != "Content-Type"]
        description = TOO_LARGE if error.code == 413 else error.description
        return *failure(description or error.name, error.code or InternalServerError.code), headers

    @app.errorhandler(ImageRefused)
    def image_refused(error: ImageRefused) -> ResponseReturnValue:
        return failure(str(error), error.status)

    @app.errorhandler(NoSuchVersion)
    def no_such_version(error: NoSuchVersion) -> ResponseReturnValue:
        return failure("The model has no such version; /models lists those it has.", 404)

    @app.errorhandler(TooSlow)
    def too_slow(error: TooSlow) -> ResponseReturnValue:
        return failure(reason(error), 504)

    @app.errorhandler(BackendError)
    def not_available(error: BackendError) -> ResponseReturnValue:
        return *failure(reason(error), 503), RETRY_AFTER


def reason(error: BackendError) -> str:
    """Return what a client may know of a failure; the rest goes to the log."""
    if isinstance(error, (TooSlow, Unavailable)):
        return str(error)
    current_app.logger.error("The model failed: %s", error)
    return "The model is not available."


def failure(message: str, status: int) -> tuple[Failure, int]:
    return {"error": message, "success": False}, status

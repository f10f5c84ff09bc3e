"""The contract: each route reduces a request to bytes, asks the model, and shapes the answer."""

import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flask import Blueprint, Response, abort, current_app, request, send_from_directory
from flask.typing import ResponseReturnValue

from gateway import bodies, metrics
from gateway.admission import SMALL_IMAGE_BYTES, Gate
from gateway.batches import Batches
from gateway.embedded import Backend
from gateway.error_handlers import RETRY_AFTER, reason
from gateway.request_log import upstream
from gateway.torchserve.client import TorchServeError

UI = Path(__file__).parent.parent / "ui"
PARTS = ", ".join(f"'{path.name}'" for path in UI.iterdir() if path.suffix in (".css", ".js"))
PROBE = UI / "examples" / "ship.jpg"
MAX_IMAGE_BYTES = 10 * 1024 * 1024
MAX_MULTIPART_BYTES = MAX_IMAGE_BYTES + 1024 * 1024  # boundaries, headers and other fields around the files
MAX_FILES = 32
MAX_CLASS_NAME = 256  # characters, as it has to fit into a header
MAX_JSON_BYTES = MAX_IMAGE_BYTES * 3 // 2  # base64 takes 4/3, escaped line breaks some more
TOP_K = re.compile(r"[0-9]{1,6}")

blueprint = Blueprint("contract", __name__)
blueprint.before_request(bodies.check_encoding)


@blueprint.get("/")
def page() -> Response:
    return send_from_directory(UI, "UI.html")


@blueprint.get(f"/<any({PARTS}):name>")
@blueprint.get("/<any('examples'):folder>/<name>")
def asset(name: str, folder: str = ".") -> Response:
    return send_from_directory(UI / folder, name)


@blueprint.get("/health")
def health() -> ResponseReturnValue:
    try:
        details = model_details()
    except TorchServeError as error:
        said = {"status": "unavailable", "reason": reason(error), "model_loaded": False, "device": "unknown"}
        return said, 503, RETRY_AFTER
    return {
        "status": "healthy",
        "model_loaded": True,
        "device": details["device"],
        "model": details["card"]["name"],
        "version": details["version"],
        "workers": details["workers"],
    }


@blueprint.get("/live")
def live() -> dict[str, str]:
    return {"status": "live"}


@blueprint.get("/ready")
def ready() -> ResponseReturnValue:
    try:
        ask(PROBE.read_bytes())  # not counted, as it is no user's image
    except TorchServeError as error:
        return {"status": "unavailable", "reason": reason(error)}, 503, RETRY_AFTER
    return {"status": "ready"}


@blueprint.get("/classes")
def classes() -> dict[str, Any]:
    names = model_details()["card"]["classes"]
    return {"classes": names, "total_classes": len(names)}


@blueprint.get("/model")
def model() -> dict[str, Any]:
    details = model_details()
    return {**details["card"], "version": details["version"], "device": details["device"]}


@blueprint.get("/models")
def models() -> dict[str, Any]:
    with upstream():
        return {"models": backend().versions()}


@blueprint.get("/metrics")
def measured() -> Response:
    details = None
    with suppress(TorchServeError):
        details = model_details()
    return Response(metrics.exposition(details), content_type=metrics.CONTENT_TYPE)


@blueprint.post("/predict")
def predict() -> dict[str, Any] | list[dict[str, Any]]:
    images = sent_files(MAX_FILES)
    return classify(images[0], wanted()) if len(images) == 1 else classify_all(images, wanted())


@blueprint.post("/explain")
def explain() -> dict[str, Any]:
    images = sent_files(at_most=1)
    class_name = request.args.get("class", "")
    if len(class_name) > MAX_CLASS_NAME:
        abort(400, "The model has no class with a name so long; /classes lists those it has.")
    work = partial(backend().explain, checked(images[0]), class_name, wanted().version)
    with upstream() as access:
        answer = gate().explain(work)
    access.version = answer["version"]
    return {**answer, "success": True}


@blueprint.post("/predict_base64")
def predict_base64() -> dict[str, Any]:
    request.max_content_length = MAX_JSON_BYTES
    return classify(bodies.json_image(), wanted())


def sent_files(at_most: int) -> list[bytes]:
    """Read the files of the form; aborts with 400, 408 or 413, raises Busy."""
    request.max_content_length = MAX_MULTIPART_BYTES
    return bodies.form_files(at_most)


class Wanted(NamedTuple):
    """What a request may ask for besides: a version of the model, and a list of the likeliest classes."""

    version: str | None = None
    top_k: int = 0

    def shape(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer of TorchServe as the contract has it, and count it."""
        answer["success"] = "error" not in answer
        if answer["success"]:
            metrics.count_prediction(answer)
            if self.top_k:
                likeliest = sorted(answer["class_probabilities"].items(), key=lambda item: -item[1])[: self.top_k]
                answer["top_k"] = [{"class": name, "probability": probability} for name, probability in likeliest]
        return answer


def wanted() -> Wanted:
    """Read the query; aborts with 400."""
    top_k = request.args.get("top_k", "0")
    if not TOP_K.fullmatch(top_k):
        abort(400, "Give top_k as a number of classes, such as 3.")
    return Wanted(request.args.get("version"), int(top_k))


def classify(image: bytes, wanted: Wanted) -> dict[str, Any]:
    """Return the prediction for the bytes of an image file; aborts with 400 if there are none, 413 if too many."""
    return wanted.shape(ask(checked(image), wanted.version))


def ask(image: bytes, version: str | None = None) -> dict[str, Any]:
    """Return what the default version, or a given one, says of an image."""
    with upstream() as access:
        if version or len(image) > SMALL_IMAGE_BYTES:
            answer = gate().call(partial(backend().predict, image, version))
        else:
            answer = batches().predict(image)
    access.version = answer.get("version")
    return answer


def checked(image: bytes) -> bytes:
    """Return an image file that has bytes, and not too many; aborts with 400 or 413."""
    if not image:
        abort(400, "The image is empty.")
    if len(image) > MAX_IMAGE_BYTES:
        abort(413)
    return image


def classify_all(images: list[bytes], wanted: Wanted) -> list[dict[str, Any]]:
    """Return the prediction for each of several images, or its error; aborts with 413 if they are too large."""
    if sum(map(len, images)) > MAX_IMAGE_BYTES:
        abort(413)
    with upstream() as access:
        answers = gate().call(partial(backend().predict_all, images, wanted.version), len(images))
    access.version = next((answer["version"] for answer in answers if "version" in answer), None)
    return list(map(wanted.shape, answers))


def model_details() -> dict[str, Any]:
    with upstream() as access:
        details = backend().details()
    access.version = details["version"]
    return details


def gate() -> Gate:
    return current_app.extensions["gate"]


def batches() -> Batches:
    return current_app.extensions["batches"]


def backend() -> Backend:
    return current_app.extensions["backend"]

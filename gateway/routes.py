"""The contract: each route reduces a request to bytes, asks the model, and shapes the answer."""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flask import Blueprint, Response, abort, current_app, g, request, send_from_directory
from flask.typing import ResponseReturnValue

from gateway import bodies, limits, metrics
from gateway.admission import Gate
from gateway.backend import Answer, Backend, BackendError, Busy, Details, Explanation, Prediction, TooSlow
from gateway.batches import Batches, calls_of
from gateway.error_handlers import RETRY_AFTER, reason
from gateway.pixels import is_small
from gateway.request_log import upstream

UI = Path(__file__).parent.parent / "ui"
PARTS = ", ".join(f"'{path.name}'" for path in sorted(UI.iterdir()) if path.suffix in (".css", ".js"))
PROBE = UI / "examples" / "ship.jpg"
LOGGED: tuple[Literal["predicted_class", "confidence", "in_distribution", "version"], ...]
LOGGED = ("predicted_class", "confidence", "in_distribution", "version")
PROBE_SECONDS = 1.0  # for which an answer of /ready holds, so that nobody can fill the queue without a key
BEGINNING: ResponseReturnValue = (
    {"status": "unavailable", "reason": "The first probe is under way."},
    503,
    RETRY_AFTER,
)
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
    except BackendError as error:
        state = {"status": "unavailable", "reason": reason(error), "model_loaded": False, "device": "unknown"}
        return state, 503, RETRY_AFTER
    return {
        "status": "healthy",
        "model_loaded": True,
        "device": details["device"],
        "model": details["card"]["name"],
        "version": details["version"],
        "workers": details["workers"],
        "feedback": "feedback" in current_app.extensions,
    }


@blueprint.get("/live")
def live() -> dict[str, str]:
    return {"status": "live"}


@blueprint.get("/ready")
def ready() -> ResponseReturnValue:
    """Predict an image. If keys are asked for, but not here, all who ask within PROBE_SECONDS get the same answer."""
    if not current_app.config["API_KEYS_FILE"]:
        return _probe()
    last: tuple[float, ResponseReturnValue] = current_app.extensions.get("probe", (0.0, BEGINNING))
    until, answer = last
    if time.monotonic() >= until:
        current_app.extensions["probe"] = (time.monotonic() + PROBE_SECONDS, answer)  # for who asks meanwhile
        answer = _probe()
        current_app.extensions["probe"] = (time.monotonic() + PROBE_SECONDS, answer)
    return answer


def _probe() -> ResponseReturnValue:
    try:
        run_model(PROBE.read_bytes())  # not counted, because it is no user's image
    except Busy:  # with others, who would all lose their gateways if a flood made them unready
        if gate().small.stuck():
            return {"status": "unavailable", "reason": str(TooSlow())}, 503, RETRY_AFTER
    except BackendError as error:
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
    with suppress(BackendError):
        details = model_details()
    return Response(metrics.exposition(details), content_type=metrics.CONTENT_TYPE)


@blueprint.post("/predict")
def predict() -> Prediction | list[Answer]:
    images, options = bodies.form_files(limits.MAX_FILES), wanted("version", "top_k")
    return predict_one(images[0], options) if len(images) == 1 else predict_all(images, options)


@blueprint.post("/explain")
def explain() -> Explanation:
    images = bodies.form_files(at_most=1)
    class_name = request.args.get("class", "")
    if len(class_name) > limits.MAX_CLASS_NAME_LENGTH:
        abort(400, "The model has no class with such a long name; /classes lists the classes.")
    work = partial(backend().explain, checked(images[0]), class_name, wanted("class", "version").version)
    with upstream() as access:
        explanation: Explanation = gate().explain(work)
    access.version = explanation["version"]
    return explanation


@blueprint.post("/predict_base64")
def predict_base64() -> Prediction:
    return predict_one(bodies.json_image(), wanted("version", "top_k"))


class Wanted(NamedTuple):
    """The options of a request: a version of the model, and how many of the likeliest classes to list."""

    version: str | None = None
    top_k: int = 0

    def complete(self, prediction: Prediction) -> Prediction:
        """Count a prediction, and add the likeliest classes if the request asks for them."""
        metrics.count_prediction(prediction)
        if current_app.config["LOG_PREDICTIONS"]:
            g.access.predictions.append({field: prediction[field] for field in LOGGED})
        if self.top_k:
            likeliest = sorted(prediction["class_probabilities"].items(), key=lambda item: -item[1])[: self.top_k]
            prediction["top_k"] = [{"class": name, "probability": probability} for name, probability in likeliest]
        return prediction


def wanted(*known: str) -> Wanted:
    """Read the query; aborts with 400, also if it has another parameter than the `known` ones."""
    given: Mapping[str, str] = request.args if request.query_string else {}
    if not given.keys() <= set(known):
        abort(400, f"The query has an unknown parameter; {request.path} knows {' and '.join(known)}.")
    top_k = given.get("top_k", "0")
    if not TOP_K.fullmatch(top_k):
        abort(400, "Give top_k as a number of classes, such as 3.")
    return Wanted(given.get("version"), int(top_k))


def predict_one(image: bytes, wanted: Wanted) -> Prediction:
    """Return the prediction for the bytes of an image file; aborts with 400 if there are none, 413 if too many."""
    serve = partial(run_model, checked(image))
    traffic = None if wanted.version else current_app.extensions.get("traffic")
    prediction = traffic.predict(image, g.access.id, serve) if traffic else serve(wanted.version)
    if store := current_app.extensions.get("feedback"):
        store.remember(g.access.id, image, prediction)
    return wanted.complete(prediction)


def run_model(image: bytes, version: str | None = None, shared: Batches | None = None) -> Prediction:
    """Return the prediction of the default version, or of a given one, or of the one that `shared` asks."""
    with upstream() as access:
        if shared or (is_small(image) and not version):
            prediction: Prediction = (shared or batches()).predict(image, access.upstream)
        else:
            prediction = gate().call(partial(backend().predict, image, version), spent=access.upstream)
    access.version = prediction["version"]
    return prediction


def checked(image: bytes) -> bytes:
    """Return an image file that has bytes, and not too many; aborts with 400 or 413."""
    if not image:
        abort(400, "The image is empty.")
    if len(image) > limits.MAX_IMAGE_BYTES:
        abort(413)
    return image


def predict_all(images: list[bytes], wanted: Wanted) -> list[Answer]:
    """Return a prediction or a refusal for each of several images; aborts with 413 if they are too large."""
    if sum(map(len, images)) > limits.MAX_IMAGE_BYTES:
        abort(413)
    answers: list[Answer] = []
    for call in calls_of(images):
        with upstream() as access:
            work = partial(backend().predict_all, call, wanted.version)
            answers += gate().call(work, len(call), access.upstream)
    access.version = next((answer["version"] for answer in answers if answer["success"]), None)
    if store := current_app.extensions.get("feedback"):
        store.scan_if_due()
    return [wanted.complete(answer) if answer["success"] else answer for answer in answers]


def model_details() -> Details:
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

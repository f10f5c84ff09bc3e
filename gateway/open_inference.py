"""The Open Inference Protocol (v2) beside the contract, so that the clients of KServe and Triton can ask.

A request has one tensor `image` of image files, of type BYTES: base64 in JSON, or the files themselves behind the JSON
(the extension for binary tensors). The answer has the tensors of OUTPUTS. See
https://github.com/kserve/open-inference-protocol.
"""

import json
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flask import Blueprint, Response, abort, current_app, request
from flask.typing import ResponseReturnValue

from gateway import bodies, limits
from gateway.backend import Answer, BackendError, Prediction, Version
from gateway.error_handlers import RETRY_AFTER
from gateway.request_log import upstream
from gateway.routes import Wanted, backend, model_details, predict_all, predict_one, ready

IMAGE = "image"
HEADER_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON in a body that also has tensors
INPUT = f'Send one input: {{"name": "{IMAGE}", "datatype": "BYTES", "shape": [1], "data": ["<base64>"]}}.'
BEHIND = f"The bytes behind the JSON are no {IMAGE} tensor. Each image needs its length before it, in 4 bytes."
COUNT = f"Send 1 to {limits.MAX_FILES} images at once."
SHAPE = "The shape must be [n] or [n, 1], with as many images as it says."


class Output(NamedTuple):
    """A tensor of the answer: its type, its values for one prediction, and how `struct` writes one of these."""

    datatype: str
    values: Callable[[Prediction], list[Any]]
    format: str = ""


OUTPUTS = {
    "probabilities": Output("FP32", lambda prediction: [*prediction["class_probabilities"].values()], "f"),
    "predicted_class": Output("BYTES", lambda prediction: [prediction["predicted_class"]]),
    "confidence": Output("FP32", lambda prediction: [prediction["confidence"]], "f"),
    "in_distribution": Output("BOOL", lambda prediction: [prediction["in_distribution"]], "?"),
    "in_distribution_score": Output("FP32", lambda prediction: [prediction["in_distribution_score"]], "f"),
}

blueprint = Blueprint("open_inference", __name__, url_prefix="/v2")
blueprint.before_request(bodies.check_encoding)


@blueprint.get("")
def server() -> dict[str, Any]:
    return {"name": "classifier", "version": "1", "extensions": ["binary_tensor_data"]}


@blueprint.get("/health/live")
def server_live() -> dict[str, bool]:
    return {"live": True}


@blueprint.get("/health/ready")
def server_ready() -> ResponseReturnValue:
    status = current_app.make_response(ready()).status_code
    return ({"ready": True}, status) if status == 200 else ({"ready": False}, status, RETRY_AFTER)


@blueprint.get("/models/<name>")
@blueprint.get("/models/<name>/versions/<version>")
def metadata(name: str, version: str = "") -> dict[str, Any]:
    versions, wanted = deployed(name, version)
    classes = len(model_details()["card"]["classes"]) if wanted["default"] else -1
    return {
        "name": name,
        "versions": [each["version"] for each in versions],
        "platform": "image_classifier",
        "inputs": [{"name": IMAGE, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": [-1, classes] if output == "probabilities" else [-1]}
            for output, (datatype, *_) in OUTPUTS.items()
        ],
    }


@blueprint.get("/models/<name>/ready")
@blueprint.get("/models/<name>/versions/<version>/ready")
def model_ready(name: str, version: str = "") -> ResponseReturnValue:
    try:
        _, wanted = deployed(name, version)
    except BackendError:
        return {"name": name, "ready": False}, 503, RETRY_AFTER
    if wanted["workers"] == 0:
        return {"name": name, "ready": False}, 503, RETRY_AFTER
    return {"name": name, "ready": True}


@blueprint.post("/models/<name>/infer")
@blueprint.post("/models/<name>/versions/<version>/infer")
def infer(name: str, version: str = "") -> Response:
    check_name(name)
    asked, images = read_request()
    wanted = Wanted(version or None)
    predictions = [predict_one(images[0], wanted)] if len(images) == 1 else all_right(predict_all(images, wanted))
    answer = {"model_name": name, "model_version": predictions[0]["version"]}
    if isinstance(asked.get("id"), str):
        answer["id"] = asked["id"]
    return respond(answer, predictions, asked)


def check_name(name: str) -> None:
    """Abort with 404 if the model has another name."""
    own = current_app.config["MODEL_NAME"]
    if name != own:
        abort(404, f"There is no model of this name; the model is called {own!r}.")


def deployed(name: str, version: str) -> tuple[list[Version], Version]:
    """Return all versions, and the default or the given one; aborts with 404."""
    check_name(name)
    with upstream():
        versions = backend().versions()
    for each in versions:
        if each["version"] == version or (not version and each["default"]):
            return versions, each
    abort(404, "The model has no such version; /models lists those it has.")


def read_request() -> tuple[dict[str, Any], list[bytes]]:
    """Return the JSON of a request, and its images; aborts with 400 or 413."""
    body = bodies.received(limits.MAX_JSON_BYTES)
    length = request.headers.get(HEADER_LENGTH, str(len(body)))
    if not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > len(body):
        abort(400, f"{HEADER_LENGTH} must be the number of bytes of JSON at the start of the body.")
    asked = bodies.json_object(body[: int(length)], INPUT)
    tensors = asked.get("inputs")
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        abort(400, INPUT)
    (tensor,) = tensors
    if tensor.get("name") != IMAGE or tensor.get("datatype") != "BYTES":
        abort(400, INPUT)
    images = behind(body[int(length) :], tensor) if "data" not in tensor else in_json(tensor["data"])
    if tensor.get("shape") not in ([len(images)], [len(images), 1]):
        abort(400, SHAPE)
    if not images:
        abort(400, COUNT)
    return asked, images


def in_json(data: Any) -> list[bytes]:
    """Return the images of a tensor in JSON, whose values may stand in lists of one; aborts with 400."""
    if not isinstance(data, list):
        abort(400, INPUT)
    if len(data) > limits.MAX_FILES:
        abort(400, COUNT)
    values = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in data]
    if not all(isinstance(value, str) for value in values):
        abort(400, INPUT)
    return [bodies.decode_base64(value) for value in values]


def behind(data: bytes, tensor: dict[str, Any]) -> list[bytes]:
    """Return the images of a binary tensor; aborts with 400."""
    parameters = tensor.get("parameters")
    if not isinstance(parameters, dict) or parameters.get("binary_data_size") != len(data):
        abort(400, INPUT if not data else BEHIND)
    images: list[bytes] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            abort(400, BEHIND)
        (size,) = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            abort(400, BEHIND)
        if len(images) == limits.MAX_FILES:
            abort(400, COUNT)
        images.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return images


def all_right(answers: list[Answer]) -> list[Prediction]:
    """Return the predictions; aborts with the status of the first image that has none."""
    for number, answer in enumerate(answers, 1):
        if not answer["success"]:
            abort(answer["status"], f"Image {number} of {len(answers)}: {answer['error']}")
    return [answer for answer in answers if answer["success"]]


def respond(answer: dict[str, Any], predictions: list[Prediction], asked: dict[str, Any]) -> Response:
    """Return the answer with its tensors: in the JSON, or behind it for those that the request wants so."""
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for name, as_bytes in wanted_outputs(asked):
        output = OUTPUTS[name]
        rows = [output.values(prediction) for prediction in predictions]
        shape = [len(rows), len(rows[0])] if name == "probabilities" else [len(rows)]
        tensor: dict[str, Any] = {"name": name, "datatype": output.datatype, "shape": shape}
        values = [value for row in rows for value in row]
        if as_bytes:
            binary.append(packed(values, output.format))
            described.append(tensor | {"parameters": {"binary_data_size": len(binary[-1])}})
        else:
            described.append(tensor | {"data": values})
    text = json.dumps(answer | {"outputs": described}).encode()
    if not binary:
        return Response(text, content_type="application/json")
    headers = {HEADER_LENGTH: str(len(text))}
    return Response(b"".join([text, *binary]), headers=headers, content_type="application/octet-stream")


def wanted_outputs(asked: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the outputs that a request names, or all, and whether it wants them as bytes; aborts with 400."""
    by_default = _says(asked, "binary_data_output", default=False)
    named = asked.get("outputs") or [{"name": name} for name in OUTPUTS]
    if not isinstance(named, list) or not all(isinstance(output, dict) for output in named):
        abort(400, 'Name the outputs as [{"name": "probabilities"}].')
    names = [str(output.get("name")) for output in named]
    if not OUTPUTS.keys() >= set(names) or len(names) > len(set(names)):
        abort(400, f"The outputs are {', '.join(OUTPUTS)}; name each once at most.")
    for name, output in zip(names, named, strict=True):
        yield name, _says(output, "binary_data", default=by_default)


def _says(described: dict[str, Any], parameter: str, default: bool) -> bool:
    parameters = described.get("parameters")
    return bool(parameters.get(parameter, default)) if isinstance(parameters, dict) else default


def packed(values: list[Any], form: str) -> bytes:
    """Return values in little-endian bytes; texts have their length before them, in 4 bytes."""
    if form:
        return struct.pack(f"<{len(values)}{form}", *values)
    texts = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)

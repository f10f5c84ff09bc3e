"""The Open Inference Protocol: Triton's own client asks, and requests that no client would send are refused."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from flask.testing import FlaskClient
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from gateway import app
from gateway.app import create_app
from gateway.limits import MAX_FILES
from gateway.open_inference import HEADER_LENGTH, OUTPUTS
from tests.drawing import TEN, draw, encode
from tests.fake_backend import FakeBackend
from tests.stack import Stack

RED, BLUE = encode(draw("red", 1), "JPEG"), encode(draw("blue", 2), "PNG")
INFER = "/v2/models/classifier/infer"


@pytest.fixture
def triton(stack: Stack) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(urlsplit(stack.url).netloc)
    yield client
    client.close()


def tensor(images: list[bytes], binary: bool = True) -> InferInput:
    made = InferInput("image", [len(images)], "BYTES")
    contents = images if binary else [base64.b64encode(image) for image in images]
    made.set_data_from_numpy(np.array(contents, dtype=object), binary_data=binary)
    return made


def test_tritons_client_finds_the_model(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("classifier")
    assert triton.is_model_ready("classifier", "1.0")
    assert not triton.is_model_ready("classifier", "9.0")
    assert not triton.is_model_ready("another")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = triton.get_model_metadata("classifier")
    assert described["versions"] == ["1.0"]
    assert described["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert described["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(TEN)]}


@pytest.mark.parametrize("binary", [True, False], ids=["behind the JSON", "base64"])
@pytest.mark.parametrize("version", ["", "1.0"])
def test_tritons_client_gets_what_predict_answers(
    triton: InferenceServerClient, stack: Stack, binary: bool, version: str
) -> None:
    wanted = [InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
    result = triton.infer("classifier", [tensor([RED, BLUE], binary)], version, wanted, request_id="mine")
    files = [("file", ("image", image)) for image in (RED, BLUE)]
    predictions = requests.post(f"{stack.url}/predict", files=files).json()
    expected = [list(prediction["class_probabilities"].values()) for prediction in predictions]
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, rtol=1e-6)
    names = [name.decode() if isinstance(name, bytes) else name for name in result.as_numpy("predicted_class")]
    assert names == ["red", "blue"]
    for name, dtype in (
        ("confidence", np.float32),
        ("in_distribution", np.bool_),
        ("in_distribution_score", np.float32),
    ):
        values = result.as_numpy(name)
        assert values.dtype == dtype
        np.testing.assert_allclose(values, [prediction[name] for prediction in predictions], rtol=1e-6)
    answer = result.get_response()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("classifier", "1.0", "mine")


def test_tritons_client_gets_all_outputs_if_it_names_none(triton: InferenceServerClient) -> None:
    result = triton.infer("classifier", [tensor([RED])])
    assert result.as_numpy("probabilities").shape == (1, len(TEN))
    assert {output["name"] for output in result.get_response()["outputs"]} == OUTPUTS.keys()


def test_tritons_client_is_told_what_is_wrong(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="Image 2 of 2: "):
        triton.infer("classifier", [tensor([RED, b"no image"])])
    with pytest.raises(InferenceServerException, match="no such version"):
        triton.infer("classifier", [tensor([RED])], "9.0")
    with pytest.raises(InferenceServerException, match="the model is called 'classifier'"):
        triton.infer("another", [tensor([RED])])


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr(app, "_backend", lambda config: FakeBackend())
    return create_app({"MODEL_NAME": "mine"}).test_client()


def asked(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["YQ=="], **changes}


def without_data(**changes: Any) -> dict[str, Any]:
    described = asked(**changes)
    del described["data"]
    return described


def test_the_model_has_the_name_that_is_set(client: FlaskClient) -> None:
    assert client.get("/v2/models/mine").status_code == 200
    assert client.get("/v2/models/classifier").status_code == 404
    answer = client.post("/v2/models/mine/infer", json={"inputs": [asked()]}).get_json()
    assert answer["outputs"][1] == {"name": "predicted_class", "datatype": "BYTES", "shape": [1], "data": ["cat"]}


NO_REQUESTS: list[object] = [
    [],
    {},
    {"inputs": []},
    {"inputs": [[]]},
    {"inputs": [asked(), asked()]},
    {"inputs": [asked(name="input")]},
    {"inputs": [asked(name=[])]},
    {"inputs": [asked(datatype="UINT8")]},
    {"inputs": [asked(shape=[2])]},
    {"inputs": [asked(shape="1")]},
    {"inputs": [asked(shape=[])]},
    {"inputs": [asked(shape=[0], data=[])]},
    {"inputs": [asked(shape=[MAX_FILES + 1], data=["YQ=="] * (MAX_FILES + 1))]},
    {"inputs": [asked(data="YQ==")]},
    {"inputs": [asked(data=[1])]},
    {"inputs": [asked(data=[["YQ==", "YQ=="]])]},
    {"inputs": [asked(data=["%"])]},
    {"inputs": [asked(data=[""])]},
    {"inputs": [without_data()]},
    {"inputs": [without_data(parameters=[])]},
    {"inputs": [without_data(parameters={"binary_data_size": 5})]},
    {"inputs": [asked()], "outputs": "all"},
    {"inputs": [asked()], "outputs": [1]},
    {"inputs": [asked()], "outputs": [{"name": []}]},
    {"inputs": [asked()], "outputs": [{"name": "logits"}]},
    {"inputs": [asked()], "outputs": [{"name": "confidence"}] * 2},
]


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, *(json.dumps(body).encode() for body in NO_REQUESTS)])
def test_what_is_no_request_is_refused_in_plain_words(client: FlaskClient, body: bytes) -> None:
    refused = client.post("/v2/models/mine/infer", data=body)
    assert refused.status_code == 400
    assert refused.get_json()["success"] is False
    assert refused.get_json()["error"].endswith((".", "]."))


@pytest.mark.parametrize(
    ("length", "behind"),
    [
        ("x", b""),
        ("-1", b""),
        ("1000000", b""),
        ("9" * 5000, b""),
        (None, b"\0"),
        (None, b"\x01\0\0\0"),
        (None, b"\xff\xff\xff\xff" + b"a" * 10),
        (None, struct.pack("<I", 1) + b"a" + b"\0\0\0"),
    ],
)
def test_bytes_that_are_no_tensor_are_refused(client: FlaskClient, length: str | None, behind: bytes) -> None:
    described = without_data(parameters={"binary_data_size": len(behind)})
    text = json.dumps({"inputs": [described]}).encode()
    refused = client.post(
        "/v2/models/mine/infer", data=text + behind, headers={HEADER_LENGTH: length or str(len(text))}
    )
    assert refused.status_code == 400


def test_is_not_ready_without_a_model(tmp_path: Path) -> None:
    nowhere = create_app({"TORCHSERVE": "http://127.0.0.1:1", "TOKEN_FILE": str(tmp_path / "token")}).test_client()
    (tmp_path / "token").write_text("token")
    assert nowhere.get("/v2/health/live").status_code == 200
    for path in ("/v2/health/ready", "/v2/models/classifier/ready"):
        reply = nowhere.get(path)
        assert (reply.status_code, reply.get_json()["ready"], reply.headers["Retry-After"]) == (503, False, "1")

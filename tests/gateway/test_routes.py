"""The contract, to the letter, whatever runs the model."""

import base64
import io
import json
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image

from gateway.limits import MAX_FILES, MAX_IMAGE_BYTES
from scripts.serving.defaults import EMBEDDED, TORCHSERVE
from tests.drawing import TEN, draw, encode
from tests.stack import Stack, serve, wait_until
from training.checkpoint import load_checkpoint

PICTURE = encode(draw("purple", 21))


@pytest.fixture(scope="module", params=[TORCHSERVE, EMBEDDED])
def stack(stack: Stack, archive: Path, workspace: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    if request.param == TORCHSERVE:
        yield stack
        return
    with serve(archive, workspace / EMBEDDED, EMBEDDED) as local:
        yield local


def upload(stack: Stack, content: bytes, name: str = "picture.png") -> requests.Response:
    return requests.post(f"{stack.url}/predict", files={"file": (name, content)})


def send_base64(stack: Stack, image: object) -> requests.Response:
    return requests.post(f"{stack.url}/predict_base64", json={"image": image})


def assert_failed(response: requests.Response, status: int, words: str) -> None:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert set(body) == {"error", "success"}
    assert body["success"] is False
    assert words in body["error"]


def sized(size: int) -> bytes:
    """Return a valid image file of exactly so many bytes."""
    return PICTURE + bytes(size - len(PICTURE))


def test_health(stack: Stack) -> None:
    response = requests.get(f"{stack.url}/health")
    assert response.status_code == 200
    body = response.json()
    assert (body["status"], body["model_loaded"], body["device"]) == ("healthy", True, "cpu")


def test_live_and_ready(stack: Stack) -> None:
    for path, status in (("live", "live"), ("ready", "ready")):
        response = requests.get(f"{stack.url}/{path}")
        assert (response.status_code, response.json()) == (200, {"status": status})


def test_classes(stack: Stack) -> None:
    assert requests.get(f"{stack.url}/classes").json() == {"classes": sorted(TEN), "total_classes": 10}


def test_model_is_the_card_of_the_checkpoint(stack: Stack, checkpoint: Path) -> None:
    card = json.loads(json.dumps(load_checkpoint(checkpoint).card))
    assert requests.get(f"{stack.url}/model").json() == card | {"batch_size": 16, "version": "1.0", "device": "cpu"}


def test_tells_what_is_unlike_the_training_images(stack: Stack, checkpoint: Path) -> None:
    threshold = load_checkpoint(checkpoint).card["calibration"]["in_distribution"]["threshold"]
    noise = Image.effect_noise((64, 64), 200).convert("RGB")
    for image, in_distribution in ((draw("purple", 22), True), (noise, False)):
        answer = upload(stack, encode(image)).json()
        assert answer["in_distribution"] is in_distribution
        assert (answer["in_distribution_score"] >= threshold) is in_distribution


def test_predict(stack: Stack) -> None:
    response = upload(stack, PICTURE)
    assert response.status_code == 200
    body = response.json()
    answer = ["predicted_class", "confidence", "class_probabilities"]
    assert list(body) == [*answer, "in_distribution", "in_distribution_score", "version", "success"]
    assert body["version"] == "1.0"
    assert body["success"] is True
    assert body["predicted_class"] == "purple"
    assert list(body["class_probabilities"]) == sorted(TEN)
    assert sum(body["class_probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert body["confidence"] == body["class_probabilities"]["purple"] == max(body["class_probabilities"].values())


def test_lists_the_likeliest_classes(stack: Stack) -> None:
    for path, body in (
        ("predict", {"files": {"file": PICTURE}}),
        ("predict_base64", {"json": {"image": base64.b64encode(PICTURE).decode()}}),
    ):
        answer = requests.post(f"{stack.url}/{path}?top_k=3", **body).json()
        first, second, third = answer["top_k"]
        assert first == {"class": "purple", "probability": answer["confidence"]}
        assert first["probability"] >= second["probability"] >= third["probability"]
    assert_failed(requests.post(f"{stack.url}/predict?top_k=x", files={"file": PICTURE}), 400, "top_k")


@pytest.mark.parametrize("query", ["topk=3", "top_k=3&Version=1.0", "class=red"])
def test_an_unknown_parameter_is_refused_with_those_there_are(stack: Stack, query: str) -> None:
    for response in (
        requests.post(f"{stack.url}/predict?{query}", files={"file": PICTURE}),
        requests.post(f"{stack.url}/predict_base64?{query}", json={"image": base64.b64encode(PICTURE).decode()}),
    ):
        assert_failed(response, 400, "knows version and top_k.")
    assert requests.get(f"{stack.url}/health?_=1").status_code == 200  # as browsers and probes get round caches


def test_a_version_can_be_chosen(stack: Stack) -> None:
    only = {"models": [{"version": "1.0", "default": True, "workers": 2}]}
    wait_until(lambda: requests.get(f"{stack.url}/models").json() == only)  # a worker that was killed is starting
    chosen = requests.post(f"{stack.url}/predict?version=1.0", files={"file": PICTURE}).json()
    assert (chosen["predicted_class"], chosen["version"]) == ("purple", "1.0")
    several = requests.post(f"{stack.url}/predict?version=1.0", files=[("file", PICTURE)] * 2).json()
    assert [answer["version"] for answer in several] == ["1.0", "1.0"]
    for version in ("9.0", "../../management", "a b"):
        response = requests.post(f"{stack.url}/predict", params={"version": version}, files={"file": PICTURE})
        assert_failed(response, 404, "/models")


def upload_all(stack: Stack, contents: list[bytes]) -> requests.Response:
    return requests.post(f"{stack.url}/predict", files=[("file", ("picture", content)) for content in contents])


def test_several_files_are_answered_in_order_each_with_its_result_or_error(stack: Stack) -> None:
    contents = [PICTURE, b"", encode(draw("red", 1), "BMP"), encode(draw("red", 1), "JPEG"), PICTURE]
    response = upload_all(stack, contents)
    assert response.status_code == 200
    answers = response.json()
    assert [answer["success"] for answer in answers] == [True, False, False, True, True]
    assert [answer.get("predicted_class") for answer in answers] == ["purple", None, None, "red", "purple"]
    assert [answer.get("status") for answer in answers] == [None, 400, 415, None, None]
    assert set(answers[1]) == {"error", "status", "success"}
    assert "send a JPEG" in answers[2]["error"]
    assert answers[0]["confidence"] == pytest.approx(upload(stack, PICTURE).json()["confidence"], abs=1e-5)


def test_several_files_have_limits_together(stack: Stack) -> None:
    assert len(upload_all(stack, [PICTURE] * MAX_FILES).json()) == MAX_FILES
    assert_failed(upload_all(stack, [PICTURE] * (MAX_FILES + 1)), 400, f"at most {MAX_FILES} images")
    half = MAX_IMAGE_BYTES // 2
    assert all(answer["success"] for answer in upload_all(stack, [sized(half), sized(half)]).json())
    assert_failed(upload_all(stack, [sized(half), sized(half + 1)]), 413, "10 MB")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_predict_takes_each_format_whatever_it_is_called(stack: Stack, kind: str) -> None:
    assert upload(stack, encode(draw("red", 1), kind), name="image.txt").json()["predicted_class"] == "red"


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "DATA:image/svg+xml;base64,"])
@pytest.mark.parametrize("separator", ["", "\n", "\r\n"])
def test_base64_plain_or_data_url_with_or_without_line_breaks(stack: Stack, prefix: str, separator: str) -> None:
    encoded = base64.b64encode(PICTURE).decode()
    lines = separator.join(textwrap.wrap(encoded, 76)) if separator else encoded
    assert send_base64(stack, prefix + lines).json() == upload(stack, PICTURE).json()


def test_no_file_part(stack: Stack) -> None:
    assert_failed(requests.post(f"{stack.url}/predict"), 400, "field 'file'")
    assert_failed(requests.post(f"{stack.url}/predict", files={"image": PICTURE}), 400, "field 'file'")
    assert_failed(requests.post(f"{stack.url}/predict", data={"file": "text"}), 400, "field 'file'")


def test_empty_file_name(stack: Stack) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert_failed(requests.post(f"{stack.url}/predict", data=body, headers=headers), 400, "No file was chosen")


@pytest.mark.parametrize("body", ["[]", "null", '"text"', "{}", '{"image": 3}', '{"image": null}'])
def test_json_that_holds_no_image(stack: Stack, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = requests.post(f"{stack.url}/predict_base64", data=body, headers=headers)
    assert_failed(response, 400, 'Send JSON of the form {"image": "<base64>"}')


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"text", "cannot be read"),
        (PICTURE[:-60], "cannot be read"),
        (b"\xff\xd8\xff", "cannot be read"),
    ],
    ids=["empty", "text", "cut", "jpeg"],
)
def test_no_decodable_image(stack: Stack, content: bytes, words: str) -> None:
    assert_failed(upload(stack, content), 400, words)
    assert_failed(send_base64(stack, base64.b64encode(content).decode()), 400, words)


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_another_format(stack: Stack, kind: str) -> None:
    assert_failed(upload(stack, encode(draw("red", 1), kind)), 415, "send a JPEG, PNG, GIF or WebP")


def test_too_many_pixels(stack: Stack) -> None:
    assert_failed(upload(stack, encode(Image.new("1", (8000, 8000)))), 400, "more than 50,000,000 pixels")


@pytest.mark.parametrize("less", [1, 0])
def test_ten_megabytes_are_accepted(stack: Stack, less: int) -> None:
    content = sized(MAX_IMAGE_BYTES - less)
    assert upload(stack, content).json()["predicted_class"] == "purple"
    assert send_base64(stack, base64.encodebytes(content).decode()).json()["predicted_class"] == "purple"


@pytest.mark.parametrize("more", [1, 3 * 1024 * 1024])
def test_more_is_refused(stack: Stack, more: int) -> None:
    content = sized(MAX_IMAGE_BYTES + more)
    assert_failed(upload(stack, content), 413, "larger than 10 MB")
    assert_failed(send_base64(stack, base64.b64encode(content).decode()), 413, "larger than 10 MB")


def test_without_a_content_length(stack: Stack) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

    def post(content: bytes) -> requests.Response:
        parts = iter([head, content, b"\r\n--x--\r\n"])
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        return requests.post(f"{stack.url}/predict", data=parts, headers=headers)

    assert post(PICTURE).json()["predicted_class"] == "purple"
    assert_failed(post(sized(MAX_IMAGE_BYTES + 1)), 413, "")


def test_a_declared_gigabyte_is_refused_unread(stack: Stack) -> None:
    connection = HTTPConnection(urlsplit(stack.url).netloc, timeout=5)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(2**30))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("path", ["/nothing", "/examples/../__init__.py", "/examples/%2e%2e/UI.html", "/examples/x"])
def test_unknown_paths(stack: Stack, path: str) -> None:
    connection = HTTPConnection(urlsplit(stack.url).netloc, timeout=5)
    connection.request("GET", path)  # requests would tidy the path
    response = connection.getresponse()
    assert response.status == 404
    assert json.loads(response.read())["success"] is False
    connection.close()


def test_wrong_method(stack: Stack) -> None:
    response = requests.get(f"{stack.url}/predict")
    assert_failed(response, 405, "method is not allowed")
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize("origin", ["null", "https://example.org"])
@pytest.mark.parametrize("path", ["/", "/health", "/live", "/ready", "/classes", "/model", "/swagger.json", "/nothing"])
def test_a_page_from_anywhere_may_read(stack: Stack, origin: str, path: str) -> None:
    response = requests.get(stack.url + path, headers={"Origin": origin})
    assert response.headers["Access-Control-Allow-Origin"] in (origin, "*")
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("origin", ["null", "https://example.org"])
@pytest.mark.parametrize("path", ["/predict", "/predict_base64"])
def test_a_page_from_anywhere_may_ask(stack: Stack, origin: str, path: str) -> None:
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for response in (
        requests.options(stack.url + path, headers=asks),
        requests.post(stack.url + path, headers={"Origin": origin}),
    ):
        assert response.headers["Access-Control-Allow-Origin"] in (origin, "*")
        assert "Access-Control-Allow-Credentials" not in response.headers
    assert "content-type" in requests.options(stack.url + path, headers=asks).headers["Access-Control-Allow-Headers"]


def test_serves_the_page_and_its_parts(stack: Stack) -> None:
    ui = Path(__file__).parents[2] / "ui"
    names = [str(path.relative_to(ui)) for path in ui.rglob("*.*")]
    assert {"style.css", "script.js", "examples/ship.jpg"} <= set(names)
    for path, name in [("", "UI.html"), *((name, name) for name in names if name != "UI.html")]:
        assert requests.get(f"{stack.url}/{path}").content == (ui / name).read_bytes()


def explain(stack: Stack, content: bytes, **query: str) -> requests.Response:
    return requests.post(f"{stack.url}/explain", params=query, files={"file": content})


def test_explain(stack: Stack) -> None:
    why = explain(stack, PICTURE).json()
    assert set(why) == {"explained_class", "predicted_class", "method", "input", "heat_map", "version", "success"}
    assert (why["explained_class"], why["predicted_class"], why["version"]) == ("purple", "purple", "1.0")
    seen = Image.open(io.BytesIO(base64.b64decode(why["input"].removeprefix("data:image/png;base64,"))))
    assert seen.size == (32, 32)
    assert all(-1 <= value <= 1 for row in why["heat_map"] for value in row)
    why_not = explain(stack, PICTURE, **{"class": "red", "version": "1.0"}).json()
    assert (why_not["explained_class"], why_not["predicted_class"]) == ("red", "purple")


def test_explain_refuses_what_predict_does_and_what_it_does_not_know(stack: Stack) -> None:
    assert_failed(explain(stack, PICTURE, **{"class": "größe\r\n"}), 400, "no class größe")
    assert_failed(explain(stack, PICTURE, **{"class": "(" * 1000}), 400, "no class")
    assert_failed(explain(stack, PICTURE, version="9.9"), 404, "no such version")
    assert_failed(explain(stack, PICTURE, top_k="3"), 400, "/explain knows class and version.")
    assert_failed(explain(stack, b"no image"), 400, "cannot be read")
    assert_failed(explain(stack, b""), 400, "empty")
    assert_failed(explain(stack, sized(MAX_IMAGE_BYTES + 1)), 413, "10 MB")
    two = [("file", PICTURE), ("file", PICTURE)]
    assert_failed(requests.post(f"{stack.url}/explain", files=two), 400, "at most 1 image at once")


def test_more_explanations_than_may_be_under_way_are_refused(stack: Stack) -> None:
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: explain(stack, PICTURE), range(36)))
    assert {reply.status_code for reply in replies} == {200, 503}
    assert {reply.headers.get("Retry-After") for reply in replies if reply.status_code == 503} == {"1"}

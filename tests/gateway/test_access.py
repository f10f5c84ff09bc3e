"""The id of a request, and the line it leaves in the log."""

import json

import pytest
import requests

from tests.drawing import draw, encode
from tests.stack import Stack, wait_until

PICTURE = encode(draw("red", 1))


def logged(stack: Stack, request_id: str) -> list[dict[str, object]]:
    lines = (stack.run / "gateway.log").read_text().splitlines()
    return [
        entry
        for entry in map(json.loads, (line for line in lines if line.startswith("{")))
        if entry["id"] == request_id
    ]


def test_a_request_leaves_one_line_under_its_id(stack: Stack) -> None:
    response = requests.post(f"{stack.url}/predict", files={"file": PICTURE}, headers={"X-Request-ID": "mine.1"})
    assert response.headers["X-Request-ID"] == "mine.1"
    wait_until(lambda: logged(stack, "mine.1"))
    (line,) = logged(stack, "mine.1")
    assert (line["method"], line["route"], line["status"], line["version"]) == ("POST", "/predict", 200, "1.0")
    assert 0 < float(str(line["gateway_ms"])) < float(str(line["upstream_ms"])) < 1000


@pytest.mark.parametrize("given", [None, "x" * 65, "a b", "<script>", 'a"}'])
def test_a_request_without_a_usable_id_gets_one(stack: Stack, given: str | None) -> None:
    headers = {"X-Request-ID": given} if given else {}
    replies = [requests.get(f"{stack.url}/{path}", headers=headers) for path in ("live", "nothing", "predict")]
    made = {reply.headers["X-Request-ID"] for reply in replies}
    assert len(made) == 3
    assert all(len(each) == 32 for each in made)
    wait_until(lambda: all(logged(stack, each) for each in made))
    assert {logged(stack, reply.headers["X-Request-ID"])[0]["status"] for reply in replies} == {200, 404, 405}

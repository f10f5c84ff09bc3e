"""What TorchServe wants to see: its own keys, of the real one and for six seconds, and the token of several nodes."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from gateway.backend import BackendError, Unavailable
from gateway.torchserve.api import Api
from gateway.torchserve.tokens import TokenFile
from tests.gateway.torchserve.test_nodes import client, good, serving, several_nodes, upload
from tests.stack import Stack


def renew(config: Path, key_file: Path, expired: str) -> str:
    return Api.of_this_machine(config, key_file, timeout=60).tokens.renew("inference", expired)


def test_processes_do_not_renew_over_each_other(stack: Stack) -> None:
    expired = stack.torchserve._api.tokens.read("inference")
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        asked = [pool.submit(renew, stack.config, stack.run / "key_file.json", expired) for _ in range(8)]
    (renewed,) = {each.result() for each in asked}
    assert renewed != expired


def test_the_token_of_the_nodes_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with serving(good) as (server,):
        torchserve = several_nodes([server.url], file)
        for token in ("first", "second"):
            file.write_text(f"{token}\n")
            server.tokens.clear()
            torchserve.predict(b"image")
            assert server.tokens == {f"Bearer {token}"}


@pytest.mark.parametrize("wrong", ["two\nlines", "gr\u00f6\u00dfe", "\ufefftoken"])
def test_a_token_that_no_header_can_hold_is_refused(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(wrong, encoding="utf-8")
    with pytest.raises(BackendError, match="one line of ASCII"):
        TokenFile(tmp_path / "token").read("inference")


def test_without_its_token_the_gateway_asks_nobody(tmp_path: Path) -> None:
    with serving(good) as (server,):
        reply = client([server.url], tmp_path / "none").post("/predict", data=upload())
        assert not server.tokens
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    assert reply.get_json()["error"] == "The model is not available."


def test_the_operator_is_told_that_the_token_is_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text("other")
    said = {"code": 401, "type": "InvalidTokenException", "message": "This is not the token of the nodes"}
    with serving(lambda path: (401, said)) as (server,):
        with pytest.raises(Unavailable):
            several_nodes([server.url], file).predict(b"image")
        assert f"The node {server.url} gets no requests now: This is not the token of the nodes" in caplog.text

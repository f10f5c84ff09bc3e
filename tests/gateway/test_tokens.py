"""What TorchServe wants to see: its own keys, of the real one and for six seconds, and the token of several nodes."""

import multiprocessing
from pathlib import Path

import pytest

from gateway.nodes import TorchServeError
from gateway.torchserve import TorchServe, TorchServeNodes
from tests.gateway.test_nodes import client, good, serving, upload
from tests.stack import Stack


def renew(config: Path, key_file: Path, expired: str) -> str:
    return TorchServe(config, key_file, timeout=60)._tokens.renew("inference", expired)


def test_processes_do_not_renew_over_each_other(stack: Stack) -> None:
    expired = stack.torchserve._tokens.read("inference")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        renewed = pool.starmap(renew, [(stack.config, stack.run / "key_file.json", expired)] * 8)
    assert len(set(renewed)) == 1
    assert renewed[0] != expired


def test_the_token_of_the_nodes_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with serving(good) as (server,):
        torchserve = TorchServeNodes([server.url], file, timeout=5)
        for token in ("first", "second"):
            file.write_text(f"{token}\n")
            torchserve.predict(b"image")
    assert [authorization for _, authorization in server.asked] == ["Bearer first", "Bearer second"]


def test_without_its_token_the_gateway_asks_nobody(tmp_path: Path) -> None:
    with serving(good) as (server,):
        reply = client([server.url], tmp_path / "none").post("/predict", data=upload())
        assert not server.asked
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    assert reply.get_json()["error"] == "The model is not available."


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [(401, "InvalidTokenException", "not the token"), (400, "InvalidKeyException", "deploy/torchserve.properties")],
)
def test_the_operator_is_told_which_token_is_wrong(tmp_path: Path, status: int, kind: str, sentence: str) -> None:
    file = tmp_path / "token"
    file.write_text("other")
    said = {"type": kind, "message": "This is not the token of the nodes"}
    with serving(lambda path: (status, said)) as (server,), pytest.raises(TorchServeError, match=sentence):
        TorchServeNodes([server.url], file, timeout=5).predict(b"image")

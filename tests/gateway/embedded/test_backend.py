"""The model in the gateway's own process: what test_routes does not ask of every backend."""

import io
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest
import requests

from gateway.app import create_app
from gateway.backend import OutdatedArchive
from gateway.embedded.backend import Embedded
from scripts.serving.defaults import EMBEDDED
from tests.archives import rebuild
from tests.drawing import draw, encode
from tests.stack import GATEWAY, JAVA, ROOT, WORKER, Stack, serve, wait_until

PICTURE = encode(draw("purple", 21))


@pytest.fixture(scope="module")
def local(archive: Path, workspace: Path) -> Iterator[Stack]:
    with serve(archive, workspace / "alone", EMBEDDED) as running:
        yield running


def test_there_is_nothing_but_the_gateway(local: Stack) -> None:
    assert local.output[0] == "Starting Gateway …\n"
    assert len(local.processes(GATEWAY)) == 3
    assert not local.processes(JAVA) + local.processes(WORKER)


def test_lives_on_while_it_computes(local: Stack) -> None:
    """A class is explained in a second of computing; nobody who asks something else waits for that."""
    with ThreadPoolExecutor(4) as pool:
        explained = [
            pool.submit(requests.post, f"{local.url}/explain", files={"file": ("ship.jpg", PICTURE)}) for _ in range(4)
        ]
        waited, began = [], time.monotonic()
        while not all(each.done() for each in explained):
            started = time.monotonic()
            assert requests.get(f"{local.url}/live").ok
            waited.append(time.monotonic() - started)
        took = time.monotonic() - began
    assert {each.result().status_code for each in explained} <= {200, 503}
    assert max(waited) < max(0.5, took / 2)  # beside other work, all of it takes longer


def test_a_process_that_dies_is_started_again(local: Stack) -> None:
    _, *processes = sorted(process.pid for process in local.processes(GATEWAY))
    for process in local.processes(GATEWAY):
        if process.pid in processes:
            process.send_signal(signal.SIGKILL)
    wait_until(lambda: len({process.pid for process in local.processes(GATEWAY)} - set(processes)) == 3)
    assert requests.post(f"{local.url}/predict", files={"file": PICTURE}).json()["predicted_class"] == "purple"


def test_an_image_that_crashes_the_decoder_costs_a_process_and_not_the_gateway(archive: Path, tmp_path: Path) -> None:
    poison, reads = b"crash", "image = decode_for(bytes(file), self.inputs)"
    crashes = f"if file == {poison!r}: __import__('os').abort()\n            {reads}"
    rebuild(archive, tmp_path / "crashes.mar", {"handler/predictor.py": (reads, crashes)})
    with serve(tmp_path / "crashes.mar", tmp_path, EMBEDDED) as stack:
        before = {process.pid for process in stack.processes(GATEWAY)}
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{stack.url}/predict", files={"file": poison})
        for _ in range(8):  # the other process goes on
            assert requests.post(f"{stack.url}/predict", files={"file": PICTURE}).json()["predicted_class"] == "purple"
        wait_until(lambda: len(stack.processes(GATEWAY)) == 3)
        assert len(before & {process.pid for process in stack.processes(GATEWAY)}) == 2


def test_the_code_of_an_archive_imports_all_of_itself_when_it_is_loaded() -> None:
    """Later its own modules are no longer found under their name."""
    lines = [line for path in (ROOT / "handler").glob("*.py") for line in path.read_text().splitlines()]
    assert "from handler.predictor import Network, Predictor" in lines
    assert not [line for line in lines if re.match(r"\s+(from|import) handler\b", line)]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("model_card.json", '"in_distribution"', '"familiarity"'),
        ("model_card.json", '"preprocessing"', '"normalisation"'),
        (None, "", ""),
    ],
)
def test_an_archive_of_an_earlier_version_is_to_be_packed_again(
    archive: Path, tmp_path: Path, file: str | None, old: str, new: str
) -> None:
    shutil.unpack_archive(archive, tmp_path, "zip")
    if file:
        change(tmp_path / file, old, new)
    else:
        (tmp_path / "handler" / "onnx_engine.py").rename(tmp_path / "handler" / "engine.py")
    with pytest.raises(OutdatedArchive, match="pack it again with 'classifier archive'"):
        Embedded(tmp_path, workers=1)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(("batch_size", "at_once"), [(16, True), (4, False)])
def test_only_a_light_network_runs_in_the_thread_of_the_request(
    archive: Path, tmp_path: Path, batch_size: int, at_once: bool
) -> None:
    """Other clients of the process wait for what runs there."""
    shutil.unpack_archive(archive, tmp_path, "zip")
    card = json.loads((tmp_path / "model_card.json").read_text())
    (tmp_path / "model_card.json").write_text(json.dumps(card | {"batch_size": batch_size}))
    embedded, threads = Embedded(tmp_path, workers=1), list[int]()
    model = embedded._model()
    predict = model.predict

    def seen(items: list[Any]) -> Any:
        threads.append(get_ident())
        return predict(items)

    model.predict = seen
    assert embedded.predict(PICTURE)["predicted_class"] == "purple"
    assert (threads == [get_ident()]) is at_once


def test_each_archive_runs_its_own_code(archive: Path, tmp_path: Path) -> None:
    import handler.explanation

    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        shutil.unpack_archive(archive, folder, "zip")
    manifest = json.loads((second / "MAR-INF" / "MANIFEST.json").read_text())
    manifest["model"]["modelVersion"] = "2.0"
    (second / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    with (second / "handler" / "explanation.py").open("a") as code:
        code.write('METHOD = "other"\n')

    clients = [create_app({"MODEL_DIR": str(folder)}).test_client() for folder in (first, second, first)]
    for client, version, method in zip(
        clients, ("1.0", "2.0", "1.0"), (handler.explanation.METHOD, "other", handler.explanation.METHOD), strict=True
    ):
        sent = [{"file": (io.BytesIO(PICTURE), "picture.png")} for _ in range(2)]
        answer, why = client.post("/predict", data=sent[0]).get_json(), client.post("/explain", data=sent[1]).get_json()
        assert (answer["predicted_class"], answer["version"]) == ("purple", version)
        assert (why["method"], why["version"]) == (method, version)
        assert client.get("/model").get_json()["version"] == version
    assert sys.modules["handler.explanation"] is handler.explanation

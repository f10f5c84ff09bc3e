"""The handler as a TorchServe worker uses it: from an unpacked archive, away from the repository."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.drawing import TEN, draw, encode

WORKER = """
import json, os, sys
import torch
from ts.model_loader import ModelLoaderFactory

model_dir, explained, more_headers, gpu, requests = sys.argv[1], *map(json.loads, sys.argv[2:5]), sys.argv[5:]
torch.accelerator.is_available = lambda: gpu is not None
service = ModelLoaderFactory.get_model_loader().load("drawn", model_dir, "image_classifier.py", gpu, 16, None, False)
import handler
assert handler.__file__.startswith(model_dir), handler.__file__
def parameters(path):
    several = sorted(os.listdir(path)) if os.path.isdir(path) else []
    files = {name: os.path.join(path, name) for name in several} or {"body": path}
    return [{"name": name, "contentType": "", "value": open(file, "rb").read()} for name, file in files.items()]
def headers(path):
    explain = {"explain": str(path in explained), "explained-class": explained.get(path, "")}
    given = explain | more_headers.get(path, {})
    return [{"name": name.encode(), "value": value.encode()} for name, value in given.items()]
batch = [{"requestId": b"id", "parameters": parameters(path), "headers": headers(path)} for path in requests]
headers, data, ids = service.retrieve_data_for_inference(batch)
service.context.request_processor, service.context.request_ids = headers, ids
from ts.metrics.metrics_store import MetricsStore
service.context.metrics = service.context.metrics or MetricsStore(ids, "drawn")
network, priorities = service._entry_point.__self__.classifier.network, []
def watched(images):
    priorities.append(os.getpriority(os.PRIO_PROCESS, 0))
    return network(images)
service._entry_point.__self__.classifier.network = watched
replies = service._entry_point(data, service.context)
statuses = [service.context.get_response_status(index)[0] for index in range(len(requests))]
priorities.append(os.getpriority(os.PRIO_PROCESS, 0))
replies = [json.loads(reply) for reply in replies]
print(json.dumps({"replies": replies, "statuses": statuses, "priorities": priorities}))
"""


@pytest.fixture(scope="module")
def model_dir(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(archive).extractall(folder)
    return folder


def handle(
    model_dir: Path,
    folder: Path,
    *requests: bytes | list[bytes],
    explained: dict[int, str] | None = None,
    headers: dict[int, dict[str, str]] | None = None,
    gpu: int | None = None,
) -> dict[str, list]:
    """Hand a batch of requests, of one file or several, to a worker's service.

    By place, some are to be `explained`, and some have more `headers`. The priorities are those of the thread when it
    runs the network, and of the one that has asked for that afterwards. A `gpu` is taken to be there, although
    the processor does its work.
    """
    paths = [folder / str(number) for number in range(len(requests))]
    for path, request in zip(paths, requests, strict=True):
        if isinstance(request, bytes):
            path.write_bytes(request)
            continue
        path.mkdir()
        for number, image in enumerate(request):
            (path / f"{number:03}").write_bytes(image)
    wanted = [{str(paths[index]): value for index, value in (each or {}).items()} for each in (explained, headers)]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, model_dir, *map(json.dumps, [*wanted, gpu]), *paths],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(model_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_tells_nobody_about_this_machine(model_dir: Path, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(model_dir)}  # and no CI, which silences ONNX Runtime
    load = [sys.executable, "-c", "import image_classifier"]
    subprocess.run(load, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert not [path.name for path in tmp_path.rglob("*") if "onnxruntime" in path.name]


def test_one_bad_image_in_a_batch_fails_alone(model_dir: Path, tmp_path: Path) -> None:
    good, other = encode(draw("red", 3)), encode(draw("blue", 4), "JPEG")
    batch = handle(model_dir, tmp_path, good, b"not an image", encode(draw("red", 5), "BMP"), other)

    assert batch["statuses"] == [200, 400, 415, 200]
    assert [reply["success"] for reply in batch["replies"]] == [True, False, False, True]
    assert all(reply["error"] for reply in batch["replies"][1:3])
    assert [reply["predicted_class"] for reply in (batch["replies"][0], batch["replies"][3])] == ["red", "blue"]


def test_probabilities_are_named_in_class_order_and_sum_to_one(model_dir: Path, tmp_path: Path) -> None:
    (reply,) = handle(model_dir, tmp_path, encode(draw("green", 3)))["replies"]

    assert list(reply["class_probabilities"]) == sorted(TEN)
    assert sum(reply["class_probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert reply["confidence"] == max(reply["class_probabilities"].values())


def test_a_batch_of_nothing_but_bad_images_is_answered(model_dir: Path, tmp_path: Path) -> None:
    assert handle(model_dir, tmp_path, b"", b"GIF89a")["statuses"] == [400, 400]


def test_several_files_in_a_request_are_answered_in_order(model_dir: Path, tmp_path: Path) -> None:
    red, blue = encode(draw("red", 3)), encode(draw("blue", 4))
    batch = handle(model_dir, tmp_path, blue, [red, b"not an image", *[blue] * 70], red)

    assert batch["statuses"] == [200, 200, 200]
    first, several, last = batch["replies"]
    assert (first["predicted_class"], last["predicted_class"]) == ("blue", "red")
    assert "cannot be read" in several[1]["error"]
    assert [reply.get("predicted_class") for reply in several] == ["red", None, *["blue"] * 70]
    assert several[-1]["confidence"] == pytest.approx(first["confidence"], abs=1e-5)


def test_a_body_is_cut_where_its_header_says(model_dir: Path, tmp_path: Path) -> None:
    red, blue = encode(draw("red", 3)), encode(draw("blue", 4), "JPEG")
    files = [blue, b"", red, b"not an image", blue]
    lengths = {0: {"file-lengths": ",".join(str(len(file)) for file in files)}}
    batch = handle(model_dir, tmp_path, b"".join(files), red, headers=lengths)

    several, alone = batch["replies"]
    assert [reply.get("predicted_class") for reply in several] == ["blue", None, "red", None, "blue"]
    assert alone["predicted_class"] == "red"


def test_in_a_batch_only_what_came_for_it_is_explained(model_dir: Path, tmp_path: Path) -> None:
    red = encode(draw("red", 3))
    asked = {0: "", 2: "blue", 3: "", 4: "no%20colour"}
    batch = handle(model_dir, tmp_path, red, red, red, b"not an image", red, explained=asked)

    assert batch["statuses"] == [200, 200, 200, 400, 400]
    why, answer, why_not, unread, unknown = batch["replies"]
    assert (why["explained_class"], why["predicted_class"], why_not["explained_class"]) == ("red", "red", "blue")
    assert [len(row) for row in why["heat_map"]] == [32] * 32
    assert max(map(max, why["heat_map"])) > 0
    assert max(map(max, why_not["heat_map"])) <= 0.5
    assert "heat_map" not in answer
    assert "cannot be read" in unread["error"]
    assert "no class no colour" in unknown["error"]


@pytest.mark.parametrize(("niceness", "lowered"), [({0: 19, 1: 10}, 10), ({0: 19}, 0)])
def test_a_batch_that_gives_way_to_others_runs_at_a_low_priority(
    model_dir: Path, tmp_path: Path, niceness: dict[int, int], lowered: int
) -> None:
    red = encode(draw("red", 3))
    headers = {place: {"niceness": str(value)} for place, value in niceness.items()}
    batch = handle(model_dir, tmp_path, red, red, headers=headers)

    during, after = batch["priorities"]
    assert [reply["predicted_class"] for reply in batch["replies"]] == ["red", "red"]
    assert during - after == lowered


def test_with_a_gpu_torchscript_answers_and_without_one_onnx(archive: Path, tmp_path: Path) -> None:
    answers = []
    for gpu, not_needed in ((None, "*.pt"), (0, "*.onnx")):
        folder = tmp_path / not_needed
        zipfile.ZipFile(archive).extractall(folder / "unpacked")
        (file,) = (folder / "unpacked").glob(not_needed)
        file.unlink()
        images = [encode(draw(colour, 3)) for colour in TEN]
        answers.append(handle(folder / "unpacked", folder, *images, gpu=gpu)["replies"])
    with_onnx, with_torchscript = answers
    assert [reply["predicted_class"] for reply in with_torchscript] == list(TEN)
    for one, other in zip(with_onnx, with_torchscript, strict=True):
        assert other["class_probabilities"] == pytest.approx(one["class_probabilities"], abs=1e-5)

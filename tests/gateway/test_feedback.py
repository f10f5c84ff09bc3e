"""Feedback: what people say of an image is kept as training data, by its own bytes or its request, and in bounds."""

import io
import json
import os
import shutil
import time
from pathlib import Path
from threading import Event
from typing import Any

import gevent
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gateway import app, feedback
from gateway.app import create_app
from gateway.backend import Prediction
from gateway.feedback import Feedback
from gateway.keys import add_client
from gateway.limits import MAX_NOTE_LENGTH
from handler import transforms
from tests.drawing import draw, encode
from tests.fake_backend import FakeBackend, prediction
from tests.stack import wait_until
from training.photos import photos_of

RED, BLUE = encode(draw("red", 1), "JPEG"), encode(draw("blue", 2))


def gateway(monkeypatch: pytest.MonkeyPatch, folder: Path, **settings: object) -> FlaskClient:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder.parent / "shared"))
    monkeypatch.setattr(app, "_backend", lambda config: FakeBackend())
    return create_app({"FEEDBACK_DIR": str(folder), **settings}).test_client()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "feedback"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, folder: Path) -> FlaskClient:
    return gateway(monkeypatch, folder)


def send(client: FlaskClient, image: bytes | None, key: str = "", **fields: str) -> TestResponse:
    """Send feedback. The field `name` is the class."""
    form: dict[str, Any] = {{"name": "class"}.get(field, field): text for field, text in fields.items()}
    if image is not None:
        form["file"] = (io.BytesIO(image), "image")
    headers = {"X-API-Key": key} if key else {}
    return client.post("/feedback", data=form, content_type="multipart/form-data", headers=headers)


def predict(client: FlaskClient, image: bytes = RED, key: str = "") -> str:
    headers = {"X-API-Key": key} if key else {}
    reply = client.post("/predict", data={"file": (io.BytesIO(image), "image")}, headers=headers)
    assert reply.status_code == 200
    return reply.headers["X-Request-ID"]


def lines(folder: Path, kept: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / kept).with_suffix(".jsonl").read_text().splitlines()]


def test_is_off_unless_a_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_backend", lambda config: FakeBackend())
    client = create_app().test_client()
    refused = send(client, RED, name="cat")
    assert (refused.status_code, refused.get_json()["error"]) == (404, "This server keeps no feedback.")
    assert client.get("/health").get_json()["feedback"] is False


def test_an_image_is_kept_as_training_data(client: FlaskClient, folder: Path) -> None:
    replies = [
        send(client, encode(draw(name, seed)), name=name, note="from the shop")
        for name in ("red", "blue")
        for seed in range(3)
    ]
    assert {reply.status_code for reply in replies} == {200}
    kept = replies[0].get_json()["kept"]
    assert (folder / kept).read_bytes() == encode(draw("red", 0))
    (line,) = lines(folder, kept)
    assert (line["class"], line["note"], line["client"]) == ("red", "from the shop", None)
    photos = photos_of(folder, "train")
    assert (photos.classes, len(photos.paths), photos.problems) == (["blue", "red"], 4, [])
    assert client.get("/health").get_json()["feedback"] is True


def test_the_id_of_a_request_is_enough(monkeypatch: pytest.MonkeyPatch, client: FlaskClient, folder: Path) -> None:
    request_id = predict(client)
    other_process = gateway(monkeypatch, folder)
    reply = send(other_process, None, id=request_id, name="dog")
    kept = reply.get_json()["kept"]
    assert (folder / kept).read_bytes() == RED
    (line,) = lines(folder, kept)
    assert (line["id"], line["class"], line["predicted_class"]) == (request_id, "dog", "cat")
    assert (line["confidence"], line["version"]) == (1.0, "1.0")


def test_an_image_with_the_id_of_its_request_is_known(client: FlaskClient, folder: Path) -> None:
    request_id = predict(client)
    right = send(client, RED, id=request_id, name="dog").get_json()["kept"]
    other = send(client, BLUE, id=request_id, name="dog").get_json()["kept"]
    assert lines(folder, right)[0]["predicted_class"] == "cat"
    assert "predicted_class" not in lines(folder, other)[0]


def test_saying_it_twice_keeps_one_image_and_two_lines(client: FlaskClient, folder: Path) -> None:
    first, second = (send(client, RED, name="dog", note=note).get_json()["kept"] for note in ("a", "b"))
    assert first == second
    assert [line["note"] for line in lines(folder, first)] == ["a", "b"]
    assert len([*folder.rglob("*.jpg")]) == 1


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../up", "/etc", "a/b", "a\\b", ".hidden", "a\nb", "a\0b", "C:", "dog.", "x" * 257, "<b>"],
)
def test_what_is_no_name_of_a_folder_is_no_class(client: FlaskClient, folder: Path, name: str) -> None:
    refused = send(client, RED, name=name)
    assert refused.status_code == 400
    assert "right class" in refused.get_json()["error"]
    assert not [*folder.rglob("*.jpg")]


@pytest.mark.parametrize(
    ("image", "fields", "status"),
    [
        (None, {"name": "cat"}, 400),
        (None, {"name": "cat", "id": "unknown"}, 404),
        (None, {"name": "cat", "id": "../../etc/passwd"}, 404),
        (None, {"name": "cat", "id": ".."}, 404),
        (b"", {"name": "cat"}, 415),
        (b"%PDF-1.7", {"name": "cat"}, 415),
        (b"\xff\xd8junk", {"name": "cat"}, 415),
        (RED, {"name": "é" * 150}, 400),
        (RED, {"name": "cat", "note": "x" * (MAX_NOTE_LENGTH + 1)}, 400),
        (RED, {}, 400),
    ],
)
def test_what_is_no_feedback_is_refused(
    client: FlaskClient, image: bytes | None, fields: dict[str, str], status: int
) -> None:
    refused = send(client, image, **fields)
    assert refused.status_code == status
    assert refused.get_json().keys() == {"error", "success"}


def test_a_long_class_is_called_long(client: FlaskClient) -> None:
    assert "200 bytes" in send(client, RED, name="猫" * 70).get_json()["error"]


@pytest.mark.parametrize(("brand", "status"), [(b"heic", 200), (b"mif1", 200), (b"mp42", 415), (b"avif", 415)])
def test_a_film_is_no_photo(client: FlaskClient, brand: bytes, status: int) -> None:
    assert send(client, b"\0\0\0\x18ftyp" + brand + bytes(100), name="dog").status_code == status


def test_the_gateway_and_the_handler_mean_the_same_by_heic() -> None:
    assert feedback.HEIC_MAGIC == transforms.HEIC_MAGIC


def test_a_class_in_any_language(client: FlaskClient, folder: Path) -> None:
    assert (folder / send(client, RED, name="小猫 & co").get_json()["kept"]).exists()


def test_a_client_speaks_of_its_own_requests_only(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    ann, bo = (add_client(folder.parent / "keys", name) for name in ("ann", "bo"))
    client = gateway(monkeypatch, folder, API_KEYS_FILE=str(folder.parent / "keys"))
    request_id = predict(client, key=ann)
    statuses = [send(client, None, key, id=request_id, name="dog").status_code for key in (bo, ann, "")]
    assert statuses == [404, 200, 401]


def test_it_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    client = gateway(monkeypatch, folder, FEEDBACK_MEGABYTES=0.02)
    assert send(client, RED, name="dog").status_code == 200
    full = send(client, RED + bytes(20_000), name="dog")
    assert full.status_code == 507
    assert "review" in full.get_json()["error"]


def test_it_is_bounded_in_age(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    client = gateway(monkeypatch, folder, FEEDBACK_DAYS=1)
    old = folder / send(client, RED, name="dog").get_json()["kept"]
    for file in (old, old.with_suffix(".jsonl")):
        os.utime(file, (time.time() - 100_000,) * 2)
    monkeypatch.setattr(feedback, "SECONDS_BETWEEN_SCANS", 0)
    mine = folder / "dog" / "holiday.jpg"
    mine.write_bytes(RED)
    os.utime(mine, (time.time() - 100_000,) * 2)
    new = folder / send(client, BLUE, name="dog").get_json()["kept"]
    assert [path.exists() for path in (old, old.with_suffix(".jsonl"), new)] == [False, False, True]
    assert mine.exists()  # it deletes no other files


def test_old_ones_go_where_requests_hold_several_images_alone(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    client = gateway(monkeypatch, folder, FEEDBACK_DAYS=1)
    old = folder / send(client, RED, name="dog").get_json()["kept"]
    os.utime(old, (time.time() - 100_000,) * 2)
    monkeypatch.setattr(feedback, "SECONDS_BETWEEN_SCANS", 0)
    files = [(io.BytesIO(RED), "red"), (io.BytesIO(BLUE), "blue")]
    assert client.post("/predict", data={"file": files}).status_code == 200
    wait_until(lambda: not old.exists())


def test_what_is_told_again_stays_as_long_as_what_is_new(client: FlaskClient, folder: Path) -> None:
    old = folder / send(client, RED, name="dog").get_json()["kept"]
    for file in (old, old.with_suffix(".jsonl")):
        os.utime(file, (time.time() - 89 * 86_400,) * 2)
    send(client, RED, name="dog")
    assert all(file.stat().st_mtime > time.time() - 60 for file in (old, old.with_suffix(".jsonl")))


def test_folders_are_no_images(monkeypatch: pytest.MonkeyPatch, client: FlaskClient, folder: Path) -> None:
    monkeypatch.setattr(feedback, "MAX_IMAGES", 2)
    for number in range(10):
        (folder / f"class {number}").mkdir(parents=True)
    assert [send(client, image, name="dog").status_code for image in (RED, BLUE, RED + b"3")] == [200, 200, 507]


def test_a_client_that_uses_an_id_again_means_the_last_image(client: FlaskClient, folder: Path) -> None:
    for image in (RED, BLUE):
        form = {"file": (io.BytesIO(image), "image")}
        client.post("/predict", data=form, headers={"X-Request-ID": "camera-1"})
    kept = send(client, None, id="camera-1", name="dog").get_json()["kept"]
    assert (folder / kept).read_bytes() == BLUE


def test_images_are_remembered_though_their_folder_was_tidied_away(client: FlaskClient, folder: Path) -> None:
    shutil.rmtree(folder.parent / "shared", ignore_errors=True)
    assert send(client, None, id=predict(client), name="dog").status_code == 200


def test_requests_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch, client: FlaskClient, folder: Path) -> None:
    monkeypatch.setattr(feedback, "RECENT_BYTES", 20 * len(RED))
    ids = [predict(client) for _ in range(100)]
    assert len([*(folder.parent / "shared" / "recent").glob("*/*")]) <= 20
    assert send(client, None, id=ids[-1], name="dog").status_code == 200
    assert send(client, None, id=ids[0], name="dog").status_code == 404


def test_a_full_disk_costs_the_feedback_alone(monkeypatch: pytest.MonkeyPatch, client: FlaskClient) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    predict(client)
    refused = send(client, RED, name="dog")
    assert refused.status_code == 507
    assert "device" not in refused.get_json()["error"]


class Unsure(FakeBackend):
    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        return prediction("cat") | {"confidence": 0.3 if image == RED else 1.0, "in_distribution": image != BLUE}


@pytest.mark.parametrize(("share", "kept"), [(1, 2), (0, 0)])
def test_unsure_predictions_and_outliers_are_kept_to_be_labelled(
    monkeypatch: pytest.MonkeyPatch, folder: Path, share: int, kept: int
) -> None:
    monkeypatch.setattr(app, "_backend", lambda config: Unsure())
    client = create_app({"FEEDBACK_DIR": str(folder), "FEEDBACK_SHARE": share}).test_client()
    for image in (RED, BLUE, encode(draw("lime", 3))):
        predict(client, image)

    def images() -> list[Path]:
        return [path for path in folder.rglob("[!.]*") if path.suffix in (".jpg", ".png")]

    wait_until(lambda: len(images()) == kept, seconds=5)  # no prediction has waited for the disk
    time.sleep(0.2)
    assert len(images()) == kept
    assert all(path.parent.name == feedback.UNLABELLED for path in images())


def test_a_torn_file_in_memory_is_no_image(client: FlaskClient, folder: Path) -> None:
    request_id = predict(client)
    (file,) = (folder.parent / "shared" / "recent").glob("*/*")
    file.write_bytes(b'{"cli')
    assert send(client, None, id=request_id, name="dog").status_code == 404


def test_a_full_memory_is_tidied(monkeypatch: pytest.MonkeyPatch, client: FlaskClient, folder: Path) -> None:
    with monkeypatch.context() as full:
        full.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        predict(client)
    assert not [*(folder.parent / "shared" / "recent").glob("*/*")]
    assert send(client, None, id=predict(client), name="dog").status_code == 200


def test_old_images_go_though_nobody_tells_anything(
    monkeypatch: pytest.MonkeyPatch, client: FlaskClient, folder: Path
) -> None:
    old = folder / send(client, RED, name="dog").get_json()["kept"]
    os.utime(old, (time.time() - 100 * 86_400,) * 2)
    monkeypatch.setattr(feedback, "SECONDS_BETWEEN_SCANS", 0)
    predict(client, BLUE)
    wait_until(lambda: not old.exists(), seconds=5)


def test_many_may_speak_at_once(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    store = Feedback(folder, 10**9, 10**9, 0, folder.parent / "recent")
    slowly = store._keep

    def keep(*arguments: Any) -> Any:
        time.sleep(0.05)
        return slowly(*arguments)

    monkeypatch.setattr(store, "_keep", keep)
    images = [encode(draw("red", number), "JPEG") for number in range(10)]
    speaking = [gevent.spawn(store.keep, image, "dog", {}) for image in images]
    assert len({one.get(timeout=20) for one in speaking}) == 10


def test_no_prediction_waits_for_a_drive_that_has_gone(
    monkeypatch: pytest.MonkeyPatch, client: FlaskClient, folder: Path
) -> None:
    back = Event()

    def hang(*_: Any) -> None:
        back.wait()

    monkeypatch.setattr(feedback, "SECONDS_BETWEEN_SCANS", 0)
    monkeypatch.setattr(feedback, "DISK_SECONDS", 0.1)
    monkeypatch.setattr(Feedback, "_scan", hang)
    monkeypatch.setattr(Feedback, "_keep", hang)
    try:
        for _ in range(4):
            predict(client, BLUE)
            assert send(client, RED, name="dog").status_code == 507
    finally:
        back.set()

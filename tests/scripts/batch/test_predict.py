"""Batch prediction as a command, through the real gateway."""

import codecs
import csv
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pyarrow import parquet

from gateway.limits import MAX_FILES
from scripts.batch import client, predict, watch
from scripts.batch.client import Answer, Gateway, GatewayGone
from scripts.batch.predict import follow
from scripts.batch.rows import FIGURES
from scripts.batch_predict import main
from tests.drawing import TEN, draw, encode
from tests.fake_backend import prediction
from tests.fake_gateway import CLASSES, RED, Reply, answering
from tests.stack import ROOT, Record, Stack, free_ports, times, wait_until

KILLS = times(5, 100)


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "batch_predict.py"), *map(str, arguments)]


def batch_predict(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)


def rows(path: Path) -> list[dict[str, str]]:
    return rows_of(path.read_bytes())


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def test_folders_and_files_in_order_with_errors_beside(stack: Stack, dataset: Path, tmp_path: Path) -> None:
    broken, other = tmp_path / "broken.png", tmp_path / "other.bmp"
    broken.write_bytes(b"broken")
    other.write_bytes(encode(draw("red", 1), "BMP"))
    output = tmp_path / "out.csv"

    done = batch_predict(broken, dataset / "test" / "cyan", other, "-o", output, "--url", stack.url)

    assert done.returncode == 1
    assert "8 of 10 images predicted" in done.stdout
    assert "accuracy " in done.stdout
    assert "of 8 in folders named as classes)" in done.stdout
    assert "skipped" not in done.stdout
    written = rows(output)
    expected = [broken, *sorted((dataset / "test" / "cyan").iterdir()), other]
    assert [row["file"] for row in written] == [str(path) for path in expected]
    assert "cannot be read" in written[0]["error"]
    assert "send a JPEG" in written[-1]["error"]
    assert all(row["predicted_class"] in TEN and not row["error"] for row in written[1:-1])
    assert list(written[0])[5:] == [f"probability_{name}" for name in sorted(TEN)]


def test_no_accuracy_where_folders_are_no_classes(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    draw("red", 1).save(tmp_path / "holiday" / "one.PNG")
    for name in ("two.bmp", "three.bmp", "notes.txt", ".hidden"):
        (tmp_path / "holiday" / name).touch()
    done = batch_predict(tmp_path / "holiday", "-o", tmp_path / "out.csv", "--url", stack.url)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"1 of 1 images predicted; wrote {tmp_path / 'out.csv'}",
        "3 other files skipped (.bmp 2, .txt 1)",
        "no accuracy: the folder holiday is no class of the model",
    ]


def test_tells_machines_and_eyes_how_it_did(stack: Stack, dataset: Path, tmp_path: Path) -> None:
    glob, output, sheet = dataset / "test" / "c*" / "*.png", tmp_path / "out.csv", tmp_path / "sheet.png"
    listed = "\n".join(str(dataset / "test" / name) for name in ("red", "blue"))
    done = subprocess.run(
        command(glob, "--list", "-", "-o", output, "--contact-sheet", sheet, "--url", stack.url, "--json"),
        input=listed,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found, written = json.loads(done.stdout), rows(output)
    folders = [Path(row["file"]).parent.name for row in written]
    assert folders == ["cyan"] * 8 + ["red"] * 8 + ["blue"] * 8
    right = [row["predicted_class"] == folder for row, folder in zip(written, folders, strict=True)]
    assert (found["images"], found["failed"], found["labelled"]) == (24, 0, 24)
    assert found["accuracy"] == sum(right) / 24
    assert (found["skipped"], found["folders_without_class"]) == ({}, [])
    assert found["confusion"]["red"]["red"] == sum(right[8:16])
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG"


def test_watches_a_folder_and_asks_no_file_twice(stack: Stack, tmp_path: Path) -> None:
    drop, output = tmp_path / "red", tmp_path / "out.jsonl"
    drop.mkdir()
    draw("red", 1).save(drop / "there.png")

    def watch_until(count: int, ending: signal.Signals) -> str:
        wait_until(lambda: len(table(output)) == count)
        process.send_signal(ending)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        return printed.splitlines()[0]

    watching = command(drop, "--watch", "-o", output, "--url", stack.url)
    with subprocess.Popen(watching, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: output.exists() and table(output))
        (drop / "broken.png").write_bytes(b"broken")
        assert watch_until(2, signal.SIGTERM) == f"1 of 2 images predicted; wrote {output}"
    draw("red", 2).save(drop / "another.png")
    with subprocess.Popen(watching, stdout=subprocess.PIPE, text=True) as process:
        assert watch_until(3, signal.SIGINT) == f"2 of 3 images predicted; wrote {output}"
    assert [Path(row["file"]).name for row in table(output)] == ["there.png", "broken.png", "another.png"]


@pytest.mark.slow
def test_watching_waits_for_a_gateway_that_has_gone_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Leaving(Gateway):
        """Is away when it is asked first, and ends the watching once it has answered."""

        asked = 0

        def predict_all(self, groups: list[list[Path]], done: int = 0) -> Iterator[list[Answer]]:
            self.asked += 1
            if self.asked == 1:
                raise GatewayGone("There is no gateway.")
            self.stop.set()
            yield [prediction("red")]

    monkeypatch.setattr(predict, "AWAY_SECONDS", 0)
    draw("red", 1).save(tmp_path / "red.png")
    rows_there = follow([tmp_path], Leaving("http://127.0.0.1:1", 1), ["red"], tmp_path / "out.csv")
    assert (list(rows_there.final), rows_there.again) == ([str(tmp_path / "red.png")], {})
    assert "There is no gateway. Trying again every 0 s." in capsys.readouterr().err
    assert rows(tmp_path / "out.csv")[0]["predicted_class"] == "red"


def test_says_why_nothing_was_done(stack: Stack, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    output = tmp_path / "out.csv"
    for arguments, sentence in (
        ((tmp_path / "none",), "There is no file or folder"),
        ((tmp_path,), "There are no JPEG, PNG, GIF or WebP files"),
        ((__file__, "--url", f"http://127.0.0.1:{port}"), "start one with 'classifier serve'"),
        ((__file__, "-o", tmp_path / "out.txt"), "must end in .csv or .jsonl or .parquet."),
        ((__file__, "--contact-sheet", tmp_path / "sheet.jpg"), "must end in .png."),
        ((__file__, "-o", tmp_path / "out.parquet", "--watch"), "name a .csv or .jsonl as --output."),
    ):
        done = batch_predict("-o", output, "--url", stack.url, *arguments)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
    assert not output.exists()


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], bytes]:
    """Arguments but for the output, with an image that fails among the first and a last group of its own size; and the
    bytes they lead to. One request at a time, as the last digits depend on what the network sees together.
    """
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "broken.png").write_bytes(b"broken")
    arguments = [folder / "broken.png", dataset, "--url", stack.url, "--connections", 1]
    assert batch_predict(*arguments, "-o", folder / "out.csv").returncode == 1
    return arguments, (folder / "out.csv").read_bytes()


@pytest.mark.timeout(1200)
def test_killed_at_any_moment_the_same_command_goes_on(
    undisturbed: tuple[list[object], bytes], tmp_path: Path, record_property: Record
) -> None:
    arguments, whole = undisturbed
    output, part = tmp_path / "out.csv", tmp_path / "out.csv.part"
    dice, kills = random.Random(11), 0
    started = time.monotonic()
    batch_predict(*arguments, "-o", tmp_path / "other.csv")
    seconds = time.monotonic() - started
    while kills < KILLS:
        process = subprocess.Popen(command(*arguments, "-o", output), stdout=subprocess.DEVNULL)
        until = time.monotonic() + dice.uniform(0, seconds)
        while time.monotonic() < until or not (part.exists() or process.poll() is not None):
            time.sleep(0.001)
        kills += process.poll() is None
        process.kill()
        process.wait()
        assert not output.exists() or output.read_bytes() == whole
    assert batch_predict(*arguments, "-o", output).returncode == 1
    assert output.read_bytes() == whole
    assert not part.exists()
    record_property(f"batch prediction killed {kills} times", "every row once, the bytes of an undisturbed run")


@pytest.mark.parametrize("cut", ["in the header", "in a row", "before the end of a row", "after a row", "at the end"])
def test_goes_on_after_the_rows_of_whole_requests(
    cut: str, undisturbed: tuple[list[object], bytes], tmp_path: Path
) -> None:
    arguments, whole = undisturbed
    lines = whole.splitlines(keepends=True)
    torn_at = len(b"".join(lines[: 1 + 2 * MAX_FILES + 3]))
    length, kept = {
        "in the header": (7, 0),
        "in a row": (torn_at + 20, 2 * MAX_FILES),
        "before the end of a row": (torn_at - 1, 2 * MAX_FILES),
        "after a row": (torn_at, 2 * MAX_FILES),
        "at the end": (len(whole), len(lines) - 1),
    }[cut]
    (tmp_path / "out.csv.part").write_bytes(whole[:length])
    done = batch_predict(*arguments, "-o", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == whole
    assert (f"Continuing after the {kept} images in " in done.stderr) is (kept > 0)
    assert f"{len(lines) - 2} of {len(lines) - 1} images predicted" in done.stdout
    assert f"of {len(lines) - 2} in folders named as classes" in done.stdout


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_every_format_goes_on_and_says_the_same(
    suffix: str, undisturbed: tuple[list[object], bytes], tmp_path: Path
) -> None:
    arguments, as_csv = undisturbed
    output, part = tmp_path / f"out{suffix}", tmp_path / f"out{suffix}.part"
    batch_predict(*arguments, "-o", output)
    whole = output.read_bytes()
    written = table(output)
    assert written[0].pop("error")
    assert set(written[0].values()) == {None, written[0]["file"]}
    assert [{name: as_csv_has_it(value) for name, value in row.items()} for row in written[1:]] == rows_of(as_csv)[1:]
    left = whole if suffix == ".jsonl" else as_csv
    for length in (len(left) // 2, len(left)):
        output.unlink(missing_ok=True)
        part.write_bytes(left[:length])
        assert "Continuing after" in batch_predict(*arguments, "-o", output).stderr
        assert output.read_bytes() == whole
        assert not part.exists()


def table(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    if path.suffix == ".csv":
        return list(rows(path))
    return [json.loads(line) for line in path.read_text().splitlines()]


def as_csv_has_it(value: object) -> str:
    return "" if value is None else str(value)


def test_does_not_mix_rows_of_other_images(stack: Stack, dataset: Path, tmp_path: Path) -> None:
    part = tmp_path / "out.csv.part"
    arguments = ["-o", tmp_path / "out.csv", "--url", stack.url]
    batch_predict(dataset / "test" / "cyan", *arguments)
    (tmp_path / "out.csv").rename(part)
    left = part.read_bytes()
    done = batch_predict(dataset / "test" / "blue", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    other = f"{part} holds rows of other images or classes, or with another --top-k; remove it to start over.\n"
    assert done.stderr == other
    assert batch_predict(dataset / "test" / "cyan", "--top-k", 2, *arguments).stderr == other
    assert part.read_bytes() == left


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_likeliest_classes_instead_of_a_column_for_each(
    suffix: str, undisturbed: tuple[list[object], bytes], tmp_path: Path
) -> None:
    arguments, as_csv = undisturbed
    output = tmp_path / f"out{suffix}"
    batch_predict(*arguments, "-o", output, "--top-k", 2)
    written = table(output)
    assert list(written[0])[5:] == ["class_1", "probability_1", "class_2", "probability_2"]
    for few, every in zip(written, rows_of(as_csv), strict=True):
        assert few["file"] == every["file"]
        if not every["error"]:
            first, second, *_ = sorted(TEN, key=lambda name: -float(every[f"probability_{name}"]))
            assert (few["class_1"], few["class_2"]) == (first, second) == (every["predicted_class"], second)
            assert float(few["probability_2"]) == float(every[f"probability_{second}"])
    if suffix != ".parquet":  # which keeps its rows in CSV until the end
        output.rename(tmp_path / f"out{suffix}.part")
        assert "Continuing after" in batch_predict(*arguments, "-o", output, "--top-k", 2).stderr
        assert table(output) == written
    batch_predict(*arguments, "-o", output, "--top-k", 0)
    assert list(table(output)[0]) == ["file", *FIGURES]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eighty files that a stand-in for the gateway takes as images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(80):
        (folder / f"{number:02}.png").write_bytes(f"photo {number:02}".encode())
        os.utime(folder / f"{number:02}.png", (1, 1))
    return folder


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DELAYS", (0.01,))
    monkeypatch.setattr(client, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(predict, "SETTLED_SECONDS", 0.05)


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process; returns its status and what it printed on both outputs."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main([*map(str, arguments), "--connections", "1"], standalone_mode=False)
        return status, *capsys.readouterr()

    return run


Here = Callable[..., tuple[int, str, str]]


def predicted(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
    """Answer as a gateway that is well; the photo's number is its confidence."""
    if request.command == "GET":
        return 200, CLASSES | {"status": "ready"}
    return 200, [RED | {"confidence": float(number)} for number in re.findall(rb"photo (\d+)", body)]


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("status", [503, 401, 404])
def test_stops_where_the_gateway_goes_away_and_the_same_command_continues(
    status: int, photos: Path, tmp_path: Path, here: Here
) -> None:
    output, posts, well = tmp_path / "out.csv", list[int](), False

    def leaving(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        if well or request.path == "/classes":
            return predicted(request, body)
        posts.append(1)
        return predicted(request, body) if len(posts) == 1 else (status, {"error": "No model."})

    with answering(leaving) as address:
        stopped, printed, said = here(photos, "-o", output, "--url", f"http://{address}")
        assert (stopped, printed) == (2, "")
        assert said.endswith(" Run the same command again to continue.\n")
        assert not output.exists()
        assert len(rows(tmp_path / "out.csv.part")) == MAX_FILES
        well = True
        assert here(photos, "-o", output, "--url", f"http://{address}")[0] == 0
    assert [float(row["confidence"]) for row in rows(output)] == list(range(80))


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_could_not_be_asked_is_asked_again_by_the_same_command(
    suffix: str, photos: Path, tmp_path: Path, here: Here
) -> None:
    output, asked, well = tmp_path / f"out{suffix}", list[bytes](), False
    (photos / "50.png").rename(photos / "away")
    listed = tmp_path / "list.txt"
    lines = "\r\n".join(str(photos / f"{number:02}.png") for number in range(80))
    listed.write_bytes(codecs.BOM_UTF8 + lines.encode())

    def slow_for_one(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        asked.extend(re.findall(rb"photo (\d+)", body))
        return (504, {"error": "It takes too long."}) if b"photo 07" in body and not well else predicted(request, body)

    with answering(slow_for_one) as address:
        arguments = "--list", listed, "-o", output, "--url", f"http://{address}"
        status, printed, _ = here(*arguments)
        assert (status, printed.splitlines()[:2]) == (
            1,
            [
                f"78 of 80 images predicted; wrote {output}",
                "2 images could not be read or predicted; run the same command again for them",
            ],
        )
        found = table(output)
        assert [bool(row["error"]) for row in found] == [number in (7, 50) for number in range(80)]
        assert "It takes too long." in found[7]["error"]
        assert found[50]["error"] == "No such file or directory"
        (photos / "away").rename(photos / "50.png")
        asked.clear()
        well = True
        assert here(*arguments)[0] == 0
    assert asked == [b"07", b"50"]
    assert [float(row["confidence"]) for row in table(output)] == list(range(80))
    assert not (tmp_path / f"out{suffix}.part").exists()


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("ending", [None, signal.SIGTERM, signal.SIGHUP])
def test_a_file_that_changed_before_the_run_was_ended_is_asked_again(
    ending: signal.Signals | None, photos: Path, tmp_path: Path, here: Here
) -> None:
    output, well = tmp_path / "out.csv", False

    def going_away(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        if b"photo 70" not in body or well:
            return predicted(request, body)
        (photos / "03.png").write_bytes(b"photo 99")
        os.utime(photos / "03.png", (2, 2))  # long before the last row was written
        if ending:
            os.kill(os.getpid(), ending)
        return 404, {"error": "away"}

    with answering(going_away) as address:
        assert here(photos, "-o", output, "--url", f"http://{address}")[0] == 2
        well = True
        assert here(photos, "-o", output, "--url", f"http://{address}")[0] == 0
    assert {Path(row["file"]).name: float(row["confidence"]) for row in rows(output)}["03.png"] == 99


@pytest.mark.usefixtures("_impatient")
def test_photos_that_are_taken_away_meanwhile_keep_their_rows(photos: Path, tmp_path: Path, here: Here) -> None:
    output, well = tmp_path / "out.csv", False

    def tidied(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        if b"photo 40" in body:
            (photos / "03.png").unlink(missing_ok=True)
        return (404, {"error": "away"}) if b"photo 70" in body and not well else predicted(request, body)

    with answering(tidied) as address:
        assert here(photos, "-o", output, "--url", f"http://{address}")[0] == 2
        (photos / "05.png").unlink()
        well = True
        assert here(photos, "-o", output, "--url", f"http://{address}")[0] == 0
    assert sorted(float(row["confidence"]) for row in rows(output)) == list(range(80))


@pytest.mark.usefixtures("_impatient")
def test_stops_where_another_model_has_other_classes(photos: Path, tmp_path: Path, here: Here) -> None:
    def rolled(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        if b"photo 40" not in body:
            return predicted(request, body)
        return 200, [RED | {"class_probabilities": {"mug": 0.75, "cup": 0.25}}] * body.count(b"photo ")

    with answering(rolled) as address:
        status, _, said = here(photos, "-o", tmp_path / "out.csv", "--url", f"http://{address}")
    assert status == 2
    assert said == "The served model has other classes now; run the command again with another --output.\n"
    assert len(rows(tmp_path / "out.csv.part")) == MAX_FILES


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_watching_asks_again_for_what_an_earlier_run_could_not_ask(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 0.1)
    output, well = tmp_path / "out.csv", False

    def slow_for_one(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        return (504, {"error": "slow"}) if b"photo 07" in body and not well else predicted(request, body)

    with answering(slow_for_one) as address:
        assert here(photos, "-o", output, "--url", f"http://{address}")[0] == 1
        well, gateway = True, Gateway(f"http://{address}", 1)

        def operate() -> None:
            wait_until(lambda: not any(row["error"] for row in rows(output)) and len(rows(output)) == 80)
            gateway.stop.set()

        operator = threading.Thread(target=operate)
        operator.start()
        follow([photos], gateway, ["red"], output)
        operator.join()
    assert sorted(float(row["confidence"]) for row in rows(output)) == list(range(80))
    assert not (tmp_path / "out.csv.part").exists()


@pytest.mark.usefixtures("_impatient")
def test_other_images_may_follow_a_run_that_has_ended(photos: Path, tmp_path: Path, here: Here) -> None:
    (tmp_path / "list.txt").write_text(f"{photos / '01.png'}\n{tmp_path / 'gone.png'}\n")
    with answering(predicted) as address:
        arguments = "-o", tmp_path / "out.csv", "--url", f"http://{address}"
        assert here("--list", tmp_path / "list.txt", *arguments)[0] == 1
        assert here(photos / "02.png", *arguments)[0] == 0
    assert [row["file"] for row in rows(tmp_path / "out.csv")] == [str(photos / "02.png")]


def test_a_missing_path_on_the_command_line_is_refused(photos: Path, tmp_path: Path, here: Here) -> None:
    with answering(predicted) as address:
        status, _, said = here(photos, photos / "gone.png", "-o", tmp_path / "out.csv", "--url", f"http://{address}")
    assert (status, said) == (2, f"There is no file or folder {photos / 'gone.png'}.\n")


@pytest.mark.usefixtures("_impatient")
def test_a_half_copied_file_is_asked_again_once_it_is_whole(photos: Path, tmp_path: Path, here: Here) -> None:
    (photos / "03.png").write_bytes(b"half")

    def copying(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        if b"half" not in body:
            return predicted(request, body)
        (photos / "03.png").write_bytes(b"photo 03")
        good = re.findall(rb"photo (\d+)|half", body)
        damaged = {"error": "It is damaged.", "status": 400, "success": False}
        return 200, [RED | {"confidence": float(number)} if number else damaged for number in good]

    with answering(copying) as address:
        assert here(photos, "-o", tmp_path / "out.csv", "--url", f"http://{address}")[0] == 0
    assert [float(row["confidence"]) for row in rows(tmp_path / "out.csv")] == list(range(80))
    assert not (tmp_path / "out.csv.part").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_watching_asks_again_for_a_file_that_changed_and_for_one_that_had_no_answer(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (watch, "SETTLED_SECONDS", 0.1),
        (watch, "LOOK_SECONDS", 0.05),
        (predict, "RETRY_SECONDS", 0.5),
    ):
        monkeypatch.setattr(module, name, value)
    for path in sorted(photos.iterdir())[3:]:
        path.unlink()
    half, slow, output = photos / "01.png", photos / "02.png", tmp_path / "out.csv"
    half.write_bytes(b"half")
    slow_tries = iter([(504, {"error": "slow"})] * 15)
    gateway: Gateway

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        if b"photo 02" in body and (tried := next(slow_tries, None)):
            return tried
        if b"half" in body:
            return 400, {"error": "It is damaged.", "success": False}
        return predicted(request, body)

    def operate() -> None:
        wait_until(lambda: output.exists() and [row["error"] for row in rows(output)] == ["", "It is damaged."])
        half.write_bytes(b"photo 01")
        os.utime(half, (1, 1))
        wait_until(lambda: {row["confidence"] for row in rows(output)} == {"0.0", "1.0", "2.0"})
        gateway.stop.set()

    with answering(answer) as address:
        gateway = Gateway(f"http://{address}", 1)
        operator = threading.Thread(target=operate)
        operator.start()
        found = follow([photos], gateway, ["red"], output)
        operator.join()
    assert (len(found.final), found.again) == (3, {})
    assert sorted(row["file"] for row in rows(output)) == sorted(map(str, photos.iterdir()))
    assert slow.exists()


def limited(size: int) -> Callable[[], None]:
    """Return what makes a process unable to write more than `size` bytes to a file, as where a disk is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "limit", "said"),
    [
        (["-o", "out.csv"], 2000, "out.csv.part cannot be written (File too large); make room"),
        (["-o", "out.jsonl", "--watch"], 2000, "out.jsonl cannot be written (File too large); make room"),
        (["-o", "out.csv", "--contact-sheet", "sheet.png"], 6000, "sheet.png cannot be written (File too large)"),
    ],
)
def test_a_full_disk_is_told_in_a_sentence_and_what_is_there_stays(
    options: list[str], limit: int, said: str, photos: Path, tmp_path: Path
) -> None:
    if "--watch" not in options:
        for name in map("{:02}.png".format, range(0, 80, 2)):
            (photos / name).unlink()
    with answering(predicted) as address:
        arguments = command(photos, *options, "--url", f"http://{address}", "--connections", 1)
        done = subprocess.run(
            arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60, preexec_fn=limited(limit)
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[-1]
    (left,) = (path for path in tmp_path.iterdir() if path.is_file() and path.stat().st_size)
    assert b"photos/" in left.read_bytes()


def test_an_output_that_nobody_reads_is_told_in_a_sentence(photos: Path, tmp_path: Path) -> None:
    with answering(predicted) as address:
        arguments = command(photos, "-o", tmp_path / "out.csv", "--url", f"http://{address}")
        for end in ("/dev/full", None):
            reader, writer = os.pipe()
            os.close(reader)
            if end:
                writer = os.open(end, os.O_WRONLY)
            done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
            os.close(writer)
            assert done.returncode == 2
            assert done.stderr.startswith("The standard output cannot be written (")
            assert done.stderr.count("\n") == 1
            assert len(rows(tmp_path / "out.csv")) == 80


def test_too_large_an_image_fails_alone(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(30_000_000))
    draw("red", 1).save(tmp_path / "red.png")
    done = batch_predict(tmp_path, "-o", tmp_path / "out.csv", "--url", stack.url)
    assert done.returncode == 1
    large, red = rows(tmp_path / "out.csv")
    assert large["error"]
    assert red["predicted_class"] == "red"

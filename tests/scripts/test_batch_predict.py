"""Batch prediction as a command, through the real gateway."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from PIL import Image
from pyarrow import parquet

import scripts.batch_predict
from scripts.batch_predict import follow
from scripts.gateway_client import Answer, Gateway, GatewayGone
from scripts.images import FILES_AT_ONCE
from tests.drawing import TEN, draw, encode
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
    assert "8 of 10 images classified" in done.stdout
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
    for name in ("two.webp", "three.webp", "notes.txt", ".hidden"):
        (tmp_path / "holiday" / name).touch()
    done = batch_predict(tmp_path / "holiday", "-o", tmp_path / "out.csv", "--url", stack.url)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"1 of 1 images classified; wrote {tmp_path / 'out.csv'}",
        "3 other files skipped (.webp 2, .txt 1)",
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
        assert watch_until(2, signal.SIGTERM) == f"1 of 2 images classified; wrote {output}"
    draw("red", 2).save(drop / "another.png")
    with subprocess.Popen(watching, stdout=subprocess.PIPE, text=True) as process:
        assert watch_until(3, signal.SIGINT) == f"2 of 3 images classified; wrote {output}"
    assert [Path(row["file"]).name for row in table(output)] == ["there.png", "broken.png", "another.png"]


@pytest.fixture
def _own_signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_signals")
def test_watching_waits_for_a_gateway_that_has_gone_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaving(Gateway):
        """Is away when it is asked first, and ends the watching once it has answered."""

        asked = 0

        def predict_all(self, groups: list[list[Path]], done: int = 0) -> Iterator[list[Answer]]:
            self.asked += 1
            if self.asked == 1:
                raise GatewayGone
            os.kill(os.getpid(), signal.SIGTERM)
            yield [{"predicted_class": "red", "confidence": 1.0}]

    monkeypatch.setattr(scripts.batch_predict, "AWAY_INTERVAL", 0)
    draw("red", 1).save(tmp_path / "red.png")
    summary = follow([tmp_path], Leaving("http://127.0.0.1:1", 1), ["red"], tmp_path / "out.csv")
    assert (summary.images, summary.failed) == (1, 0)
    assert rows(tmp_path / "out.csv")[0]["predicted_class"] == "red"


def test_says_why_nothing_was_done(stack: Stack, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    output = tmp_path / "out.csv"
    for arguments, sentence in (
        ((tmp_path / "none",), "There is no file or folder"),
        ((tmp_path,), "There are no JPEG, PNG or GIF files"),
        ((__file__, "--url", f"http://127.0.0.1:{port}"), "start one with 'make serve'"),
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
    torn_at = len(b"".join(lines[: 1 + 2 * FILES_AT_ONCE + 3]))
    length, kept = {
        "in the header": (7, 0),
        "in a row": (torn_at + 20, 2 * FILES_AT_ONCE),
        "before the end of a row": (torn_at - 1, 2 * FILES_AT_ONCE),
        "after a row": (torn_at, 2 * FILES_AT_ONCE),
        "at the end": (len(whole), len(lines) - 1),
    }[cut]
    (tmp_path / "out.csv.part").write_bytes(whole[:length])
    done = batch_predict(*arguments, "-o", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == whole
    assert (f"Going on after the {kept} images in " in done.stderr) is (kept > 0)
    assert f"{len(lines) - 2} of {len(lines) - 1} images classified" in done.stdout
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
        assert "Going on after" in batch_predict(*arguments, "-o", output).stderr
        assert output.read_bytes() == whole
        assert not part.exists()


def table(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
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
    assert done.stderr == f"{part} holds rows of other images or classes; remove it to begin anew.\n"
    assert part.read_bytes() == left


def test_stops_where_the_gateway_goes_away_instead_of_failing_every_image(tmp_path: Path) -> None:
    class Leaving(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"classes": ["red"]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer([{"predicted_class": "red"}] * FILES_AT_ONCE)

        def answer(self, answer: object) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    def answer_twice() -> None:
        with HTTPServer(("127.0.0.1", 0), Leaving) as server:
            ports.put(server.server_port)
            server.handle_request()
            server.handle_request()

    ports: SimpleQueue[int] = SimpleQueue()
    threading.Thread(target=answer_twice).start()
    for number in range(100):
        (tmp_path / f"{number:02}.png").write_bytes(b"bytes")
    output, url = tmp_path / "out.csv", f"http://127.0.0.1:{ports.get()}"
    done = batch_predict(tmp_path, "-o", output, "--url", url, "--connections", 1)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"There is no model to ask at {url} any more; once there is, the same command goes on."
    )
    assert len(rows(tmp_path / "out.csv.part")) == FILES_AT_ONCE
    assert not output.exists()


def test_too_large_an_image_fails_alone(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(30_000_000))
    draw("red", 1).save(tmp_path / "red.png")
    done = batch_predict(tmp_path, "-o", tmp_path / "out.csv", "--url", stack.url)
    assert done.returncode == 1
    large, red = rows(tmp_path / "out.csv")
    assert large["error"]
    assert red["predicted_class"] == "red"

"""Batch prediction as a command, through the real gateway."""

import csv
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from scripts.batch_predict import BYTES_AT_ONCE, Gateway, grouped
from tests.drawing import TEN, draw, encode
from tests.stack import ROOT, Stack, free_ports


def batch_predict(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "batch_predict.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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
    written = rows(output)
    expected = [broken, *sorted((dataset / "test" / "cyan").iterdir()), other]
    assert [row["file"] for row in written] == [str(path) for path in expected]
    assert "cannot be read" in written[0]["error"]
    assert "send a JPEG" in written[-1]["error"]
    assert all(row["predicted_class"] in TEN and not row["error"] for row in written[1:-1])
    assert list(written[0])[5:] == [f"probability_{name}" for name in sorted(TEN)]


def test_a_file_that_cannot_be_read_fails_alone(stack: Stack, tmp_path: Path) -> None:
    paths = [tmp_path / "one.png", tmp_path / "gone.png", tmp_path / "two.png"]
    for path, colour in zip(paths, ("red", "red", "blue"), strict=True):
        path.write_bytes(encode(draw(colour, 1)))
    gateway = Gateway(stack.url, 1)
    paths[1].unlink()
    one, gone, two = gateway.predict(paths)
    assert (one["predicted_class"], two["predicted_class"]) == ("red", "blue")
    assert "No such file" in gone["error"]


def test_no_more_in_a_request_than_the_gateway_takes(tmp_path: Path) -> None:
    sizes = [10] * 20 + [BYTES_AT_ONCE, 5, BYTES_AT_ONCE + 1, 10]
    paths = [tmp_path / f"{index}.png" for index in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(bytes(size))
    groups = list(grouped(paths))
    assert [path for group in groups for path in group] == paths
    assert [len(group) for group in groups] == [16, 4, 1, 1, 1, 1]


def test_no_accuracy_where_folders_are_no_classes(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    draw("red", 1).save(tmp_path / "holiday" / "one.PNG")
    done = batch_predict(tmp_path / "holiday", "-o", tmp_path / "out.csv", "--url", stack.url)
    assert done.returncode == 0
    assert "1 of 1 images classified" in done.stdout
    assert "in folders named as classes" not in done.stdout


def test_says_why_nothing_was_done(stack: Stack, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    output = tmp_path / "out.csv"
    for arguments, sentence in (
        ((tmp_path / "none",), "There is no file or folder"),
        ((tmp_path,), "There are no JPEG, PNG or GIF files"),
        ((__file__, "--url", f"http://127.0.0.1:{port}"), "start one with 'make serve'"),
    ):
        done = batch_predict("-o", output, "--url", stack.url, *arguments)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
    assert not output.exists()


def test_asks_again_where_the_gateway_is_busy(tmp_path: Path) -> None:
    asked: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            body = b'{"predicted_class": "red"}' if len(asked) > 2 else b'{"error": "busy"}'
            self.send_response(200 if len(asked) > 2 else 503)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "image").write_bytes(b"bytes")
    answer = Gateway(f"http://127.0.0.1:{server.server_port}", 1).predict([tmp_path / "image"])
    server.shutdown()
    server.server_close()
    assert answer == [{"predicted_class": "red"}]
    assert asked == ["/predict"] * 3

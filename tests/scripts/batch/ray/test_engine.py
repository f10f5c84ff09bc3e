"""Batch prediction by Ray Data, on a real cluster of two nodes that know nothing of this repository."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zipfile import ZipFile

import pytest
from pyarrow import Array, Table, parquet, table
from pyarrow.fs import S3FileSystem

from scripts.batch import predict
from scripts.batch.output import alone_with
from scripts.batch.ray import engine
from scripts.batch.ray.sources import GROUP, Source
from scripts.batch.ray.worker import Classifier, Folder
from scripts.batch_predict import main
from tests.drawing import draw
from tests.stack import ROOT, Record, Stack, free_ports, listens, wait_until
from training.files import write_digest
from training.outcome import STOPPED

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}  # bytes, about the least that Ray takes
# A dead node is noticed within three seconds, and a busy one is not taken for dead.
NOTICE = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "5"}
NICENESS = {"RAY_worker_niceness": "0"}  # by itself Ray gives way to all other work, and waits for ever beside some
GROUPS = 8
KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a node for which the rooms of this repository are not there."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for room in ("scripts", "training", "gateway", "handler"):
        (folder / f"{room}.py").write_text("raise ImportError('this machine has no repository')")
    return NOTICE | {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def cluster(elsewhere: dict[str, str]) -> Iterator[Any]:
    """A head of one core, on loopback."""
    with patch.dict(os.environ, engine.RAY_SETTINGS | engine.LOCAL_RAY_SETTINGS | KEYS | NICENESS):
        with patch.dict(os.environ, elsewhere):
            from ray.cluster_utils import Cluster

            nodes = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        yield nodes
        nodes.shutdown()


@pytest.fixture
def two_nodes(cluster: Any, elsewhere: dict[str, str]) -> Any:
    """The same with another node."""
    with patch.dict(os.environ, elsewhere):
        cluster.add_node(**NODE)
    return cluster


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight groups of images that take a moment each."""
    folder = tmp_path_factory.mktemp("many")
    draw("red", 1).resize((500, 500)).save(folder / "0000.png")
    for number in range(1, GROUPS * GROUP):
        (folder / f"{number:04}.png").hardlink_to(folder / "0000.png")
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "batch_predict.py"), "--engine", "ray", *map(str, arguments)]


def rows(folder: Path) -> Table:
    return parquet.read_table(folder).sort_by("file")


def times_written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}


def wait_for(process: subprocess.Popen[str], folder: Path, files: int) -> None:
    wait_until(lambda: len(times_written(folder)) >= files or process.poll() is not None, seconds=200)
    assert process.poll() is None, "it ended before it was disturbed"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The address of an object store that speaks S3: moto, in an environment of its own as it wants other versions."""
    (port,) = free_ports(1)
    command = ["uvx", "--quiet", "--from", "moto[s3,server]==5.2.5", "moto_server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, executable=Path(sys.executable).with_name("uvx"), start_new_session=True)
    try:
        wait_until(lambda: listens(port) or server.poll() is not None, seconds=120)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def test_files_urls_and_parquet_are_classified_as_they_are_served(
    cluster: Any, store: str, stack: Stack, archive: Path, dataset: Path, tmp_path: Path
) -> None:
    images = [*sorted((dataset / "test").rglob("*.png")), tmp_path / "broken.png"]
    images[-1].write_bytes(b"broken")
    access = {"access_key": "any", "secret_key": "any", "region": "us-east-1"}
    client = S3FileSystem(endpoint_override=store, scheme="http", allow_bucket_creation=True, **access)
    client.create_dir("photos")
    for key, content in {
        "notes.txt": b"no image",
        **{f"{image.parent.name}/{image.name}": image.read_bytes() for image in images},
    }.items():
        with client.open_output_stream(f"photos/some/{key}") as stream:
            stream.write(content)
    contents = [image.read_bytes() for image in images]
    kept = tmp_path / "kept.parquet"
    names = [f"kept/{image.parent.name}/{image.name}" for image in images]
    parquet.write_table(table({"image": contents, "note": names, "path": names}), kept)
    url = f"s3://photos/some?endpoint_override={store}&scheme=http&region=us-east-1"

    served, output = tmp_path / "served.parquet", tmp_path / "rows"
    gateway = [sys.executable, "scripts/batch_predict.py", *map(str, images), "-o", str(served), "--url", stack.url]
    by_gateway = subprocess.run([*gateway, "--json"], cwd=ROOT, capture_output=True, text=True)
    arguments = ["--archive", archive, "--address", cluster.address, "-o", output, "--json"]
    done = subprocess.run(command(*images, url, kept, *arguments), cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 1, done.stderr
    found, expected = json.loads(done.stdout), json.loads(by_gateway.stdout)
    assert found["labelled"] == 3 * expected["labelled"]
    assert found["right"] == 3 * expected["right"]
    assert found["failed"] == 3
    there = {row["file"]: row for row in rows(output).to_pylist()}
    assert len(there) == 3 * len(images)
    for row in parquet.read_table(served).to_pylist():
        path = Path(row["file"])
        place = f"{path.parent.name}/{path.name}"
        for name in (str(path), f"s3://photos/some/{place}", f"kept/{place}"):
            same = there[name]
            assert list(same) == list(row)
            assert {key: same[key] for key in ("predicted_class", "in_distribution", "error")} == {
                key: row[key] for key in ("predicted_class", "in_distribution", "error")
            }
            figures = [key for key in row if key.startswith("probability_") or key == "confidence"]
            assert [same[key] for key in figures] == pytest.approx([row[key] for key in figures], abs=1e-5)


@pytest.mark.timeout(600)
def test_neither_a_killed_driver_nor_a_dead_node_costs_an_image(
    two_nodes: Any, archive: Path, many: Path, tmp_path: Path, record_property: Record
) -> None:
    output = tmp_path / "rows"
    arguments = command(many, "--archive", archive, "--address", two_nodes.address, "-o", output)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        wait_for(process, output, 2)
        process.kill()
    left = times_written(output)
    assert 0 < len(left) < GROUPS
    (output / f".{'0' * 64}.parquet.{'1' * 32}.part").write_bytes(b"what a kill leaves of a file")
    (output / ".my.csv.part").write_bytes(b"what is another's")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(process, output, len(left) + 2)
        two_nodes.remove_node(*two_nodes.worker_nodes, allow_graceful=False)
        printed, noted = process.communicate(timeout=200)
    assert process.returncode == 0, noted
    assert printed.startswith(f"{GROUPS * GROUP:,} of {GROUPS * GROUP:,} images predicted; wrote {output}\n")
    assert rows(output)["file"].to_pylist() == sorted(map(str, many.iterdir()))
    assert set(rows(output)["predicted_class"].to_pylist()) == {"red"}
    assert left.items() <= times_written(output).items(), "it asked again for what was there"
    assert [path.name for path in output.iterdir() if path.suffix != ".parquet"] == [".my.csv.part"]
    record_property("driver killed, then one of two Ray nodes", f"{GROUPS * GROUP:,} images, each once")


def test_a_file_that_cannot_be_read_has_no_row_and_is_asked_again(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_here(
        sources: list[Source], archive: bytes, done: Array, folder: Folder, top_k: int | None
    ) -> Iterator[tuple[int, Any]]:
        for source in sources:
            classifier = Classifier(archive, source.contents, done, folder, top_k)
            for group in source.images:
                assert isinstance(group, Table)
                (row,) = classifier(group).to_pylist()
                yield row["written"], dict(zip(row["unread"], row["why"], strict=True))

    monkeypatch.setattr(engine, "cluster", nullcontext)
    monkeypatch.setattr(engine, "run", run_here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    draw("red", 1).save("red.png")
    Path("broken.png").write_bytes(b"broken")
    Path("list.txt").write_bytes(b"\xef\xbb\xbfgone.png\r\nred.png\r\n")
    command = ["--engine", "ray", "--archive", str(archive), "broken.png", "--list", "list.txt", "-o", "rows"]

    assert main(command, standalone_mode=False) == 1
    assert capsys.readouterr().out.splitlines()[:2] == [
        "1 of 3 images predicted; wrote rows",
        "1 image could not be read or predicted; run the same command again for it",
    ]
    assert rows(Path("rows"))["file"].to_pylist() == ["broken.png", "red.png"]
    draw("blue", 1).save("gone.png")
    assert main(command, standalone_mode=False) == 1
    assert capsys.readouterr().out.startswith("2 of 3 images predicted; wrote rows\n")
    assert rows(Path("rows"))["predicted_class"].to_pylist() == [None, "blue", "red"]
    assert main([*command, "--top-k", "1"], standalone_mode=False) == 2
    assert "with another --top-k; remove it" in capsys.readouterr().err
    assert main([*command[:-1], "few", "--top-k", "1"], standalone_mode=False) == 1
    assert rows(Path("few")).column_names[-2:] == ["class_1", "probability_1"]
    assert rows(Path("few"))["class_1"].to_pylist() == [None, "blue", "red"]


def test_says_why_nothing_was_done(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("others", "torn"):
        Path(folder).mkdir()
    draw("red", 1).save("one.png")
    Path("torn/rows.parquet").write_bytes(b"PAR1")
    with ZipFile("old.mar", "w") as old:
        old.writestr("index_to_name.json", "{}")
    write_digest(Path("old.mar"), Path("old.mar"))
    parquet.write_table(table({"file": ["one.png"]}), "others/rows.parquet")
    parquet.write_table(table({"path": ["one.png"]}), "empty.parquet")
    parquet.write_table(table({"file": ["one.png", None], "image": [b"", b""]}), "unnamed.parquet")
    parquet.write_table(table({"path": ["one.png"] * 2, "bytes": [b""] * 2}), "twice.parquet")
    for arguments, sentence in (
        (["one.png", "--watch"], "--engine ray takes an --archive"),
        (["one.png", "--archive", "none.mar"], "There is no archive none.mar; build it"),
        (["one.png", "--archive", "old.mar"], "An earlier version of this project has packed old.mar; pack it again"),
        (["one.png", "-o", "rows.csv"], "writes a folder of Parquet files, which cannot end in .csv."),
        (["one.png", "-o", __file__], f"{__file__} cannot be written to"),
        (["one.png", "-o", "no://rows"], "no://rows cannot be reached"),
        (
            ["one.png", "-o", "others"],
            "others holds rows of other images or classes, or with another --top-k; remove it to start over.",
        ),
        (["one.png", "-o", "torn"], "torn cannot be read"),
        (["none.png"], "There is no file or folder none.png."),
        (["no://photos"], "no://photos cannot be reached"),
        (["torn"], "There are no JPEG, PNG, GIF or WebP files"),
        (["none.parquet"], "none.parquet cannot be read as Parquet"),
        (["empty.parquet"], "(it has no column bytes or image of binary); name another."),
        (["unnamed.parquet"], "(not every image in it has a file); name another."),
        (["twice.parquet"], "one.png is 2 times in the named places; name each image once."),
    ):
        known = ["--engine", "ray", "--archive", str(archive), "-o", "rows"]
        assert main(known + arguments, standalone_mode=False) == 2
        printed = capsys.readouterr()
        assert sentence in printed.err
        assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_the_error_is_found_among_what_ray_says() -> None:
    text = "task failed\nTraceback (most recent call last):\nOSError: [Errno 28] No space left\nTo change retries, …"
    assert engine.last_error(text) == "OSError: [Errno 28] No space left"
    assert engine.last_error("The actor died.\nIts node went away.") == "Its node went away."


@pytest.mark.slow
def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(predict, "find_spec", lambda name: None)
    command = ["one.png", "--engine", "ray", "--archive", "any.mar", "-o", "rows"]
    assert main(command, standalone_mode=False) == 2
    assert "install it with" in capsys.readouterr().err


def test_a_second_command_leaves_the_output_of_the_first_alone(
    many: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(many), "--engine", "ray", "--archive", str(archive), "-o", str(tmp_path / "rows")]
    with alone_with(tmp_path / "rows"):
        assert main(arguments, standalone_mode=False) == STOPPED
    assert "Another command writes to" in capsys.readouterr().err


def test_a_ray_of_its_own_has_a_folder_that_no_other_user_reaches() -> None:
    with engine._private_folder() as place:
        outer = Path(place).parent
        assert outer.stat().st_mode & 0o077 == 0
    assert not outer.exists()

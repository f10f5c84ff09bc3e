"""Finding images in what a user names, and grouping them for requests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.batch.images import (
    BYTES_AT_ONCE,
    absent_of,
    count_others,
    find_images,
    grouped,
    list_images,
    list_once,
    names_of,
    read_list,
)
from training.outcome import Stopped


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "notes.txt", "deep/er/c.gif", "deep/d.jpg", "[odd].jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    (tmp_path / "photos" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "photos" / "folder.jpg").mkdir()
    return Path("photos")


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (["photos"], ["[odd].jpg", "a.PNG", "b.jpg", "deep/d.jpg", "deep/er/c.gif"]),
        (["photos/**/*.jpg"], ["[odd].jpg", "b.jpg", "deep/d.jpg"]),
        (["photos/**"], ["[odd].jpg", "a.PNG", "b.jpg", "deep/d.jpg", "deep/er/c.gif"]),
        (["photos/[a-b]*"], ["a.PNG", "b.jpg"]),
        (["photos/[odd].jpg"], ["[odd].jpg"]),
        (["photos/notes.txt", "photos/deep"], ["notes.txt", "deep/d.jpg", "deep/er/c.gif"]),
    ],
)
def test_folders_and_globs_in_order_and_files_as_named(photos: Path, named: list[str], found: list[str]) -> None:
    assert list(find_images(map(Path, named))) == [photos / name for name in found]


@pytest.mark.parametrize(
    ("named", "left_out"),
    [
        (["photos"], {".txt": 1, ".bmp": 2, "": 1}),
        (["photos", "photos/**", "photos/deep"], {".txt": 1, ".bmp": 2, "": 1}),
        (["photos/*.jpg", "photos/notes.txt", "none"], {}),
    ],
)
def test_counts_once_what_is_left_out_but_for_hidden_and_written_files(
    photos: Path, named: list[str], left_out: dict[str, int]
) -> None:
    for name in ("one.bmp", "deep/two.BMP", "README", ".hidden", ".git/config", "out.csv"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    assert count_others(map(Path, named), but={photos / "out.csv", None}) == left_out


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (["photos", "none"], "There is no file or folder none."),
        (["photos/*.bmp"], "There are no JPEG, PNG, GIF or WebP"),
    ],
)
def test_says_what_is_not_there(photos: Path, named: list[str], said: str) -> None:
    with pytest.raises(Stopped, match=said):
        list_images(map(Path, named))


def test_leavings_of_systems_are_no_images_and_told_in_one_line(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("._a.PNG", "deep/Thumbs.db", "__MACOSX/b.jpg", ".ipynb_checkpoints/b.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    assert len(list_images([photos, photos / "deep"])) == 7
    assert capsys.readouterr().err.splitlines() == [
        "Left out 5 files and folders that systems leave behind: ._a.PNG, .ipynb_checkpoints, Thumbs.db and 1 more.",
        f"Left out 1 file or folder that cannot be read: {photos / 'gone.jpg'} (it links to nothing).",
    ]
    assert count_others([photos]) == {".txt": 1}


def test_a_list_has_a_path_a_line_in_the_bytes_of_the_file_system(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"one.jpg\r\n\ncaf\xe9.jpg\ntwo words.png")
    named = list(map(Path, names_of(["first"], str(tmp_path / "list.txt"))))
    assert list(map(os.fsencode, named)) == [b"first", b"one.jpg", b"caf\xe9.jpg", b"two words.png"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_may_begin_with_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("größe.jpg\r\ntwo.png\r\n".encode(encoding))
    assert read_list(str(tmp_path / "list.txt")) == ["größe.jpg", "two.png"]


def test_a_path_that_is_missing_from_a_list_keeps_its_place_and_one_that_was_typed_does_not(photos: Path) -> None:
    listed = ["none.jpg", "photos/deep", f"{'long' * 100}.jpg", "photos/*.bmp", "typed.jpg", "photos/b[1].jpg"]
    Path("list.txt").write_text("\n".join(listed))
    typed = ["photos/b.jpg", "typed.jpg"]
    names = names_of(typed, "list.txt")
    assert absent_of(names, typed) == {"none.jpg", listed[2], "photos/b[1].jpg"}
    found = list_once(
        list(map(Path, ["photos/b.jpg", *listed[:4], "photos/b.jpg"])), {Path("none.jpg"), Path(listed[2])}
    )
    assert list(map(str, found)) == ["photos/b.jpg", "none.jpg", "photos/deep/d.jpg", "photos/deep/er/c.gif", listed[2]]
    assert list(grouped(found)) == [found]
    with pytest.raises(Stopped, match=r"There is no file or folder typed\.jpg"):
        list_once(list(map(Path, names)), {Path("none.jpg"), Path(listed[2])})


def test_a_list_can_come_from_another_command() -> None:
    code = "from scripts.batch.images import read_list; print(read_list('-'))"
    done = subprocess.run([sys.executable, "-c", code], input="one\ntwo\n", capture_output=True, text=True, check=True)
    assert done.stdout == "['one', 'two']\n"


def test_says_that_nothing_is_named(tmp_path: Path) -> None:
    for listed, said in ((None, "Name folders, globs or files"), (str(tmp_path / "none"), "none cannot be read")):
        with pytest.raises(Stopped, match=said):
            names_of([], listed)


def test_no_more_in_a_request_than_the_gateway_takes(tmp_path: Path) -> None:
    sizes = [10] * 40 + [BYTES_AT_ONCE, 5, BYTES_AT_ONCE + 1, 10]
    paths = [tmp_path / f"{index}.png" for index in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(bytes(size))
    groups = list(grouped(paths))
    assert [path for group in groups for path in group] == paths
    assert [len(group) for group in groups] == [32, 8, 1, 1, 1, 1]

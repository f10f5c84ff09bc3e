"""Images in folders: what is found, what is left out, and the label."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from training.folders import extensions_of, find, is_leaving, label_of, match, roots_of

LEFT_BY_SYSTEMS = (
    "cat/._a.jpg",
    "cat/.hidden.jpg",
    "cat/Thumbs.db",
    "cat/desktop.ini",
    "cat/.thumbnails/a.jpg",
    ".ipynb_checkpoints/a-checkpoint.jpg",
    ".AppleDouble/a.jpg",
    "__MACOSX/cat/a.jpg",
    "cat/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
    "lost+found/a.jpg",
    "$RECYCLE.BIN/a.jpg",
    "System Volume Information/a.jpg",
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_what_systems_leave_in_folders_of_photos_is_left_out_and_counted_in_a_line(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", *LEFT_BY_SYSTEMS)
    found = find(tmp_path)
    assert names(found.images, tmp_path) == ["cat/a.jpg"]
    assert (found.others, found.unreadable) == ([], {})
    (line,) = found.notes()
    assert line == (
        f"left out {len(LEFT_BY_SYSTEMS)} files and folders that systems leave behind: "
        "$RECYCLE.BIN, .AppleDouble, ._a.jpg and 9 more"
    )
    matched = match(tmp_path / "**")
    assert names(matched.images, tmp_path) == ["cat/a.jpg"]


def test_a_folder_of_such_a_name_is_searched_if_it_was_named(tmp_path: Path) -> None:
    touch(tmp_path, ".photos/a.jpg")
    assert len(find(tmp_path / ".photos").images) == len(match(tmp_path / ".photos" / "*.jpg").images) == 1
    assert not is_leaving("photos")


def test_images_by_every_usual_suffix_and_the_others_counted(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.JPEG", "3.jpe", "4.jfif", "5.png", "6.Gif", "7.webp", "a.bmp", "b.BMP", "c.txt", "d")
    found = find(tmp_path)
    assert len(found.images) == 7
    assert extensions_of(found.others) == {".bmp": 2, ".txt": 1, "": 1}


def test_links_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    touch(tmp_path, "pool/cats/1.jpg", "pool/cats/more/2.jpg", "pool/3.jpg", "test/dog/4.jpg")
    test = tmp_path / "test"
    (test / "cat").symlink_to("../pool/cats")
    (test / "dog" / "5.jpg").symlink_to("../../pool/3.jpg")
    (test / "dog" / "all").symlink_to("..")
    (test / "dog" / "self").symlink_to(".")
    (tmp_path / "pool" / "cats" / "more" / "up").symlink_to("..")
    expected = ["cat/1.jpg", "cat/more/2.jpg", "dog/4.jpg", "dog/5.jpg"]
    assert names(find(test).images, test) == expected
    assert names(match(test / "**" / "*.jpg").images, test) == expected


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the rights of root, who can read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_says_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "open/a.jpg", "closed/b.jpg", "listed/c.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "class").symlink_to("/nowhere/class")
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    Path("closed").chmod(0)
    Path("listed").chmod(0o444)
    with as_nobody():
        found = find(Path())
    for folder in ("closed", "listed"):
        Path(folder).chmod(0o755)
    assert found.images == [Path("open/a.jpg")]
    assert {str(path): reason for path, reason in found.unreadable.items()} == {
        "class": "it links to nothing",
        "closed": "Permission denied",
        "gone.jpg": "it links to nothing",
        "listed/c.jpg": "Permission denied",
    }
    assert found.notes() == [
        "left out 4 files and folders that cannot be read: class (it links to nothing), closed (Permission denied), "
        "gone.jpg (it links to nothing) and 1 more"
    ]


@pytest.mark.parametrize(
    ("image", "named", "label"),
    [
        ("test/cat/1.jpg", ["test"], "cat"),
        ("test/cat/2024/1.jpg", ["test"], "cat"),
        ("test/cat/dog/1.jpg", ["test"], "cat"),
        ("test/cat/2024/1.jpg", ["test/**/*.jpg"], "cat"),
        ("test/cat/2024/1.jpg", ["test/*/2024"], "cat"),
        ("mine/test/cat/2024/1.jpg", ["mine"], "cat"),
        ("test/cat/1.jpg", ["test/cat"], "cat"),
        ("test/cat/2024/1.jpg", ["test/cat"], "cat"),
        ("test/cat/2024/1.jpg", ["test/cat/2024/1.jpg"], "cat"),
        ("test/cat/2024/1.jpg", [], "cat"),
        ("cat/2024/1.jpg", ["."], "cat"),
        ("s3://bucket/test/cat/2024/1.jpg", ["s3://bucket/test"], "cat"),
        ("dog/photos/2024/1.jpg", ["dog/photos"], "2024"),
        ("test/cow/2024/1.jpg", ["test"], "cow"),
        ("holiday/1.jpg", ["holiday"], "holiday"),
        ("holiday/1.jpg", ["holiday/1.jpg"], "holiday"),
        ("1.jpg", ["."], ""),
    ],
)
def test_the_label_is_the_first_folder_below_what_was_named(image: str, named: list[str], label: str) -> None:
    assert label_of(image, roots_of(named), {"cat", "dog"}) == label

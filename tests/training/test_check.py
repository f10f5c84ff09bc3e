"""`classifier check`, from a folder with everything wrong to the folder that a person has confirmed, and back."""

import csv
import errno
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from playwright.sync_api import Page, expect

from handler.transforms import Preprocessing
from tests.conftest import CommandFailed, run_module
from tests.drawing import THREE, draw_photo, encode
from training.curation.examine import _look
from training.curation.labels import wrong_labels

EACH, SWAPPED = 40, 12


def photo(name: str, seed: int) -> Image.Image:
    """Draw a photo that looks like no other: cloudy, and sharp, because it has the noise of a camera."""
    dice = random.Random(f"clouds {name} {seed}")
    clouds = Image.frombytes("RGB", (5, 4), dice.randbytes(60)).resize((160, 120), Image.Resampling.BICUBIC)
    noise = Image.frombytes("L", (160, 120), dice.randbytes(160 * 120)).convert("RGB")
    return Image.blend(Image.blend(draw_photo(name, seed), clouds, 0.45), noise, 0.1)


class Photos(NamedTuple):
    root: Path
    swapped: set[str]  # files whose label is wrong


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """Photos of three classes, a tenth of them in a wrong folder, and one of each kind that does not belong there."""
    root = tmp_path_factory.mktemp("check") / "my-photos"
    dice, swapped = random.Random(1), set()
    for name in THREE:
        (root / name).mkdir(parents=True)
    for at, name in enumerate(THREE * EACH):
        place = name if at >= SWAPPED else dice.choice([other for other in THREE if other != name])
        file = root / place / f"{name}_{at:03}.jpg"
        file.write_bytes(encode(photo(name, at), "JPEG", quality=92))
        if place != name:
            swapped.add(file.relative_to(root).as_posix())
    original = photo("red", 3 * EACH - 1)
    (root / "red/same.jpg").write_bytes((root / f"red/red_{3 * EACH - 1:03}.jpg").read_bytes())
    (root / "red/smaller.png").write_bytes(encode(original.resize((120, 90))))
    (root / "lime/dark.png").write_bytes(encode(photo("lime", 1000).point(lambda value: value // 12)))
    (root / "lime/blurred.png").write_bytes(encode(photo("lime", 1001).filter(ImageFilter.GaussianBlur(9))))
    (root / "lime/tiny.png").write_bytes(encode(photo("lime", 1002).resize((24, 18))))
    (root / "azure/broken.jpg").write_bytes(b"no photo")
    (root / "azure/notes.txt").write_text("azure things")
    (root / "beside.jpg").write_bytes(encode(photo("red", 1), "JPEG"))
    return Photos(root, swapped)


def check(*arguments: object) -> dict[str, Any]:
    return json.loads(run_module("training.check", *arguments, "--json"))


@pytest.fixture(scope="module")
def found(photos: Photos) -> dict[str, Any]:
    return check(photos.root, "-o", photos.root.parent)


def test_finds_wrong_labels(found: dict[str, Any], photos: Photos) -> None:
    first = [each["file"] for each in found["wrong_labels"]][: SWAPPED * 3 // 2]
    assert len(photos.swapped & set(first)) >= 0.8 * SWAPPED
    right = [each for each in found["wrong_labels"] if each["file"] in photos.swapped]
    assert all(each["file"].split("/")[1].startswith(each["likely"]) for each in right)


def test_finds_copies(found: dict[str, Any]) -> None:
    original = f"red/red_{3 * EACH - 1:03}.jpg"
    assert {"first": original, "second": "red/same.jpg", "exact": True} in found["copies"]
    near = [{pair["first"], pair["second"]} for pair in found["copies"] if not pair["exact"]]
    assert near == [{original, "red/smaller.png"}]


def test_finds_pictures_that_stand_out(found: dict[str, Any]) -> None:
    assert found["outstanding"] == {"lime/dark.png": "dark", "lime/blurred.png": "blurred", "lime/tiny.png": "tiny"}


def test_names_what_cannot_be_read_or_is_left_out(found: dict[str, Any]) -> None:
    assert found["photos"] == 3 * EACH + 5
    assert [*found["unreadable"]] == ["azure/broken.jpg"]
    assert sorted(found["skipped"]) == ["azure/notes.txt", "beside.jpg"]


def test_the_size_is_that_of_the_file_not_of_the_picture_that_is_looked_at(tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(encode(photo("red", 1).resize((3000, 2000)), "JPEG"))
    looked = _look(tmp_path, Preprocessing(32), (large, "red", "train"))
    assert not isinstance(looked, str)
    assert looked[0].size == (3000, 2000)


@pytest.fixture
def served_page(page: Page, photos: Photos, found: dict[str, Any]) -> Page:
    page.goto((photos.root.parent / "check.html").as_uri())
    return page


def test_confirmed_moves_are_made_and_taken_back(served_page: Page, photos: Photos, tmp_path: Path) -> None:
    before = tree(photos.root)
    wrong = sorted(photos.swapped)[0]
    for file in (wrong, "red/same.jpg"):
        served_page.locator(f'input[data-file="{file}"]').first.check()
    expect(served_page.locator("#count")).to_have_text("2 moves confirmed")
    with served_page.expect_download() as download:
        served_page.get_by_role("button", name="Save the confirmed moves").click()
    moves = tmp_path / "moves.csv"
    download.value.save_as(moves)
    assert check(photos.root, "--apply", moves) == {"moves": 2}
    name = wrong.split("/")[1]
    moved = tree(photos.root) - before
    assert moved == {f"{name.split('_')[0]}/{name}", ".taken_out/red/same.jpg"}
    assert check(photos.root, "--undo") == {"moves": 2}
    assert tree(photos.root) == before


def test_the_page_shows_each_finding_with_its_picture(served_page: Page, found: dict[str, Any]) -> None:
    cards = served_page.locator(".cards li")
    findings = len(found["wrong_labels"]) + len(found["copies"]) + len(found["outstanding"])
    expect(cards).to_have_count(findings)
    broken = "pictures => pictures.filter((picture) => !picture.naturalWidth).length"
    assert served_page.locator(".cards img").evaluate_all(broken) == 0
    expect(served_page.get_by_text("azure/broken.jpg")).to_be_visible()


def test_all_proposed_moves_can_be_made_at_once(photos: Photos, found: dict[str, Any]) -> None:
    before = tree(photos.root)
    proposed = photos.root.parent / "proposed.csv"
    with proposed.open(newline="") as lines:
        rows = [*csv.DictReader(lines)]
    assert {row["file"] for row in rows} >= {"red/same.jpg"}
    assert check(photos.root, "--apply", proposed) == {"moves": len(rows)}
    check(photos.root, "--undo")
    assert tree(photos.root) == before


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["nothing.jpg,red"], "has no photo 'nothing.jpg'"),
        (["red/nothing.jpg,red"], "has no photo 'red/nothing.jpg'"),
        (["../my-photos/red/same.jpg,red"], "has no photo"),
        (["/etc/passwd,red"], "has no photo"),
        (["red/same.jpg,mauve"], "'mauve' is no class"),
        (["red/same.jpg,../elsewhere"], "is no class"),
        (["red/same.jpg,lime", "red/same.jpg,azure"], "stands in two rows"),
    ],
)
def test_moves_are_made_all_or_none(photos: Photos, tmp_path: Path, rows: list[str], words: str) -> None:
    before = tree(photos.root)
    moves = tmp_path / "moves.csv"
    moves.write_text("\n".join(["file,to", "lime/tiny.png,red", *rows, ""]))
    with pytest.raises(CommandFailed, match=words):
        check(photos.root, "--apply", moves)
    assert tree(photos.root) == before


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"name,class\na,b\n"])
def test_what_are_no_moves_is_refused(photos: Photos, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "moves.csv").write_bytes(content)
    before = tree(photos.root)
    with pytest.raises(CommandFailed, match=r"There is no file|cannot be read as moves|has no moves"):
        check(photos.root, "--apply", tmp_path / "moves.csv")
    assert tree(photos.root) == before


def test_a_few_photos_are_checked_too(tmp_path: Path) -> None:
    for name in ("red", "lime"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    (tmp_path / "photos/lime/1.png").write_bytes(b"no photo")
    (tmp_path / "photos/red/1.png").write_bytes(b"no photo")
    with pytest.raises(CommandFailed, match="has no photo that can be read"):
        check(tmp_path / "photos", "-o", tmp_path)
    (tmp_path / "photos/red/2.png").write_bytes(encode(photo("red", 1)))
    assert check(tmp_path / "photos", "-o", tmp_path)["wrong_labels"] == []
    with pytest.raises(CommandFailed, match="There is no folder"):
        check(tmp_path / "nowhere")
    with pytest.raises(CommandFailed, match="is a file"):
        check(tmp_path / "photos/red/2.png")


def test_there_is_nothing_to_undo(photos: Photos) -> None:
    with pytest.raises(CommandFailed, match="nothing to undo"):
        check(photos.root, "--undo")


def test_a_move_never_overwrites_a_photo(tmp_path: Path) -> None:
    for name in ("red", "lime"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_text(name)
    (tmp_path / "moves.csv").write_text("file,to\nred/1.png,lime\n")
    check(tmp_path / "photos", "--apply", tmp_path / "moves.csv")
    assert (tmp_path / "photos/lime/1.png").read_text() == "lime"
    assert (tmp_path / "photos/lime/1-2.png").read_text() == "red"


def test_folders_of_a_split_stay_what_they_are(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("red", "lime"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            (tmp_path / "photos" / split / name / "1.png").write_text(name)
    (tmp_path / "moves.csv").write_text("file,to\ntest/red/1.png,lime\n")
    check(tmp_path / "photos", "--apply", tmp_path / "moves.csv")
    assert (tmp_path / "photos/test/lime/1-2.png").read_text() == "red"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two photos of red, and a move of both to lime in moves.csv."""
    for name in ("red", "lime"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    for number in (1, 2):
        (tmp_path / "photos" / "red" / f"{number}.png").write_text(str(number))
    (tmp_path / "moves.csv").write_text("file,to\nred/1.png,lime\nred/2.png,lime\n")
    return tmp_path / "photos"


def test_what_cannot_be_moved_moves_nothing(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = tree(two), Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self == two / "red" / "2.png":
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(CommandFailed, match=r"2.png cannot be moved \(Invalid.*nothing was moved"):
        check(two, "--apply", two.parent / "moves.csv")
    assert tree(two) == before
    with pytest.raises(CommandFailed, match="nothing to undo"):
        check(two, "--undo")


def test_moves_that_were_cut_short_are_taken_back_first(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = tree(two), Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self == two / "red" / "2.png":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(CommandFailed):
            check(two, "--apply", two.parent / "moves.csv")
    with pytest.raises(CommandFailed, match="cut short"):
        check(two, "--apply", two.parent / "moves.csv")
    assert check(two, "--undo") == {"moves": 1}
    assert tree(two) == before
    assert check(two, "--apply", two.parent / "moves.csv") == {"moves": 2}


def test_what_cannot_be_taken_back_is_named_and_not_forgotten(two: Path) -> None:
    check(two, "--apply", two.parent / "moves.csv")
    (two / "red" / "1.png").write_text("another photo")
    with pytest.raises(CommandFailed, match=r"Took back 1 moves, and could not take back 1 .*another file is there"):
        check(two, "--undo")
    assert (two / "red" / "1.png").read_text() == "another photo"
    (two / "red" / "1.png").unlink()
    assert check(two, "--undo") == {"moves": 1}
    assert (two / "red" / "1.png").read_text() == "1"


def test_a_link_leads_to_its_photo_from_elsewhere_too(two: Path) -> None:
    original = two.parent / "originals" / "1.png"
    original.parent.mkdir()
    (two / "red" / "1.png").rename(original)
    (two / "red" / "1.png").symlink_to("../../originals/1.png")
    (two.parent / "moves.csv").write_text("file,to\nred/1.png,\n")
    check(two, "--apply", two.parent / "moves.csv")
    assert (two / ".taken_out" / "red" / "1.png").read_text() == "1"
    assert check(two, "--undo") == {"moves": 1}
    assert (two / "red" / "1.png").read_text() == "1"


def test_no_photo_is_lost_on_a_disk_that_ignores_case(tmp_path: Path) -> None:
    """On such a disk A.png and a.png are one file, though each may come from another folder."""
    for name, file in (("red", "Ä.PNG"), ("azure", "a\u0308.png"), ("lime", "other.png")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / file).write_text(name)
    (tmp_path / "moves.csv").write_text("file,to\nred/Ä.PNG,lime\nazure/a\u0308.png,lime\n")
    check(tmp_path / "photos", "--apply", tmp_path / "moves.csv")
    assert sorted(path.name for path in (tmp_path / "photos" / "lime").iterdir()) == [
        "a\u0308-2.png",
        "other.png",
        "Ä.PNG",
    ]


def test_where_no_page_can_be_written_nothing_is_looked_at(two: Path) -> None:
    (two.parent / "file").touch()
    with pytest.raises(CommandFailed, match="cannot be written"):
        check(two, "-o", two.parent / "file")


def test_the_only_photo_of_a_class_is_never_wrong() -> None:
    features = torch.cat([torch.randn(20, 4) + 3, torch.randn(20, 4) - 3, torch.full((1, 4), 3.0)])
    labels = np.array([0] * 20 + [1] * 20 + [2])
    wrong = wrong_labels(features, labels, 3, torch.nn.Linear(4, 1000))
    assert 40 not in [each.photo for each in wrong]


def tree(root: Path) -> set[str]:
    """Return the files below a folder, without the journals of moves."""
    files: Iterator[Path] = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in files if ".moves" not in path.parts}

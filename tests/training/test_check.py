"""`classifier check`, from a folder with everything wrong to the folder that a person has confirmed, and back."""

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image, ImageFilter
from playwright.sync_api import Page, expect

from tests.conftest import CommandFailed, run_module
from tests.drawing import THREE, draw_photo, encode

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
    assert found["skipped"] == ["azure/notes.txt"]


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


def tree(root: Path) -> set[str]:
    """Return the files below a folder, without the journals of moves."""
    files: Iterator[Path] = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in files if ".moves" not in path.parts}

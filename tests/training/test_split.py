"""The split by content: stable, stratified, and kept in a file."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from handler.transforms import Preprocessing
from tests.drawing import THREE, add_photos
from training.data import load_images, load_training_images, stratified_split
from training.photos import photos_of
from training.split import DataError, assigned, is_for_test, validation_key

SMALL = [Preprocessing(32)]


def sides(root: Path, fraction: float) -> dict[Path, str]:
    """Return what every photo is for."""
    train, test = photos_of(root, "train"), photos_of(root, "test")
    assert train.validation_keys is not None
    side = dict.fromkeys(test.paths, "test")
    for path, key in zip(train.paths, train.validation_keys, strict=True):
        side[path] = "validation" if key < fraction else "train"
    assert len(side) == len(train.paths) + len(test.paths)
    return side


def test_ten_photos_of_each_class_are_enough_and_each_class_keeps_its_shares(photos: Path) -> None:
    shares = Counter((path.parent.name, side) for path, side in sides(photos, 0.2).items())
    assert shares == {
        (name, side): count for name in THREE for side, count in (("train", 6), ("validation", 2), ("test", 2))
    }
    training, validation = stratified_split(load_training_images(photos, SMALL), 0.2, seed=1)
    assert Counter(training.labels.tolist()) == {0: 6, 1: 6, 2: 6}
    assert Counter(validation.labels.tolist()) == {0: 2, 1: 2, 2: 2}
    assert load_images(photos, "test", SMALL).inputs.count == 6


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.5, 0.9])
def test_photos_added_later_move_none(photos: Path, fraction: float) -> None:
    before = sides(photos, fraction)
    for numbers in (range(10, 11), range(11, 60)):
        add_photos(photos, "red", numbers)
        after = sides(photos, fraction)
        assert before.items() <= after.items()
        before = after
    reds = Counter(side for path, side in after.items() if path.parent.name == "red")
    assert abs(reds["test"] - 12) <= 1
    assert abs(reds["validation"] - 48 * fraction) <= 3


def test_the_order_in_which_a_disk_lists_files_and_their_names_do_not_matter(photos: Path, tmp_path: Path) -> None:
    def content(root: Path) -> dict[bytes, str]:
        return {path.read_bytes(): side for path, side in sides(root, 0.1).items()}

    other = tmp_path / "other"
    for number, path in enumerate(sorted(photos.rglob("*.png"), reverse=True)):
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / path.parent.name / f"{number}.png")
    assert content(photos) == content(other)


@pytest.mark.parametrize("count", range(3, 30))
def test_three_photos_of_a_class_are_enough_for_every_part(count: int) -> None:
    places = assigned([f"{number:02}" for number in range(count)], {}).values()
    assert sorted(places) == list(range(count))
    keys = [validation_key(place) for place in places if not is_for_test(place)]
    assert abs(count - len(keys) - count / 5) <= 0.5
    for fraction in (0.01, 0.1, 0.5, 0.99):
        validation = sum(key < fraction for key in keys)
        assert 1 <= validation < len(keys)
        assert abs(validation - fraction * len(keys)) <= 2


def test_two_photos_of_a_class_are_too_few(photos: Path) -> None:
    add_photos(photos, "blue", range(2))
    shutil.copy(photos / "blue" / "0.png", photos / "blue" / "copy.png")
    with pytest.raises(DataError, match=r"Class 'blue' has 2 different photos; give it 3 or more"):
        photos_of(photos, "train")
    add_photos(photos, "pink", range(1))
    both = "2 classes have too few photos: 'blue' has 2 different photos, 'pink' has 1 photo; give each 3"
    with pytest.raises(DataError, match=both):
        photos_of(photos, "train")


def test_copies_are_on_one_side(photos: Path) -> None:
    for path in sorted((photos / "red").iterdir()):
        shutil.copy(path, photos / "red" / f"copy of {path.name}")
    reds = {path.name: side for path, side in sides(photos, 0.2).items() if path.parent.name == "red"}
    assert all(reds[f"copy of {name}"] == side for name, side in reds.items() if not name.startswith("copy"))
    assert any("10 of the photos are copies of others" in line for line in photos_of(photos, "train").notes)


def test_a_photo_in_two_classes_is_named(photos: Path) -> None:
    shutil.copy(photos / "red" / "3.png", photos / "lime" / "same.png")
    with pytest.raises(DataError, match=r"red/3\.png: it is a copy of .*lime/same\.png, which has another class"):
        load_training_images(photos, SMALL)


def test_a_removed_photo_leaves_its_place_to_the_next(photos: Path) -> None:
    tested = [path for path, side in sides(photos, 0.2).items() if side == "test" and path.parent.name == "red"]
    for path in tested:
        path.unlink()
    with pytest.raises(DataError, match=r"Class 'red' has no photo left to test on.*Add a photo, or delete"):
        photos_of(photos, "train")
    add_photos(photos, "red", range(50, 52))
    assert [path.stem for path, side in sides(photos, 0.2).items() if side == "test" and "red" in path.parts] == [
        "50",
        "51",
    ]


def test_a_folder_that_cannot_be_written_is_noted(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("training.split.write_whole", refuse)
    (note,) = photos_of(photos, "train").notes
    assert "split.csv cannot be written (Permission denied), so the split is not kept" in note
    assert "'classifier evaluate' measures all photos" in note


def test_a_damaged_split_is_refused(photos: Path) -> None:
    (photos / "split.csv").write_text("class,place,sha256\nred,first,00\n")
    with pytest.raises(DataError, match=r"split\.csv.*cannot be read. Restore it, or delete it"):
        photos_of(photos, "train")


def test_photos_that_were_never_split_are_all_unseen(photos: Path) -> None:
    everything = set(photos.rglob("*.png"))
    assert set(photos_of(photos, "unseen").paths) == everything
    assert not (photos / "split.csv").exists()
    tested = photos_of(photos, "test").paths
    assert photos_of(photos, "unseen").paths == tested
    assert set(tested) < everything


def test_so_are_those_of_a_table(photos: Path) -> None:
    table = photos / "photos.csv"
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    table.write_text("\n".join(["file,label", *rows]))
    assert len(photos_of(table, "unseen").paths) == len(rows)
    assert photos_of(table, "test").paths == photos_of(table, "unseen").paths

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from handler.transforms import Preprocessing
from tests.drawing import THREE, draw
from training.data import load_images, load_training_images, stratified_split
from training.photos import DataError, assigned, is_for_test, photos_of, validation_key

SMALL = [Preprocessing(32)]


def add_photos(root: Path, name: str, numbers: range) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        draw(name, number).save(root / name / f"{number}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photos of each of three classes, which are not split."""
    for name in THREE:
        add_photos(tmp_path / "my-photos", name, range(10))
    return tmp_path / "my-photos"


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

    monkeypatch.setattr("training.photos.write_whole", refuse)
    (note,) = photos_of(photos, "train").notes
    assert "split.csv cannot be written (Permission denied), so the split is not kept" in note


def test_a_damaged_split_is_refused(photos: Path) -> None:
    (photos / "split.csv").write_text("class,place,sha256\nred,first,00\n")
    with pytest.raises(DataError, match=r"split\.csv.*cannot be read. Restore it, or delete it"):
        photos_of(photos, "train")


def test_what_is_left_out_is_noted_once(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("notes.txt", "red/a.mov", "red/b.mov", "red/Thumbs.db", "beside.jpg"):
        (photos / name).touch()
    for _ in range(2):  # the second time there is a split.csv
        load_images(photos, "train", SMALL)
        assert capsys.readouterr().out.splitlines() == [
            f"{photos}: left out 1 image outside the folders of classes.",
            f"{photos}: left out 3 other files (.mov 2, .txt 1).",
            f"{photos}: left out 1 file or folder that systems leave behind: Thumbs.db.",
        ]


def test_all_unreadable_photos_are_named_at_once(photos: Path) -> None:
    for name in ("red/a.png", "lime/b.jpg", "lime/c.jpg"):
        (photos / name).write_bytes(name.encode())
    (photos / "azure" / "d.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(DataError) as raised:
        load_training_images(photos, SMALL)
    assert str(raised.value).startswith("4 files and folders cannot be trained on:")
    for name in ("a.png", "b.jpg", "c.jpg", "d.jpg"):
        assert name in str(raised.value)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("my-photos/red", "my-photos/red has images, but no folders of classes; name the folder above it"),
        (".", "has only 'my-photos'. If the folders in .*my-photos are your classes, name that"),
        ("gone", "There is no folder .*gone"),
        ("empty", "empty has no folders of classes; put images into .*empty/<class>/"),
        ("my-photos/red/0.png", "0.png is a file; name the folder of your photos, or a CSV file"),
    ],
)
def test_a_folder_too_deep_or_too_high_gets_a_sentence(photos: Path, named: str, sentence: str) -> None:
    root = photos.parent / named
    if named == "empty":
        root.mkdir()
    with pytest.raises(DataError, match=sentence):
        photos_of(root, "train")


def test_a_folder_above_train_and_test_gets_a_sentence(tmp_path: Path) -> None:
    for place in ("set/train/red", "set/test/red", "other"):
        (tmp_path / place).mkdir(parents=True)
    with pytest.raises(DataError, match=r"set has folders train and test, so it is no class; name it"):
        photos_of(tmp_path, "train")


def test_val_beside_train_is_named(photos: Path) -> None:
    photos.rename(photos.parent / "train")
    (photos.parent / "val").mkdir()
    with pytest.raises(DataError, match=r"has no folder 'test' with classes; rename .*val to it, or put"):
        photos_of(photos.parent, "test")
    assert any("val: not read" in line for line in photos_of(photos.parent, "train").notes)


def test_a_class_may_be_called_train(photos: Path) -> None:
    (photos / "red").rename(photos / "train")
    assert photos_of(photos, "train").classes == ["azure", "lime", "train"]


def write_table(photos: Path, columns: list[str], rows: list[list[str]]) -> Path:
    table = photos.parent / "photos.csv"
    with table.open("w", newline="", encoding="utf-8-sig") as file:  # as Excel does
        csv.writer(file).writerows([columns, *rows])
    return table


def rows_of(photos: Path) -> list[list[str]]:
    return [[f"my-photos/{name}/{number}.png", f"a {name} thing"] for name in THREE for number in range(10)]


def test_a_csv_names_files_and_labels(photos: Path) -> None:
    table = write_table(photos, ["file", "label"], rows_of(photos))
    images = load_training_images(table, SMALL)
    assert images.classes == ["a azure thing", "a lime thing", "a red thing"]
    in_folders = load_training_images(photos, SMALL)
    assert images.fingerprint() == in_folders.fingerprint()
    assert (photos.parent / "photos.split.csv").is_file()


def test_a_csv_may_decide_the_split(photos: Path) -> None:
    parts = ["train"] * 5 + ["validation"] * 2 + ["test"] * 3
    rows = [[*row, parts[number % 10]] for number, row in enumerate(rows_of(photos))]
    table = write_table(photos, ["file", "label", "split"], rows)
    training, validation = stratified_split(load_training_images(table, SMALL), 0.1, seed=0)
    counts = (training.inputs.count, validation.inputs.count, load_images(table, "test", SMALL).inputs.count)
    assert counts == (15, 6, 9)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,class\n", "must begin with a line that names its columns: file,label"),
        ("file,label,split\na.png,cat,exam\n", "line 2: the split is 'exam'; write one of train, validation, test"),
        ("file,label\na.png,\n", "line 2: it needs a file and a label"),
        ("file,label\na.png,cat\na.png,dog\n", "line 3: a.png has another label or split in an earlier line"),
        ("file,label\na.png,cat\n", "needs at least two classes; .*photos.csv has only cat"),
        ("file;label\na.png;cat\nb.png;dog\n", "a.png: No such file or directory. Remove it"),
        ("file,label,split\na.png,cat,train\nb.png,dog,test\n", "no row of class 'dog' with the split train"),
    ],
)
def test_says_what_is_wrong_with_a_csv(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "photos.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        load_training_images(tmp_path / "photos.csv", SMALL)


def test_heic_photos_are_named_if_they_cannot_be_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.folders.READS_HEIC", False)
    (photos / "red" / "IMG_1.HEIC").touch()
    (note,) = photos_of(photos, "train").notes
    assert note.endswith("left out 1 HEIC photo, IMG_1.HEIC; to read them, run: pip install pillow-heif.")
    (photos / "phone").mkdir()
    (photos / "phone" / "IMG_2.heic").touch()
    with pytest.raises(DataError, match=r"phone has no JPEG.*pip install pillow-heif"):
        photos_of(photos, "train")


def test_heic_photos_are_trained_on(photos: Path) -> None:
    import pillow_heif

    file = photos / "red" / "IMG_1.HEIC"
    pillow_heif.from_pillow(Image.new("RGB", (90, 60), (200, 30, 30))).save(file)
    both = [load_images(photos, split, SMALL) for split in ("train", "test")]
    assert sum(images.inputs.count for images in both) == 31

"""Photos in folders of classes: what is found, what is left out, and what is wrong with the folders."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from handler.transforms import Preprocessing
from tests.drawing import TEN, add_photos, draw, encode
from training.data import load_images, load_training_images, stratified_split
from training.folders import FEEDBACK_FILE
from training.photos import photos_of
from training.split import DataError

SMALL = [Preprocessing(32)]


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


def test_a_class_whose_photos_cannot_be_read_is_not_called_small(photos: Path) -> None:
    (photos / "moved").mkdir()
    (photos / "moved" / "1.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(DataError, match=r"1 file or folder cannot be trained on:\n.*moved/1\.jpg"):
        load_training_images(photos, SMALL)


def test_all_empty_classes_are_named_at_once(photos: Path) -> None:
    for name in ("ash", "birch"):
        (photos / name).mkdir()
    with pytest.raises(DataError, match=r"/ash, .*/birch have no JPEG"):
        photos_of(photos, "train")


@pytest.mark.parametrize("names", [("Training", "Testing"), ("seg_train", "seg_test"), ("train", "eval")])
def test_splits_of_other_names_are_no_classes(photos: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        shutil.copytree(photos, tmp_path / "set" / name)
    with pytest.raises(DataError, match=r"all hold azure, lime, red, as if they were splits .*train and test"):
        photos_of(tmp_path / "set", "train")


@pytest.mark.parametrize("names", [("strain A", "strain B"), ("bus", "car", "train"), ("boots", "trainers")])
def test_classes_that_only_sound_like_splits_are_classes(photos: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        for time in ("day", "night"):
            add_photos(tmp_path / "set" / name / time, TEN[number], range(5))
    assert photos_of(tmp_path / "set", "train").classes == sorted(names)


def test_classes_with_the_same_folders_are_noted(photos: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("2023", "2024")):
        for colour in ("red", "lime"):
            add_photos(tmp_path / "set" / name, colour, range(10 * number, 10 * number + 5))
    (note,) = photos_of(tmp_path / "set", "train").notes
    assert note.endswith("each class has the folders lime, red. If those are your classes, name a folder above them.")


def test_copies_of_training_photos_among_the_test_photos_are_noted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        shutil.copytree(photos, tmp_path / "set" / split)
    load_training_images(tmp_path / "set", SMALL)
    assert "30 test photos are copies of training photos, so the test accuracy will flatter" in capsys.readouterr().out


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


def test_folders_of_a_split_are_called_train_and_test(photos: Path) -> None:
    photos.rename(photos.parent / "Train")
    (photos.parent / "Test").mkdir()
    with pytest.raises(DataError, match="have to be called train and test"):
        photos_of(photos.parent, "train")


def test_a_folder_beside_train_and_test_is_named(split: Path) -> None:
    (split / "extra").mkdir()
    assert any("extra: not read" in line for line in photos_of(split, "train").notes)


def test_a_class_whose_name_is_not_utf8_gets_a_sentence(photos: Path) -> None:
    (photos / os.fsdecode(b"M\xf6we")).mkdir()
    with pytest.raises(DataError, match=r"name is not UTF-8: M\\xf6we"):
        photos_of(photos, "train")


@pytest.fixture
def split(photos: Path) -> Path:
    """The photos of three classes in train, and some of each in test."""
    shutil.copytree(photos, photos.parent / "split" / "test")
    return photos.rename(photos.parent / "split" / "train").parent


def test_feedback_changes_the_side_of_no_other_photo(split: Path) -> None:
    def sides() -> list[set[str]]:
        images = load_images(split, "train", SMALL)
        paths = photos_of(split, "train").paths
        names = {pixels.numpy().tobytes(): path.name for path, pixels in zip(paths, images.pixels, strict=True)}
        halves = stratified_split(images, 0.2, 1)
        return [{names[pixels.numpy().tobytes()] for pixels in half.pixels} for half in halves]

    before = sides()
    lines = []
    for number, name in enumerate(["azure", "brown", "red"] * 5):
        file = split / "train" / name / f"{name}-{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encode(draw("blue", 100 + number)))
        lines.append(json.dumps({"file": file.name}))
    (split / FEEDBACK_FILE).write_text("\n".join(lines))
    training, validation = sides()
    assert before[1] <= validation
    assert before[0] <= training
    assert {name.split("-")[0] for name in validation - before[1]} == {"brown"}  # a class of nothing else
    for name in ("brown", "azure", "red"):
        file = split / "train" / name / f"0-{name}.png"  # before all others
        file.write_bytes(encode(draw("blue", 200 + len(lines))))
        lines.append(json.dumps({"file": file.name}))
    (split / FEEDBACK_FILE).write_text("\n".join(lines))
    later = sides()
    assert training <= later[0]
    assert validation <= later[1]


def test_a_class_of_one_photo_keeps_it_for_validation_if_feedback_comes(split: Path) -> None:
    def sides() -> list[list[int]]:
        images = load_images(split, "train", SMALL)
        named = images._replace(labels=images.labels)
        return [
            half.labels.bincount(minlength=len(images.classes)).tolist() for half in stratified_split(named, 0.2, 1)
        ]

    owls = split / "train" / "owl"
    owls.mkdir()
    lines = []
    for number in range(4):
        (owls / f"{number}.png").write_bytes(encode(draw("blue", 300 + number)))
        lines += [json.dumps({"file": f"{number}.png"})] if number else []
    (split / FEEDBACK_FILE).write_text("\n".join(lines))
    label = photos_of(split, "train").classes.index("owl")
    training, validation = sides()
    assert (training[label], validation[label]) == (3, 1)


def test_one_photo_of_a_class_is_too_few_to_learn_it(split: Path) -> None:
    owl = split / "train" / "owl" / "owl.png"
    owl.parent.mkdir()
    owl.write_bytes(encode(draw("blue", 1)))
    (split / FEEDBACK_FILE).write_text(json.dumps({"file": owl.name}))
    with pytest.raises(DataError, match="Class 'owl' has no photo left for validation, or none to train on"):
        stratified_split(load_images(split, "train", SMALL), 0.2, 1)

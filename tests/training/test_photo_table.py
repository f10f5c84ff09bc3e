"""Photos that a CSV file lists."""

import csv
from pathlib import Path

import pytest

from handler.transforms import Preprocessing
from tests.drawing import THREE
from training.data import load_images, load_training_images, stratified_split
from training.split import DataError

SMALL = [Preprocessing(32)]


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
        (
            "file,label,split\n"
            + "".join(f"{name}{split}.png,{name},{split}\n" for name in ("cat", "dog") for split in ("train", "test"))
            + "v.png,cat,validation\n",
            "no row of class 'dog' with the split validation",
        ),
    ],
)
def test_says_what_is_wrong_with_a_csv(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "photos.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        load_training_images(tmp_path / "photos.csv", SMALL)

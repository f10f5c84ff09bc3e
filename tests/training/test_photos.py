"""The ways in which photos lie, told apart."""

from pathlib import Path

import pytest

from training.photos import photos_of
from training.split import DataError


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


def test_a_class_may_be_called_train(photos: Path) -> None:
    (photos / "red").rename(photos / "train")
    assert photos_of(photos, "train").classes == ["azure", "lime", "train"]

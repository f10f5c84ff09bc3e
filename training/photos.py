"""The photos that you name with --data: where they are, the class of each, and what they are for.

They lie in one of three ways, which `photos_of` tells apart:

- `<class>/*`: every fifth photo of a class is for the test, and `validation_fraction` of the others for validation.
- `train/<class>/*` and `test/<class>/*`.
- A CSV file with the columns file and label, and perhaps split: train, validation or test.
"""

from pathlib import Path

from training import class_folders, photo_table
from training.split import Photos


def photos_of(root: Path, split: str) -> Photos:
    """Find the photos of a split, `train` (with those for validation) or `test`. Raises DataError."""
    if root.is_file():
        return photo_table.of_table(root, split)
    if class_folders.has_splits(root):
        return class_folders.of_folder(root / split)
    return class_folders.of_classes(root, split)

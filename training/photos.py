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
    """Find the photos of a split: `train` (with those for validation), `test` or `unseen`. Raises DataError.

    No training saw the last: they are the photos for the test, or all of them if no training has split them.
    """
    if root.is_file():
        return photo_table.of_table(root, split)
    if class_folders.has_splits(root):
        return class_folders.of_folder(root / ("train" if split == "train" else "test"))
    return class_folders.of_classes(root, split)

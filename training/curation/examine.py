"""Look at each photo once: whether it can be read, how it looks, and what the network makes of it."""

import hashlib
import io
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import imagehash
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from handler.transforms import ImageError, Preprocessing, decode_image
from training import pretrained
from training.class_folders import classes_of, splits_of
from training.decoding import in_threads
from training.folders import PLACES_FILE, Findings, find
from training.inputs import normalise
from training.models import Network
from training.split import DataError, assigned, is_for_test, kept_places

ARCHITECTURE = "timm/tf_efficientnet_lite0"
SIZE = 160  # pixels; larger ones find no more, but take longer
BATCH = 32
SMALL = 32  # pixels of the picture that is compared with others
LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])


@dataclass(frozen=True)
class Photo:
    """A photo: its path below the folder, class, split (train or test), and how it looks.

    `size` is the width and height in its file. `brightness` and `contrast` are the mean and deviation of the grey
    values of 0 to 255, `sharpness` the deviation of their Laplacian.
    """

    path: Path
    label: str
    split: str
    digest: str
    size: tuple[int, int]
    brightness: float
    contrast: float
    sharpness: float
    phash: int
    small: NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True)
class Examined:
    """All photos of a folder, with the features (N, D) of a pretrained network, and its head.

    `unreadable` has the reason for each file that is no photo, and `skipped` the files that training leaves out.
    """

    root: Path
    classes: list[str]
    photos: list[Photo]
    features: Tensor
    head: nn.Module
    unreadable: dict[str, str]
    skipped: list[str]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The number of each photo's class."""
        return np.array([self.classes.index(photo.label) for photo in self.photos])


def examine(root: Path) -> Examined:
    """Look at all photos of a folder of classes, or of its train and test. Raises DataError if there are none."""
    network, head, preprocessing = _pretrained()
    classes, rows, findings = _listed(root)
    unreadable = {_legible(path.relative_to(root)): reason for path, reason in findings.unreadable.items()}
    photos: list[Photo] = []
    features: list[Tensor] = []
    batch: list[Tensor] = []
    looked = in_threads(partial(_look, root, preprocessing), rows)
    for (path, *_), result in zip(rows, tqdm(looked, "photos", len(rows), leave=False, disable=None), strict=True):
        if isinstance(result, str):
            unreadable[_legible(path.relative_to(root))] = result
            continue
        photo, pixels = result
        photos.append(photo)
        batch.append(pixels)
        if len(batch) == BATCH:
            features.append(_features(network, batch, preprocessing))
            batch.clear()
    if batch:
        features.append(_features(network, batch, preprocessing))
    if not photos:
        raise DataError(f"{root} has no photo that can be read. Add some, or name another folder.")
    skipped = [_legible(path.relative_to(root)) for path in (*findings.others, *findings.leavings)]
    return Examined(root, classes, _with_split(root, photos), torch.cat(features), head, unreadable, skipped)


def _listed(root: Path) -> tuple[list[str], list[tuple[Path, str, str]], Findings]:
    """Return the classes, each file with its class and split, and what is left out. Raises DataError."""
    if root.is_file():
        raise DataError(f"{root} is a file. Name the folder with your classes; a CSV file cannot be checked.")
    rows, all_findings = [], Findings()
    for split in splits_of(root):
        findings = find(root / split)
        all_findings.add(findings)
        for path in findings.images:
            parts = path.relative_to(root / split).parts
            if len(parts) > 1:
                rows.append((path, parts[0], split))
            else:
                all_findings.others.append(path)  # outside the classes
    all_findings.others = [path for path in all_findings.others if path.name != PLACES_FILE]
    return classes_of(root), rows, all_findings


def _legible(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _with_split(root: Path, photos: list[Photo]) -> list[Photo]:
    """Say what each photo is for, as training will: folders decide, or else the content of the files."""
    if all(photo.split for photo in photos):
        return photos
    kept = kept_places(root / PLACES_FILE)
    places = {
        name: assigned({photo.digest for photo in photos if photo.label == name}, kept.get(name, {}))
        for name in {photo.label for photo in photos}
    }
    return [
        Photo(**vars(photo) | {"split": "test" if is_for_test(places[photo.label][photo.digest]) else "train"})
        for photo in photos
    ]


def _look(root: Path, preprocessing: Preprocessing, row: tuple[Path, str, str]) -> tuple[Photo, Tensor] | str:
    path, label, split = row
    if os.fsencode(path).decode(errors="replace") != str(path):
        return "Its name is not UTF-8. Rename it."
    try:
        content = path.read_bytes()
        image = decode_image(content, SIZE)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return error.strerror or type(error).__name__
    grey = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR).convert("L"), dtype=np.float32)
    edges = sum(
        weight * grey[row : SIZE - 2 + row, column : SIZE - 2 + column]
        for (row, column), weight in np.ndenumerate(LAPLACIAN)
        if weight
    )
    photo = Photo(
        path=path.relative_to(root),
        label=label,
        split=split,
        digest=hashlib.sha256(content).hexdigest(),
        size=_size(content, image),
        brightness=float(grey.mean()),
        contrast=float(grey.std()),
        sharpness=float(np.std(edges)),
        phash=int(str(imagehash.phash(image)), 16),
        small=np.asarray(image.resize((SMALL, SMALL), Image.Resampling.BOX)),
    )
    return photo, torch.from_numpy(preprocessing.pixels(image))


def _size(content: bytes, decoded: Image.Image) -> tuple[int, int]:
    """Return width and height of a photo, which was decoded at a part of them if it is a large JPEG."""
    try:
        with Image.open(io.BytesIO(content)) as stored:
            return stored.size
    except Exception:  # its readers raise many kinds; handler.transforms has decoded it without its metadata
        return decoded.size


def _pretrained() -> tuple[Network, nn.Module, Preprocessing]:
    values = pretrained.default_input(ARCHITECTURE)
    preprocessing = Preprocessing(SIZE, "crop", values["mean"], values["std"])
    network = pretrained.build(ARCHITECTURE, num_classes=2, dropout=0, size=SIZE)
    head = pretrained.copy_imagenet(network, ARCHITECTURE, SIZE, None, [])
    return network.eval(), head, preprocessing


@torch.no_grad()
def _features(network: Network, batch: list[Tensor], preprocessing: Preprocessing) -> Tensor:
    return network.features(normalise(torch.stack(batch), preprocessing))

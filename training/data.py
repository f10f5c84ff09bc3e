"""Images as tensors: CIFAR-10 by torchvision, or your own; training.photos finds them."""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from handler.transforms import Preprocessing
from training import distributed
from training.augment import mix, train_transform
from training.commands import PATH, command
from training.config import Recipe
from training.decoding import decode, digests_of
from training.folders import counted
from training.inputs import Inputs, Pixels, read_all
from training.photos import photos_of
from training.project import ROOT
from training.split import BY_CHANCE, DataError, Photos, raise_any

CIFAR10_ROOT = ROOT / "data"
CIFAR10_PREPROCESSING = Preprocessing(32)  # leaves its images as they are
CIFAR10_LOCK = ".cifar10.lock"  # a file in CIFAR10_ROOT
IMAGES_AT_ONCE = 64  # in a checksum; more need more memory


class Images(NamedTuple):
    """Decoded images for the inputs of a network, labels int64 (N,), and class names in label order."""

    inputs: Inputs
    labels: Tensor
    classes: list[str]
    validation_keys: Tensor | None = None  # (N,); see training.split.Photos

    @property
    def pixels(self) -> Any:
        """The Pixels uint8 (N, 3, S, S) for the first input, which is the only one of a network in training."""
        return self.inputs.pixels[0]

    @property
    def preprocessing(self) -> Preprocessing:
        return self.inputs.preprocessing[0]

    def of(self, preprocessing: list[Preprocessing]) -> "Images":
        """Return the images for some of the inputs."""
        return self._replace(inputs=self.inputs.of(preprocessing))

    def beside(self, others: "Images") -> "Images":
        """Return the same images with the inputs of `others` behind their own."""
        ours, theirs = self.inputs, others.inputs
        return self._replace(inputs=Inputs(ours.preprocessing + theirs.preprocessing, ours.pixels + theirs.pixels))

    def subset(self, indices: Tensor) -> "Images":
        return Images(self.inputs.subset(indices), self.labels[indices], self.classes)

    def fingerprint(self) -> list[int]:
        """Return checksums of pixels and labels; they differ for other images and for another order."""
        return [_checksum(values) for values in (*self.inputs.pixels, self.labels)]


def _checksum(values: Pixels) -> int:
    checksum = 0
    for start in range(0, len(values), IMAGES_AT_ONCE):
        checksum = zlib.crc32(values[start : start + IMAGES_AT_ONCE].numpy().data, checksum)
    return checksum


def load_images(root: Path | None, split: str, preprocessing: list[Preprocessing]) -> Images:
    """Load the images of a split of `root`, a folder or CSV; see training.photos.photos_of. If None, load CIFAR-10.

    The images are made as each input of a network takes them, by its `preprocessing`. CIFAR-10 is downloaded if needed.

    Raises DataError if a folder is missing, or if images cannot be read; it names them.
    """
    if root is None:
        return _load_cifar10(split, preprocessing)
    photos = photos_of(root, split)
    _note_all(photos)
    images, problems = _read(photos, split, preprocessing)
    raise_any(problems)
    return images


def load_training_images(root: Path | None, preprocessing: list[Preprocessing]) -> Images:
    """Load the `train` images as `load_images` does, and check the `test` images.

    These must be readable and have the same classes, because training must not fail at its end. Raises DataError.
    """
    if root is None:
        return _load_cifar10("train", preprocessing)
    train, test = (photos_of(root, split) for split in ("train", "test"))
    if train.classes != test.classes:
        raise DataError(f"{root}/train and {root}/test have different classes; give both the same folders.")
    _note_all(train)
    if train.digests is None:  # it was not the digests that split them
        learnt = {digest for digest in digests_of(train.paths) if isinstance(digest, bytes)}
        if copies := [digest for digest in digests_of(test.paths) if digest in learnt]:
            _note(
                f"{root}: {counted(copies, 'test photo is a copy', 'test photos are copies')} of training photos, so "
                "the test accuracy will flatter." + " 'classifier check' shows them." * root.is_dir()
            )
    images, problems = _read(train, "train", preprocessing)
    raise_any(list(dict.fromkeys(problems + _read(test, "test", preprocessing)[1])))
    return images


def load_test_images(root: Path | None, classes: list[str], preprocessing: list[Preprocessing]) -> Images:
    """Load the `test` images when all else is computed. Raises DataError if the classes changed meanwhile."""
    images = load_images(root, "test", preprocessing)
    if images.classes != classes:
        (changed, *_) = {*images.classes} ^ {*classes}
        raise DataError(
            f"The class {changed!r} came or went while this was computed. Put the images back as they were, and repeat "
            "the command, 'classifier train' with --resume."
        )
    return images


def _read(photos: Photos, split: str, preprocessing: list[Preprocessing]) -> tuple[Images, list[str]]:
    """Decode the photos of a split. Returns them, and a line for each file and folder that cannot be used."""
    inputs, problems = decode(photos.paths, preprocessing, f"reading {split}", photos.digests)
    keys = None if photos.validation_keys is None else torch.tensor(photos.validation_keys)
    return Images(inputs, torch.tensor(photos.labels), photos.classes, keys), photos.problems + problems


def read_files(paths: list[Path], preprocessing: list[Preprocessing]) -> Inputs:
    """Decode image files for the inputs of a network. Raises DataError, which names those that cannot be read."""
    inputs, problems = decode(paths, preprocessing, "reading")
    raise_any(problems)
    return inputs


def _note_all(photos: Photos) -> None:
    for line in photos.notes:
        _note(line)


def _note(line: str) -> None:
    if distributed.rank() == 0:
        tqdm.write(line)


def stratified_split(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Take `fraction` of every class, at least one image, for validation. Returns (training, validation).

    The `seed` picks them, unless the images have validation keys. Raises DataError if a class has a single image.
    """
    keys = images.validation_keys if images.validation_keys is not None else torch.full(images.labels.shape, BY_CHANCE)
    by_chance = keys.isnan()
    if not by_chance.any():
        return _split_by_keys(images, keys < fraction)
    generator = seeded(seed)
    training = [(keys >= fraction).nonzero().flatten()]
    validation = [(keys < fraction).nonzero().flatten()]
    for label, name in enumerate(images.classes):
        members = (by_chance & (images.labels == label)).nonzero().flatten()
        if not len(members) and (images.labels == label).any():  # all have keys
            _check_both_sides(name, keys[images.labels == label] < fraction)
            continue
        if len(members) < 2:
            raise DataError(f"Class '{name}' has {len(members)} image(s) to train on; give it two or more.")
        shuffled = members[torch.randperm(len(members), generator=generator)]
        taken = min(max(round(len(members) * fraction), 1), len(members) - 1)
        validation.append(shuffled[:taken])
        training.append(shuffled[taken:])
    return images.subset(torch.cat(training)), images.subset(torch.cat(validation))


def _split_by_keys(images: Images, validating: Tensor) -> tuple[Images, Images]:
    """Return training and validation images. Raises DataError if a class lacks one of them."""
    for label, name in enumerate(images.classes):
        _check_both_sides(name, validating[images.labels == label])
    return images.subset((~validating).nonzero().flatten()), images.subset(validating.nonzero().flatten())


def _check_both_sides(name: str, validating: Tensor) -> None:
    if len(validating.unique()) == 1:
        raise DataError(
            f"Class '{name}' has no photo left for validation, or none to train on. Add photos, or change "
            "validation_fraction."
        )


def seeded(*keys: int) -> Generator:
    """Return a random generator that depends on all `keys` and on nothing else."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(keys).generate_state(1)[0]))


class Epoch(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The batches of one epoch: augmented images (N, 3, S, S), their indices (N,), and their labels.

    The labels are int64 (N,). If the recipe mixes images, they are the shares (N, C) of the classes in each.
    Batch i is the same in every process.
    """

    def __init__(self, images: Images, recipe: Recipe, number: int) -> None:
        self.images, self.augment, self.size = images, recipe.augment, recipe.image_size(number)
        self.keys = (recipe.seed, number)
        generator = seeded(*self.keys)
        order = torch.randperm(len(images.labels), generator=generator)
        # Skip a batch of one image, because batch norm cannot learn from it.
        self.batches = [batch for batch in order.split(recipe.batch_size) if len(batch) > 1]
        self.mirrored = self._mirrored(generator)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        batch = self.batches[index]
        pixels, mirrored, labels = self.images.pixels[batch], self.mirrored[batch], self.images.labels[batch]
        generator = seeded(*self.keys, index)
        images = train_transform(pixels, mirrored, self.augment, self.images.preprocessing, generator)
        if self.size != self.images.preprocessing.size:
            images = F.interpolate(images, size=self.size, mode="bilinear", antialias=True)
        if self.augment.mixes:
            images, labels = mix(images, labels, len(self.images.classes), self.augment, generator)
        return images, batch, labels

    def loader(self, num_workers: int, start: int = 0) -> DataLoader:
        """Load the batches from number `start` on."""
        return DataLoader(self, batch_size=None, sampler=range(start, len(self)), num_workers=num_workers)

    def _mirrored(self, generator: Generator) -> Tensor:
        """Return whether to mirror each image (N,) in this epoch."""
        count, (seed, number) = len(self.images.labels), self.keys
        if self.augment.flip == "alternating":
            return (torch.rand(count, generator=seeded(seed)) < 0.5) ^ bool(number % 2)
        return torch.rand(count, generator=generator) < 0.5 * (self.augment.flip == "random")


def _load_cifar10(split: str, preprocessing: list[Preprocessing]) -> Images:
    from torchvision.datasets import CIFAR10  # here, because it loads PyTorch's compiler, which takes two seconds

    try:
        with _one_process_at_a_time(CIFAR10_ROOT):
            downloaded = CIFAR10(CIFAR10_ROOT, train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 cannot be loaded into {CIFAR10_ROOT} ({error}); name your own images with --data."
        ) from None
    inputs = read_all(map(Image.fromarray, downloaded.data), preprocessing)
    return Images(inputs, torch.tensor(downloaded.targets), downloaded.classes)


@contextmanager
def _one_process_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a lock while one process downloads into a folder; others wait until it is complete. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):  # then no process downloads
        yield
        return
    lock = FileLock(folder / CIFAR10_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _note("Waiting for another process that loads CIFAR-10 …")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_images(images: Images, folder: Path) -> None:
    """Write the images as folder/<class>/NNNN.png, numbered within their class."""
    for label, name in enumerate(images.classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(images.pixels[images.labels == label]):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / name / f"{number:04}.png")


@command("data")
@click.argument("folder", type=PATH, help="the folder to write")
def main(folder: Path) -> None:
    """Write CIFAR-10 as PNG files, to look at or to send to a server.

    The folder gets `train/<class>/*` and `test/<class>/*`.

        classifier data data/cifar10
    """
    for split in ("train", "test"):
        write_images(load_images(None, split, [CIFAR10_PREPROCESSING]), folder / split)
    print(f"wrote CIFAR-10 to {folder}")


if __name__ == "__main__":
    main()

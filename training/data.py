"""Images as tensors: CIFAR-10 by torchvision, or any folder `train/<class>/*`, `test/<class>/*`."""

import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from handler.transforms import ImageError, Preprocessing, is_pointer, read_pixels
from training import distributed
from training.augment import mix, train_transform
from training.commands import PATH, command
from training.config import Recipe
from training.folders import FORMAT_NAMES, Findings, counted, extensions_of, few, find, is_leaving
from training.inputs import Inputs, read_all
from training.outcome import Stopped
from training.project import ROOT

CIFAR10_ROOT = ROOT / "data"
CIFAR10_PREPROCESSING = Preprocessing(32)  # leaves its images as they are
CIFAR10_LOCK = ".cifar10.lock"  # a file in CIFAR10_ROOT
DECODER_THREADS = min(os.cpu_count() or 1, 16)  # no more, because each may hold a large image
MAX_QUEUED_PATHS = 4096  # that wait for a thread
MAX_PROBLEMS = 20  # named in a message


class DataError(Stopped, ValueError):
    """Images cannot be trained on; the message says what to change."""


class Images(NamedTuple):
    """Decoded images for the inputs of a network, labels int64 (N,), and class names in label order."""

    inputs: Inputs
    labels: Tensor
    classes: list[str]

    @property
    def pixels(self) -> Tensor:
        """The pixels uint8 (N, 3, S, S) for the first input, which is the only one of a network in training."""
        return self.inputs.pixels[0]

    @property
    def preprocessing(self) -> Preprocessing:
        return self.inputs.preprocessing[0]

    def of(self, preprocessing: list[Preprocessing]) -> "Images":
        """Return the images for some of the inputs."""
        return self._replace(inputs=self.inputs.of(preprocessing))

    def subset(self, indices: Tensor) -> "Images":
        return Images(self.inputs.subset(indices), self.labels[indices], self.classes)

    def fingerprint(self) -> list[int]:
        """Return checksums of pixels and labels; they differ for other images and for another order."""
        return [zlib.crc32(values.numpy().data) for values in (*self.inputs.pixels, self.labels)]


def load_images(root: Path | None, split: str, preprocessing: list[Preprocessing]) -> Images:
    """Load the `train` or `test` images in `root`. If it is None, load CIFAR-10, and download it first if needed.

    The images are made as each input of a network takes them, by its `preprocessing`.

    Raises DataError if a folder is missing, or if images cannot be read; it names them.
    """
    if root is None:
        return _load_cifar10(split, preprocessing)
    parts = _find_split(root / split)
    _note_left_out(parts)
    images, problems = _read_split(parts, preprocessing)
    _raise_any(problems)
    return images


def load_training_images(root: Path | None, preprocessing: list[Preprocessing]) -> Images:
    """Load the `train` images as `load_images` does, and check the `test` images.

    These must be readable and have the same classes, because training must not fail at its end. Raises DataError.
    """
    if root is None:
        return _load_cifar10("train", preprocessing)
    train, test = (_find_split(root / split) for split in ("train", "test"))
    if list(train.classes) != list(test.classes):
        raise DataError(f"{root}/train and {root}/test have different classes; give both the same folders.")
    _note_left_out(train)
    images, problems = _read_split(train, preprocessing)
    _raise_any(problems + _read_split(test, preprocessing)[1])
    return images


class Split(NamedTuple):
    """The folder of a split, everything in it, and the images of each class, in order."""

    folder: Path
    findings: Findings
    classes: dict[str, list[Path]]


def _find_split(folder: Path) -> Split:
    """Find the images of each class. Raises DataError if there are fewer than two, or if one has no images."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not is_leaving(path.name) and os.path.isdir(path))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); make it readable.") from None
    if not names and not folder.parent.is_dir():
        raise DataError(f"There is no folder {folder.parent}; name the one with your images.")
    if not names:
        raise DataError(
            f"{folder.parent} has no folder '{folder.name}' with classes; put images into {folder}/<class>/."
        )
    if len(names) == 1:
        raise DataError(f"Training needs at least two classes; {folder} has only '{names[0]}'.")
    findings = find(folder)
    classes: dict[str, list[Path]] = {name: [] for name in names}
    # A folder's own images come before those of folders in it, as in torchvision's ImageFolder.
    for path in sorted(findings.images, key=lambda path: (str(path.parent), path.name)):
        if path.parent != folder:
            classes[path.relative_to(folder).parts[0]].append(path)
    empty = [name for name, images in classes.items() if not images]
    if empty and not findings.unreadable:
        raise DataError(f"{folder / empty[0]} has no {FORMAT_NAMES} files; add some, or remove the folder.")
    return Split(folder, findings, classes)


def _read_split(split: Split, preprocessing: list[Preprocessing]) -> tuple[Images, list[str]]:
    """Decode the images of a split. Returns them, and a line for each file and folder that cannot be read."""
    unreadable = sorted(split.findings.unreadable.items())
    problems = [f"{path}: {reason}. Remove it, or make it readable." for path, reason in unreadable]
    labels = [label for label, paths in enumerate(split.classes.values()) for _ in paths]
    read: list[list[Tensor]] = []  # the pixels of each image
    paths = list(chain.from_iterable(split.classes.values()))
    hidden = distributed.rank() > 0 or None  # None shows the bar on terminals only
    name = f"reading {split.folder.name}"
    with tqdm(desc=name, total=len(paths), unit=" images", leave=False, disable=hidden) as bar:
        for pixels in _read_all(paths, preprocessing):
            bar.update()
            if isinstance(pixels, str):
                problems.append(pixels)
            else:
                read.append(pixels)
    if problems:
        return Images(Inputs(preprocessing, []), torch.empty(0), list(split.classes)), problems
    inputs = Inputs(preprocessing, [torch.stack(column) for column in zip(*read, strict=True)])
    return Images(inputs, torch.tensor(labels), list(split.classes)), []


def _read_all(paths: list[Path], preprocessing: list[Preprocessing]) -> Iterator[list[Tensor] | str]:
    """Yield the results of `_read` in order. It uses all cores, because Pillow decodes without Python's lock."""
    pool = ThreadPoolExecutor(DECODER_THREADS)
    try:
        for first in range(0, len(paths), MAX_QUEUED_PATHS):
            yield from pool.map(partial(_read, preprocessing), paths[first : first + MAX_QUEUED_PATHS])
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, wait only for the images that are being read


def _read(preprocessing: list[Preprocessing], path: Path) -> list[Tensor] | str:
    """Return the pixels of an image for each input, or a line that says why it cannot be read."""
    try:
        content = path.read_bytes()
        return list(map(torch.from_numpy, read_pixels(content, preprocessing)))
    except ImageError as error:
        return f"{path}: {error}" if is_pointer(content) else f"{path}: {error} Remove or replace it."
    except OSError as error:
        return f"{path}: {error.strerror}. Remove it, or make it readable."


def read_files(paths: list[Path], preprocessing: list[Preprocessing]) -> Inputs:
    """Decode image files for the inputs of a network. Raises DataError, which names those that cannot be read."""
    read = list(_read_all(paths, preprocessing))
    _raise_any([line for line in read if isinstance(line, str)])
    pixels = [each for each in read if not isinstance(each, str)]
    return Inputs(preprocessing, [torch.stack(column) for column in zip(*pixels, strict=True)])


def _raise_any(problems: list[str]) -> None:
    """Raise DataError if there are problems; it names the first of them."""
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS:,} more"] if len(problems) > MAX_PROBLEMS else []
        count = counted(problems, "file or folder", "files and folders")
        raise DataError("\n".join([f"{count} cannot be trained on:", *problems[:MAX_PROBLEMS], *more]))


def _note_left_out(split: Split) -> None:
    """Print which files in the folder of a split are left out."""
    folder, findings, _ = split
    beside = [path for path in findings.images if path.parent == folder]
    kinds = [f"{suffix or 'no suffix'} {count:,}" for suffix, count in extensions_of(findings.others).most_common()]
    if beside:
        _note(f"{folder}: left out {counted(beside, 'image', 'images')} outside the folders of classes.")
    if kinds:
        _note(f"{folder}: left out {counted(findings.others, 'other file', 'other files')} ({few(kinds)}).")
    if line := findings.note_of_leavings():
        _note(f"{folder}: {line}.")


def _note(line: str) -> None:
    if distributed.rank() == 0:
        tqdm.write(line)


def stratified_split(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Take `fraction` of every class, at least one image, for validation. Returns (training, validation).

    Raises DataError if a class has a single image.
    """
    generator = seeded(seed)
    training, validation = [], []
    for label, name in enumerate(images.classes):
        members = (images.labels == label).nonzero().flatten()
        if len(members) < 2:
            raise DataError(f"Class '{name}' has {len(members)} image(s) to train on; give it two or more.")
        shuffled = members[torch.randperm(len(members), generator=generator)]
        taken = min(max(round(len(members) * fraction), 1), len(members) - 1)
        validation.append(shuffled[:taken])
        training.append(shuffled[taken:])
    return images.subset(torch.cat(training)), images.subset(torch.cat(validation))


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

"""Images as tensors: CIFAR-10 by torchvision, or any folder `train/<class>/*`, `test/<class>/*`.

    .venv/bin/python -m training.data data/cifar10

writes CIFAR-10 as such a folder of PNG files, to look at or to send to a server.
"""

import argparse
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import CIFAR10, ImageFolder

from handler.transforms import INPUT_SIZE, ImageError, decode_image, to_pixels
from training.augment import train_transform
from training.config import Recipe

CIFAR10_ROOT = Path("data")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif")  # of handler.transforms.FORMATS


class DataError(ValueError):
    """Images that cannot be trained on; the message says what to change."""


class Images(NamedTuple):
    """Decoded images: pixels uint8 (N, 3, INPUT_SIZE, INPUT_SIZE), labels int64 (N,), class names in label order."""

    pixels: Tensor
    labels: Tensor
    classes: list[str]

    def subset(self, indices: Tensor) -> "Images":
        return Images(self.pixels[indices], self.labels[indices], self.classes)

    def fingerprint(self) -> list[int]:
        """Return check sums of pixels and labels, which tell other images or another order."""
        return [zlib.crc32(self.pixels.numpy().data), zlib.crc32(self.labels.numpy().data)]


def load_images(root: Path | None, split: str) -> Images:
    """Load the `train` or `test` images under `root`; without a root, CIFAR-10, downloaded if absent.

    Raises DataError where a folder is missing or an image cannot be read.
    """
    if root is None:
        return _load_cifar10(split)
    class_names(root, split)
    try:
        folder = ImageFolder(str(root / split), loader=_load_pixels, is_valid_file=_is_image)
    except FileNotFoundError as error:
        raise DataError(f"{root / split} cannot be used: {error}") from None
    return Images(torch.stack([pixels for pixels, _ in folder]), torch.tensor(folder.targets), folder.classes)


def class_names(root: Path, split: str) -> list[str]:
    """Return the names of the folders of a split. Raises DataError for less than two, and for one without images."""
    names = sorted(folder.name for folder in (root / split).glob("*/"))
    if not names:
        raise DataError(f"{root} has no folder '{split}' with classes; put images into {root}/{split}/<class>/.")
    if len(names) == 1:
        raise DataError(f"{root / split} has '{names[0]}' alone; there is nothing to tell apart.")
    for name in names:
        if not any(_is_image(file.name) for file in (root / split / name).rglob("*")):
            raise DataError(f"{root / split / name} has no JPEG, PNG or GIF files; add some, or remove the folder.")
    return names


def stratified_split(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Take `fraction` of every class, at least one image, out for validation; returns (training, validation).

    Raises DataError for a class with a single image.
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
    """Return a generator that depends on all `keys` and on nothing else."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(keys).generate_state(1)[0]))


class Epoch(Dataset[tuple[Tensor, Tensor]]):
    """The batches of one epoch: augmented images, and their indices.

    Batch i is the same however and in whichever process it is made.
    """

    def __init__(self, images: Images, recipe: Recipe, number: int) -> None:
        self.images, self.augment, self.size = images, recipe.augment, recipe.image_size(number)
        self.keys = (recipe.seed, number)
        generator = seeded(*self.keys)
        order = torch.randperm(len(images.labels), generator=generator)
        # Batch norm cannot learn from a batch of one.
        self.batches = [batch for batch in order.split(recipe.batch_size) if len(batch) > 1]
        self.mirrored = self._mirrored(generator)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        batch = self.batches[index]
        pixels, mirrored = self.images.pixels[batch], self.mirrored[batch]
        images = train_transform(pixels, mirrored, self.augment, seeded(*self.keys, index))
        if self.size != INPUT_SIZE:
            images = F.interpolate(images, size=self.size, mode="bilinear", antialias=True)
        return images, batch

    def loader(self, num_workers: int, start: int = 0) -> DataLoader:
        """Load the batches from number `start` on."""
        return DataLoader(self, batch_size=None, sampler=range(start, len(self)), num_workers=num_workers)

    def _mirrored(self, generator: Generator) -> Tensor:
        """Say of every image whether it is mirrored in this epoch."""
        count, (seed, number) = len(self.images.labels), self.keys
        if self.augment.flip == "alternating":
            return (torch.rand(count, generator=seeded(seed)) < 0.5) ^ bool(number % 2)
        return torch.rand(count, generator=generator) < 0.5 * (self.augment.flip == "random")


def _load_cifar10(split: str) -> Images:
    try:
        found = CIFAR10(CIFAR10_ROOT, train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 cannot be loaded into {CIFAR10_ROOT} ({error}); name your own with --data."
        ) from None
    return Images(
        torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets), found.classes
    )


def _load_pixels(path: str) -> Tensor:
    try:
        return to_pixels(decode_image(Path(path).read_bytes()))
    except ImageError as error:
        raise DataError(f"{path}: {error} Remove or replace it.") from None


def _is_image(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def write_images(images: Images, folder: Path) -> None:
    """Write the images as folder/<class>/NNNN.png, numbered within their class."""
    for label, name in enumerate(images.classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(images.pixels[images.labels == label]):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / name / f"{number:04}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        for split in ("train", "test"):
            write_images(load_images(None, split), folder / split)
    except DataError as error:
        raise SystemExit(str(error)) from None
    print(f"wrote CIFAR-10 to {folder}")


if __name__ == "__main__":
    main()

from collections import Counter
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from handler.transforms import INPUT_SIZE, decode_image, to_pixels
from tests.conftest import QUICK_RECIPE
from tests.drawing import TEN
from training import data
from training.config import Recipe
from training.data import DataError, Epoch, Images, load_images, stratified_split, write_images


def images(*counts: int) -> Images:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    return Images(pixels, labels, [f"class {label}" for label in range(len(counts))])


def make_recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(QUICK_RECIPE | {"augment": {}, "batch_size": 16} | changes)


def test_loads_a_folder_as_the_handler_will_see_it(dataset: Path) -> None:
    loaded = load_images(dataset, "test")
    assert loaded.classes == sorted(TEN)
    assert loaded.pixels.shape == (80, 3, INPUT_SIZE, INPUT_SIZE)
    first = dataset / "test" / loaded.classes[0] / "0000.png"
    assert torch.equal(loaded.pixels[0], to_pixels(decode_image(first.read_bytes())))


def test_loads_cifar10_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Downloaded(CIFAR10):
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            assert (root, download) == (Path("data"), True)
            self.data = np.full((4, 32, 32, 3), 7 if train else 9, dtype=np.uint8)
            self.targets, self.classes = [0, 1, 0, 1], ["cat", "dog"]

    monkeypatch.setattr(data, "CIFAR10", Downloaded)  # the real one would fetch 170 MB
    loaded = load_images(None, "train")
    assert loaded.pixels.unique().tolist() == [7]
    assert stratified_split(loaded, 0.5, 0)[0].fingerprint() == stratified_split(loaded, 0.5, 0)[0].fingerprint()
    assert load_images(None, "test").pixels.shape == (4, 3, 32, 32)


def test_says_which_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no folder 'train'"):
        load_images(tmp_path, "train")
    (tmp_path / "train" / "empty").mkdir(parents=True)
    with pytest.raises(DataError, match="'empty' alone"):
        load_images(tmp_path, "train")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"cat has no JPEG, PNG or GIF files"):
        load_images(tmp_path, "train")


def test_says_that_cifar10_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(data, "CIFAR10", unreachable)
    with pytest.raises(DataError, match=r"no network.*name your own with --data"):
        load_images(None, "train")


def test_written_images_can_be_loaded_again(tmp_path: Path, dataset: Path) -> None:
    loaded = load_images(dataset, "test")
    write_images(loaded, tmp_path / "test")
    again = load_images(tmp_path, "test")
    assert torch.equal(again.pixels, loaded.pixels)
    assert again.classes == loaded.classes


def test_names_the_image_that_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "cat"
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / "a.png")
    (folder / "b.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"b\.png.*Remove or replace"):
        load_images(tmp_path, "train")


def test_split_is_stratified_complete_and_seeded() -> None:
    whole = images(50, 30, 20)
    training, validation = stratified_split(whole, 0.1, seed=3)
    assert Counter(validation.labels.tolist()) == {0: 5, 1: 3, 2: 2}
    together = torch.cat([training.pixels, validation.pixels])[:, 0, 0, 0]
    assert sorted(together.tolist()) == list(range(100))
    again, other = stratified_split(whole, 0.1, seed=3)[1], stratified_split(whole, 0.1, seed=4)[1]
    assert torch.equal(validation.pixels, again.pixels)
    assert not torch.equal(validation.pixels, other.pixels)


def test_small_classes_keep_an_image_on_both_sides() -> None:
    training, validation = stratified_split(images(2, 2), 0.9, seed=0)
    assert Counter(training.labels.tolist()) == Counter(validation.labels.tolist()) == {0: 1, 1: 1}
    with pytest.raises(DataError, match="'class 1' has 1 image"):
        stratified_split(images(2, 1), 0.1, seed=0)


def test_epochs_differ_and_repeat_with_any_number_of_workers() -> None:
    whole, recipe = images(20, 20), make_recipe(augment={"noise": 0.1})

    def batches(number: int, num_workers: int = 0) -> list[torch.Tensor]:
        return [batch for batch, _ in Epoch(whole, recipe, number).loader(num_workers)]

    first, again, in_workers, second = batches(1), batches(1), batches(1, num_workers=2), batches(2)
    assert all(map(torch.equal, first, again))
    assert all(map(torch.equal, first, in_workers))
    assert not torch.equal(first[0], second[0])


def test_an_epoch_can_be_entered_at_any_batch() -> None:
    epoch = Epoch(images(20, 20), make_recipe(augment={"noise": 0.1}), 1)
    assert all(
        torch.equal(one[0], other[0]) for one, other in zip(epoch.loader(0, 1), list(epoch.loader(0))[1:], strict=True)
    )


def test_two_epochs_of_alternating_flip_show_both_sides_of_every_image() -> None:
    whole, recipe = images(20, 20), make_recipe(augment={"flip": "alternating"})
    first, second, third = (Epoch(whole, recipe, number).mirrored for number in (1, 2, 3))
    assert 10 < first.sum() < 30
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)


def test_random_flip_takes_half_and_never_none() -> None:
    whole = images(200, 200)
    counts = {flip: Epoch(whole, make_recipe(augment={"flip": flip}), 1).mirrored.sum() for flip in ("never", "random")}
    assert counts["never"] == 0
    assert 150 < counts["random"] < 250


def test_the_first_epochs_may_see_smaller_images() -> None:
    recipe = make_recipe(
        architecture="resnet18", smaller_images=[{"epochs": 1, "size": 16}, {"epochs": 2, "size": 24}], epochs=5
    )
    pixels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    whole = Images(pixels, torch.tensor([0, 0, 1, 1]), ["a", "b"])
    assert [Epoch(whole, recipe, number)[0][0].shape[-1] for number in range(1, 6)] == [16, 24, 24, 32, 32]


def test_epoch_has_every_image_once_but_never_a_batch_of_one() -> None:
    assert [len(labels) for _, labels in Epoch(images(20, 20), make_recipe(), 1).loader(0)] == [16, 16, 8]
    assert [len(labels) for _, labels in Epoch(images(16, 17), make_recipe(), 1).loader(0)] == [16, 16]

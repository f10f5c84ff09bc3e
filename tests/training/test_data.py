from collections import Counter
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets import CIFAR10

from handler.transforms import Preprocessing, decode_image
from tests.commands import FORKS
from tests.conftest import QUICK_RECIPE
from tests.drawing import TEN
from tests.stack import ROOT
from training import data
from training.config import Recipe
from training.data import (
    DataError,
    Epoch,
    Images,
    load_images,
    load_test_images,
    load_training_images,
    stratified_split,
    write_images,
)
from training.inputs import Inputs, to_pixels

SEEN = [Preprocessing(32)]


def images(*counts: int) -> Images:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    return Images(Inputs([Preprocessing(8)], [pixels]), labels, [f"class {label}" for label in range(len(counts))])


def make_recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(QUICK_RECIPE | {"augment": {}, "batch_size": 16} | changes)


def test_loads_a_folder_as_the_handler_will_see_it(dataset: Path) -> None:
    loaded = load_images(dataset, "test", SEEN)
    assert loaded.classes == sorted(TEN)
    assert loaded.pixels.shape == (80, 3, 32, 32)
    first = dataset / "test" / loaded.classes[0] / "0000.png"
    assert torch.equal(loaded.pixels[0], to_pixels(decode_image(first.read_bytes()), SEEN[0]))


def test_loads_cifar10_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Downloaded(CIFAR10):
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            assert (root, download) == (ROOT / "data", True)
            self.data = np.full((4, 32, 32, 3), 7 if train else 9, dtype=np.uint8)
            self.targets, self.classes = [0, 1, 0, 1], ["cat", "dog"]

    monkeypatch.setattr(datasets, "CIFAR10", Downloaded)  # the real one would fetch 170 MB
    loaded = load_images(None, "train", SEEN)
    assert loaded.pixels.unique().tolist() == [7]
    assert stratified_split(loaded, 0.5, 0)[0].fingerprint() == stratified_split(loaded, 0.5, 0)[0].fingerprint()
    assert load_images(None, "test", SEEN).pixels.shape == (4, 3, 32, 32)


def test_says_which_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder .*my-imgs; name the one"):
        load_images(tmp_path / "my-imgs", "train", SEEN)
    with pytest.raises(DataError, match=r"has no folders of classes; put images into .*<class>/"):
        load_images(tmp_path, "train", SEEN)
    (tmp_path / "train" / "empty").mkdir(parents=True)
    with pytest.raises(DataError, match=r"needs at least two classes; .*train has only 'empty'"):
        load_images(tmp_path, "train", SEEN)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"cat, .*empty have no JPEG, PNG, GIF or WebP files"):
        load_images(tmp_path, "train", SEEN)


def test_says_that_cifar10_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(datasets, "CIFAR10", unreachable)
    with pytest.raises(DataError, match=r"no network.*name your own images with --data"):
        load_images(None, "train", SEEN)


def test_written_images_can_be_loaded_again(tmp_path: Path, dataset: Path) -> None:
    loaded = load_images(dataset, "test", SEEN)
    write_images(loaded, tmp_path / "test")
    again = load_images(tmp_path, "test", SEEN)
    assert torch.equal(again.pixels, loaded.pixels)
    assert again.classes == loaded.classes


def test_names_the_image_that_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "cat"
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / "a.png")
    (folder / "b.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"b\.png.*Remove or replace"):
        load_images(tmp_path, "train", SEEN)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes in both splits, of an image each."""
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place / "a.png")
    return tmp_path


def test_all_bad_images_of_both_splits_are_named_before_anything_is_trained(photos: Path) -> None:
    (photos / "train" / "cat" / "broken.png").write_bytes(b"broken")
    (photos / "train" / "dog" / "empty.jpg").touch()
    (photos / "train" / "dog" / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "test" / "dog" / "pointer.jpg").write_bytes(POINTER)
    with pytest.raises(DataError) as raised:
        load_training_images(photos, SEEN)
    first, *lines = str(raised.value).splitlines()
    assert first == "4 files and folders cannot be trained on:"
    for line, name, said in zip(
        lines,
        ("gone.jpg", "broken.png", "empty.jpg", "pointer.jpg"),
        ("it links to nothing", "may be damaged. Remove or replace it.", "The file is empty", "run git lfs pull."),
        strict=True,
    ):
        assert name in line
        assert said in line


def test_no_more_bad_images_are_named_than_one_can_read(photos: Path) -> None:
    for number in range(50):
        (photos / "train" / "cat" / f"{number}.jpg").touch()
    with pytest.raises(DataError) as raised:
        load_images(photos, "train", SEEN)
    assert str(raised.value).count("is empty") == 20
    assert str(raised.value).endswith("\nand 30 more")


def test_what_is_not_trained_on_is_counted_in_a_line_each(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = photos / "train"
    for name in ("cat/b.jfif", "cat/deep/c.jpe"):
        (train / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(train / name, "JPEG")
    for name in ("cat/d.bmp", "dog/e.bmp", "dog/notes.txt", "f.jpg", "cat/._a.jpg", ".ipynb_checkpoints/a.jpg"):
        (train / name).parent.mkdir(exist_ok=True)
        (train / name).touch()
    loaded = load_training_images(photos, SEEN)
    assert (loaded.classes, loaded.labels.tolist()) == (["cat", "dog"], [0, 0, 0, 1])
    assert capsys.readouterr().out.splitlines() == [
        f"{train}: left out 1 image outside the folders of classes.",
        f"{train}: left out 3 other files (.bmp 2, .txt 1).",
        f"{train}: left out 2 files and folders that systems leave behind: ._a.jpg, .ipynb_checkpoints.",
        f"{photos}: 2 test photos are copies of training photos, so the test accuracy will flatter. "
        "'classifier check' shows them.",
    ]


def test_a_class_may_be_a_link_and_have_folders_of_its_own(photos: Path) -> None:
    (photos / "train" / "cow").symlink_to("../pool")
    (photos / "pool" / "2024").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(photos / "pool" / "2024" / "a.png")
    loaded = load_images(photos, "train", SEEN)
    assert (loaded.classes, loaded.labels.tolist()) == (["cat", "cow", "dog"], [0, 1, 2])


def test_many_threads_keep_the_order(photos: Path) -> None:
    for number in range(100):  # large ones take longer
        shade = Image.new("RGB", (2000, 2000) if number % 10 == 0 else (8, 8), (number, 0, 0))
        shade.save(photos / "train" / "cat" / f"b{number:03}.png", compress_level=1)
    reds = load_images(photos, "train", SEEN).pixels[:, 0, 0, 0].tolist()
    assert reds == [0, *range(100), 0]


def download(folder: Path, inside: Any, waiting: Any, go_on: Any) -> None:
    """Load CIFAR-10 in a process, from a server that sends half of it and waits."""

    class Slow(CIFAR10):
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            complete = root / "complete"
            if not complete.exists():
                (root / "half").touch(exist_ok=False)  # two at once would fail here
                inside.set()
                go_on.wait()
                complete.touch()
            self.data = np.zeros((2, 32, 32, 3), dtype=np.uint8)
            self.targets, self.classes = [0, 1], ["cat", "dog"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "CIFAR10", Slow)
        patch.setattr(data, "CIFAR10_ROOT", folder)
        patch.setattr(data, "_note", lambda line: waiting.set())
        assert len(load_images(None, "train", SEEN).labels) == 2


@pytest.mark.slow
def test_one_process_downloads_cifar10_and_the_others_wait(tmp_path: Path) -> None:
    inside, waiting, go_on = (FORKS.Event() for _ in range(3))
    processes = [FORKS.Process(target=download, args=(tmp_path / "data", inside, waiting, go_on)) for _ in range(2)]
    processes[0].start()
    assert inside.wait(120)
    processes[1].start()
    assert waiting.wait(120)
    go_on.set()
    for process in processes:
        process.join()
        assert process.exitcode == 0


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
        return [batch[0] for batch in Epoch(whole, recipe, number).loader(num_workers)]

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
    whole = Images(Inputs(SEEN, [pixels]), torch.tensor([0, 0, 1, 1]), ["a", "b"])
    assert [Epoch(whole, recipe, number)[0][0].shape[-1] for number in range(1, 6)] == [16, 24, 24, 32, 32]


def test_epoch_has_every_image_once_but_never_a_batch_of_one() -> None:
    assert [len(labels) for *_, labels in Epoch(images(20, 20), make_recipe(), 1).loader(0)] == [16, 16, 8]
    assert [len(labels) for *_, labels in Epoch(images(16, 17), make_recipe(), 1).loader(0)] == [16, 16]


def test_mixed_batches_and_their_labels_are_the_same_in_workers_and_from_any_batch_on() -> None:
    epoch = Epoch(images(20, 20), make_recipe(augment={"mixup": 0.2, "cutmix": 1.0}), 1)
    first, in_workers, entered = list(epoch.loader(0)), list(epoch.loader(2)), list(epoch.loader(0, 1))
    for one, other in zip(first[1:] + first, entered + in_workers, strict=True):
        assert all(map(torch.equal, one, other))
    assert [labels.shape for *_, labels in first] == [(16, 2), (16, 2), (8, 2)]


def test_classes_that_changed_during_a_computation_are_named(dataset: Path) -> None:
    preprocessing = [Preprocessing(32)]
    classes = sorted(TEN)
    assert load_test_images(dataset, classes, preprocessing).classes == classes
    with pytest.raises(DataError, match="The class 'zebra' came or went while this was computed"):
        load_test_images(dataset, [*classes, "zebra"], preprocessing)

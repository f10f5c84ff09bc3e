import math
from typing import Literal

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from handler.transforms import Preprocessing
from tests.drawing import draw
from training.augment import erase, jitter_colour, shift_mirror_rotate, train_transform
from training.config import Augment
from training.data import seeded
from training.inputs import normalise, to_pixels

SEEN = Preprocessing(32)
BATCH = torch.stack([to_pixels(draw("red", seed), SEEN) for seed in range(64)])
NONE = torch.zeros(64, dtype=torch.bool)


def test_nothing_asked_is_the_test_transform() -> None:
    assert torch.allclose(train_transform(BATCH, NONE, Augment(), SEEN, seeded(0)), normalise(BATCH, SEEN), atol=1e-5)


def test_a_seed_repeats_and_another_differs() -> None:
    augment = Augment(crop_padding=4, rotation=10, brightness=0.2, hue=0.1, noise=0.05, erasing=0.5)
    once, twice, other = (train_transform(BATCH, NONE, augment, SEEN, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, twice)
    assert not torch.equal(once, other)
    assert once.dtype == torch.float32
    assert once.shape == BATCH.shape


def test_images_of_a_batch_are_changed_each_in_its_own_way() -> None:
    same = BATCH[:1].expand(64, -1, -1, -1)
    changed = train_transform(same, NONE, Augment(crop_padding=4), SEEN, seeded(0))
    assert len({image.numpy().tobytes() for image in changed}) > 30


@pytest.mark.parametrize(("border", "mode"), [("zeros", "constant"), ("reflection", "symmetric")])
def test_shift_is_a_padded_crop(border: Literal["zeros", "reflection"], mode: Literal["constant", "symmetric"]) -> None:
    same = BATCH[:1].float().expand(256, -1, -1, -1)
    padded = np.pad(same[0], ((0, 0), (2, 2), (2, 2)), mode=mode)
    crops = {padded[:, y : y + 32, x : x + 32].tobytes() for x in range(5) for y in range(5)}
    none = torch.zeros(256, dtype=torch.bool)
    shifted = shift_mirror_rotate(same, none, Augment(crop_padding=2, border=border), seeded(0)).round()
    assert {image.numpy().tobytes() for image in shifted} == crops


def test_mirrors_the_images_it_is_told_to() -> None:
    mirrored = torch.arange(64) % 3 == 0
    changed = shift_mirror_rotate(BATCH.float(), mirrored, Augment(), seeded(0)).round().byte()
    assert torch.equal(changed, torch.where(mirrored.view(-1, 1, 1, 1), BATCH.flip(-1), BATCH))


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment", "trivialaugment"])
def test_policies_change_each_image_and_repeat(policy: Literal["autoaugment", "randaugment", "trivialaugment"]) -> None:
    same, augment = BATCH[:1].expand(64, -1, -1, -1), Augment(policy=policy)
    state = torch.get_rng_state()
    once, twice, other = (train_transform(same, NONE, augment, SEEN, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, twice)
    assert not torch.equal(once, other)
    assert len({image.numpy().tobytes() for image in once}) > 20
    assert torch.equal(torch.get_rng_state(), state)


def test_rotation_is_torchvisions_for_some_angle_within_reach() -> None:
    image = torch.zeros(1, 3, 33, 33)
    image[..., 16, 30] = 255  # a point on the right, 14 from the centre
    turned = shift_mirror_rotate(image.expand(64, -1, -1, -1), NONE, Augment(rotation=10), seeded(0))
    rows = turned[:, 0].flatten(1).argmax(dim=1) // 33 - 16
    reach = round(14 * math.sin(math.radians(10)))
    assert rows.min() == -reach
    assert rows.max() == reach


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_is_torchvisions_for_some_factor_within_reach(name: str) -> None:
    image = BATCH[3].float() * 0.4 + 60  # far from black and white, so that neither way clips
    jittered = jitter_colour(image[None], Augment(**{name: 0.2}), seeded(9))[0]
    adjust = getattr(reference, f"adjust_{name}")
    factors = torch.linspace(0.8, 1.2, 401)
    nearest = min((adjust(image / 255, factor.item()) * 255 - jittered).abs().max().item() for factor in factors)
    assert nearest < 0.5
    assert not torch.allclose(jittered, image, atol=0.5)


def test_hue_keeps_greys_and_brightness() -> None:
    grey = torch.full((8, 3, 4, 4), 100.0)
    assert torch.allclose(jitter_colour(grey, Augment(hue=0.5), seeded(0)), grey, atol=0.1)
    colour = torch.tensor([150.0, 100.0, 90.0]).view(1, 3, 1, 1).expand(8, -1, 4, 4)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    turned = jitter_colour(colour, Augment(hue=0.1), seeded(0))
    assert torch.allclose((turned * luma).sum(dim=1), (colour * luma).sum(dim=1), atol=0.5)
    assert not torch.allclose(turned, colour, atol=2)


def test_erasing_takes_a_rectangle_of_the_stated_size_from_the_stated_share() -> None:
    images = torch.ones(2000, 3, 32, 32)
    erased = erase(images, 0.1, seeded(0))
    gone = (erased == 0).all(dim=1)
    areas = gone.flatten(1).sum(dim=1)
    hit = areas > 0
    assert 0.07 < hit.float().mean() < 0.13
    assert areas[hit].min() > 0.015 * 1024
    assert areas[hit].max() < 0.36 * 1024
    for mask in gone[hit]:
        rows, columns = mask.any(dim=1).sum(), mask.any(dim=0).sum()
        assert rows * columns == mask.sum()

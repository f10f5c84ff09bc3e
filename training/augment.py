"""Random changes of training images, made to a complete batch at once, with the caller's random generator."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Generator, Tensor
from torch.distributions import Beta
from torch.nn import functional as F

from handler.transforms import Preprocessing
from training.config import Augment, ResizedCrop
from training.inputs import normalise

LUMA = torch.tensor([0.299, 0.587, 0.114])
RGB_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def train_transform(
    pixels: Tensor, mirrored: Tensor, augment: Augment, preprocessing: Preprocessing, generator: Generator
) -> Tensor:
    """Augment and normalise uint8 pixels (N, 3, S, S) to float32; `mirrored` (N,) says which images to mirror."""
    if augment.policy != "none":
        pixels = apply_policy(pixels, augment, generator)
    images = shift_mirror_rotate(pixels.float(), mirrored, augment, generator)
    if augment.brightness or augment.contrast or augment.saturation or augment.hue:
        images = jitter_colour(images, augment, generator)
    images = normalise(images, preprocessing)
    if augment.noise:
        images += augment.noise * torch.randn(images.shape, generator=generator)
    return erase(images, augment.erasing, generator) if augment.erasing else images


def apply_policy(pixels: Tensor, augment: Augment, generator: Generator) -> Tensor:
    """Apply the automatic augmentation of torchvision that `augment` names to each image of a batch of uint8 pixels."""
    from torchvision.transforms import v2  # here, because it loads PyTorch's compiler, which takes two seconds

    transform = {
        "autoaugment": partial(v2.AutoAugment, v2.AutoAugmentPolicy.CIFAR10),
        "randaugment": partial(v2.RandAugment, augment.operations, augment.magnitude),
        "trivialaugment": v2.TrivialAugmentWide,
    }[augment.policy]()
    with _torch_seeded(generator), _one_thread():
        return torch.stack([transform(image) for image in pixels])


def shift_mirror_rotate(images: Tensor, mirrored: Tensor, augment: Augment, generator: Generator) -> Tensor:
    """Crop and resize, move by whole pixels, mirror and rotate in one bilinear sampling.

    It never shrinks, because a crop is no larger than the image; so it needs no smoothing.
    """
    count, _, size, _ = images.shape
    shift = torch.randint(-augment.crop_padding, augment.crop_padding + 1, (count, 2), generator=generator) * 2 / size
    angle = _uniform(count, augment.rotation, generator) * math.pi / 180
    mirror = torch.where(mirrored, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([mirror * cos, -sin, shift[:, 0], mirror * sin, cos, shift[:, 1]], dim=1).view(count, 2, 3)
    if augment.resized_crop:
        theta = theta @ _crops(count, augment.resized_crop, generator)
    # A crop's outer samples lie up to half a pixel outside the image, and must not take in the black there.
    border = augment.border if augment.moves or not augment.resized_crop else "border"
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=border, align_corners=False)


def _crops(count: int, crop: ResizedCrop, generator: Generator) -> Tensor:
    """Draw crops, as matrices (N, 3, 3) from coordinates of the result, -1 to 1, to those of the image."""
    area, logarithm, right, down = torch.rand(4, count, generator=generator)
    least, largest = crop.scale
    area = least + (largest - least) * area
    low, high = map(math.log, crop.ratio)
    ratio = (low + (high - low) * logarithm).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    zero, one = torch.zeros(count), torch.ones(count)
    x, y = (1 - width) * (2 * right - 1), (1 - height) * (2 * down - 1)
    return torch.stack([width, zero, x, zero, height, y, zero, zero, one], dim=1).view(count, 3, 3)


def jitter_colour(images: Tensor, augment: Augment, generator: Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue, in that order, of images of 0 to 255.

    All four together are one 3×3 matrix and one grey offset for each image. Hue rotates the colour plane of YIQ, as
    NVIDIA DALI's ColorTwist does, instead of converting to HSV.
    """
    count = len(images)
    brightness = 1 + _uniform(count, augment.brightness, generator)
    contrast = 1 + _uniform(count, augment.contrast, generator)
    saturation = 1 + _uniform(count, augment.saturation, generator)
    hue = _uniform(count, augment.hue, generator) * 2 * math.pi

    turn = torch.zeros(count, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * hue.cos()
    turn[:, 2, 1] = saturation * hue.sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    matrix = (brightness * contrast).view(-1, 1, 1) * (torch.linalg.inv(RGB_TO_YIQ) @ turn @ RGB_TO_YIQ)
    grey = brightness * (1 - contrast) * (LUMA @ images.mean(dim=(2, 3)).T)
    jittered = torch.baddbmm(grey.view(-1, 1, 1), matrix, images.flatten(2))
    return jittered.clamp_(0, 255).view_as(images)


def erase(images: Tensor, probability: float, generator: Generator) -> Tensor:
    """Set a rectangle of 2 to 33 % of the area, 0.3 to 3.3 as wide as high, to zero (Zhong et al. 2017)."""
    count, _, size, _ = images.shape
    area = (0.02 + 0.31 * torch.rand(count, generator=generator)) * size**2
    aspect = (_uniform(count, 1, generator) * math.log(3.3)).exp()
    height, width = ((area / aspect).sqrt().round().clamp(max=size), (area * aspect).sqrt().round().clamp(max=size))
    chosen = torch.rand(count, generator=generator) < probability
    inside = _spans(height, size, generator)[:, :, None] & _spans(width, size, generator)[:, None, :]
    return images.masked_fill((inside & chosen[:, None, None])[:, None], 0)


def mix(images: Tensor, labels: Tensor, classes: int, augment: Augment, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mix each image (N, 3, S, S) with the one before it by mixup or cutmix; an epoch's order is random already.

    Returns the images, and the shares (N, `classes`) of the labels in each.
    """
    count, _, size, _ = images.shape
    cut = torch.rand(count, generator=generator) < (augment.cutmix > 0) / ((augment.cutmix > 0) + (augment.mixup > 0))
    concentration = torch.where(cut, augment.cutmix, augment.mixup)
    with _torch_seeded(generator):
        share = Beta(concentration, concentration).sample()
    share = torch.where(cut, share, torch.maximum(share, 1 - share))  # so that mixup shows every image once an epoch
    side = ((1 - share).sqrt() * size).round()
    pasted = _spans(side, size, generator)[:, :, None] & _spans(side, size, generator)[:, None, :]
    own = torch.where(cut[:, None, None], (~pasted).float(), share[:, None, None])
    share = torch.where(cut, 1 - (side / size) ** 2, share)[:, None]
    ours, theirs = F.one_hot(labels, classes), F.one_hot(labels.roll(1), classes)
    return torch.lerp(images.roll(1, 0), images, own[:, None]), share * ours + (1 - share) * theirs


@contextmanager
def _torch_seeded(generator: Generator) -> Iterator[None]:
    """Seed torch's own generator from the caller's, because some functions take no other; restore it at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: small operations gain nothing by two, and wait long for them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _uniform(count: int, reach: float, generator: Generator) -> Tensor:
    return (2 * torch.rand(count, generator=generator) - 1) * reach


def _spans(lengths: Tensor, size: int, generator: Generator) -> Tensor:
    starts = (torch.rand(len(lengths), generator=generator) * (size - lengths + 1)).floor()[:, None]
    positions = torch.arange(size)[None]
    return (positions >= starts) & (positions < starts + lengths[:, None])

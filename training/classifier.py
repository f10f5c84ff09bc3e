"""The deployed classifier: a network with calibrated confidence and a score that tells outliers."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models import Network

NEIGHBOURS = 5  # training images
STEEPNESS = 10.0  # of the change from thumbnails to photos: 10 % at 0.8 times the limit, 86 % at 1.2 times


class Energy(nn.Module):
    """Score an image by the negative free energy of its logits (Liu et al. 2020)."""

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return logits.logsumexp(dim=1)


class FeatureCosine(nn.Module):
    """Score an image by the cosine between its features (N, D) and the nearest of the class `means` (C, D)."""

    means: Tensor

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.register_buffer("means", means)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return (F.normalize(features, dim=1) @ F.normalize(self.means, dim=1).T).max(dim=1).values


class FeatureNeighbours(nn.Module):
    """Score an image by the mean cosine between its features and those of the nearest training images (M, D)."""

    images: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("images", F.normalize(images, dim=1))
        self.count = min(NEIGHBOURS, len(images))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        cosines = F.normalize(features, dim=1) @ self.images.T
        return cosines.topk(self.count, dim=1).values.mean(dim=1)


class Classifier(nn.Module):
    """Normalised images (N, 3, S, S) to calibrated logits (N, C) and in-distribution scores (N,), all float32.

    The higher its score, the more an image is like the training images. Scores below a threshold mark outliers.
    """

    def __init__(self, network: Network, temperature: float, score: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.score = score

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self._of_features(self.network.features(images))

    def _of_features(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network.head(features)
        return logits / self.temperature, self.score(features, logits)


class ClassifierOfSeveralInputs(Classifier):
    """A Classifier that takes a list: the same images in the form (N, 3, S, S) of each of its inputs."""

    def forward(self, images: list[Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self._of_features(self.network.features(images))


def make_classifier(network: Network, temperature: float, score: nn.Module, inputs: int) -> Classifier:
    """Make a classifier of a network with this number of inputs."""
    kind = ClassifierOfSeveralInputs if inputs > 1 else Classifier
    return kind(network, temperature, score)


class OfOneInput(nn.Module):
    """A Classifier, or a part of a Pair, that takes the images for it out of the list for all."""

    def __init__(self, classifier: nn.Module, place: int) -> None:
        super().__init__()
        self.classifier, self.place = classifier, place

    def forward(self, images: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits, score = self.classifier(images[self.place])
        return logits, score


class Detail(nn.Module):
    """How far normalised images (N, 3, S, S) are from their copies of about `pixels` a side: (N,), above 0."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[2]
        coarse = F.interpolate(F.avg_pool2d(images, size // self.pixels), size=[size, size], mode="bilinear")
        return ((images - coarse).mean(dim=1).square().mean(dim=[1, 2]) + 1e-8).sqrt()


class Pair(nn.Module):
    """Two classifiers as one: the first for thumbnails, the second for photos; how sharp an image is decides.

    `photos` takes the images of number `place`. Those are sharp as far as they have more detail than their copies at
    `pixels`: at `limit`, half of the answer comes from each classifier. A score is the share by which it is above the
    threshold of its classifier.
    """

    def __init__(
        self,
        thumbnails: nn.Module,
        photos: nn.Module,
        place: int,
        thresholds: tuple[float, float],
        pixels: int,
        limit: float,
    ) -> None:
        super().__init__()
        self.thumbnails, self.photos = thumbnails, OfOneInput(photos, place)
        self.place, self.thresholds = place, thresholds
        self.detail, self.log_limit = Detail(pixels), math.log(limit)
        self.steepness = STEEPNESS  # TorchScript sees no constants of the module

    def forward(self, images: list[Tensor]) -> tuple[Tensor, Tensor]:
        small, small_score = self.thumbnails(images)
        large, large_score = self.photos(images)
        sharp = self.steepness * (self.detail(images[self.place]).log() - self.log_limit)
        share = sharp.sigmoid()
        logits = torch.logaddexp(
            small.log_softmax(dim=1) + F.logsigmoid(-sharp)[:, None],
            large.log_softmax(dim=1) + F.logsigmoid(sharp)[:, None],
        )
        small_above, large_above = above(small_score, self.thresholds[0]), above(large_score, self.thresholds[1])
        return logits, (1 - share) * small_above + share * large_above


def above(scores: Tensor, threshold: float) -> Tensor:
    """Return by which share of a threshold the scores (N,) are above it; if it is 0, the scores themselves."""
    return scores if threshold == 0 else (scores - threshold) / abs(threshold)

"""The deployed classifier: a network with calibrated confidence and a score that tells outliers."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models import Network

NEIGHBOURS = 5  # training images
CLEAR = 1.5  # times the limit of detail, or less than one divided by it: then a single classifier answers


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
    `pixels`: at `limit`, half of the answer comes from each classifier. Only the first is asked for an image with less
    than limit / CLEAR, and only the second for one with more than limit * CLEAR; nearly all are. A score is the share
    by which it is above the threshold of its classifier.
    """

    def __init__(
        self,
        thumbnails: nn.Module,
        photos: nn.Module,
        place: int,
        thresholds: tuple[float, float],
        pixels: int,
        limit: float,
        classes: int,
    ) -> None:
        super().__init__()
        self.thumbnails, self.photos = thumbnails, OfOneInput(photos, place)
        self.place, self.thresholds, self.classes = place, thresholds, classes
        self.detail, self.log_limit = Detail(pixels), math.log(limit)
        self.log_width = 2 * math.log(CLEAR)  # TorchScript sees no constants of the module

    def forward(self, images: list[Tensor]) -> tuple[Tensor, Tensor]:
        share = (0.5 + (self.detail(images[self.place]).log() - self.log_limit) / self.log_width).clamp(0, 1)
        blurred, sharp = (share < 1).nonzero().flatten(), (share > 0).nonzero().flatten()
        if not torch.jit.is_scripting():
            _ask_both(blurred, sharp)
        nothing = torch.full([share.shape[0], self.classes], -math.inf)
        small, large, score = nothing, nothing, torch.zeros_like(share)
        if blurred.shape[0] > 0:
            logits, scores = self.thumbnails([each.index_select(0, blurred) for each in images])
            part = (1 - share).index_select(0, blurred)
            small = nothing.index_copy(0, blurred, logits.log_softmax(dim=1) + part.log()[:, None])
            score = score.index_add(0, blurred, part * above(scores, self.thresholds[0]))
        if sharp.shape[0] > 0:
            logits, scores = self.photos([each.index_select(0, sharp) for each in images])
            part = share.index_select(0, sharp)
            large = nothing.index_copy(0, sharp, logits.log_softmax(dim=1) + part.log()[:, None])
            score = score.index_add(0, sharp, part * above(scores, self.thresholds[1]))
        return torch.logaddexp(small, large), score


def _ask_both(blurred: Tensor, sharp: Tensor) -> None:
    """Let an ONNX file ask both classifiers, if need be for no images, which is quick; it makes no choice."""
    if torch.compiler.is_exporting():
        torch._check(blurred.shape[0] > 0)
        torch._check(sharp.shape[0] > 0)


def above(scores: Tensor, threshold: float) -> Tensor:
    """Return by which share of a threshold the scores (N,) are above it; if it is 0, the scores themselves."""
    return scores if threshold == 0 else (scores - threshold) / abs(threshold)

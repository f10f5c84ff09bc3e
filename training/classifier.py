"""The deployed classifier: a network with calibrated confidence and a score that tells outliers."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models import Network

NEIGHBOURS = 5  # training images
CLEAR = 1.5  # an image with more than limit * CLEAR of detail, or less than limit / CLEAR, asks one classifier alone


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


class Member(nn.Module):
    """A classifier of a Pair, which takes the images for all inputs. It is asked for no image that it has no part in.

    Images and their parts (N,), 0 to 1, become the logarithms of its part of the probabilities (N, C), and its part of
    the scores (N,).
    """

    def __init__(self, classifier: nn.Module, threshold: float, classes: int) -> None:
        super().__init__()
        self.asked, self.threshold, self.classes = classifier, threshold, classes

    def forward(self, images: list[Tensor], part: Tensor) -> tuple[Tensor, Tensor]:
        chosen = part.nonzero().flatten()
        if not torch.jit.is_scripting():
            _always_ask(chosen)
        log_probabilities = part.new_full([part.shape[0], self.classes], -math.inf)
        scores = torch.zeros_like(part)
        if chosen.shape[0] > 0:
            logits, score = self.asked([each.index_select(0, chosen) for each in images])
            mine = part.index_select(0, chosen)
            log_probabilities = log_probabilities.index_copy(0, chosen, logits.log_softmax(dim=1) + mine.log()[:, None])
            scores = scores.index_copy(0, chosen, mine * above(score, self.threshold))
        return log_probabilities, scores


def _always_ask(chosen: Tensor) -> None:
    """Leave the choice out of an ONNX file, which asks for no images if there are none; that takes no time."""
    if torch.compiler.is_exporting():
        torch._check(chosen.shape[0] > 0)


class Pair(nn.Module):
    """Two classifiers as one: the first for thumbnails, the second for photos; how sharp an image is decides.

    `photos` takes the images of number `place`. Those are sharp as far as they have more detail than their copies at
    `pixels`: at `limit`, half of the answer comes from each classifier, and beyond limit * CLEAR all of it from one. A
    score is the share by which it is above the threshold of its classifier.
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
        self.thumbnails = Member(thumbnails, thresholds[0], classes)
        self.photos = Member(OfOneInput(photos, place), thresholds[1], classes)
        self.detail, self.place, self.log_limit = Detail(pixels), place, math.log(limit)
        self.log_width = 2 * math.log(CLEAR)  # TorchScript sees no constants of the module

    def forward(self, images: list[Tensor]) -> tuple[Tensor, Tensor]:
        share = (0.5 + (self.detail(images[self.place]).log() - self.log_limit) / self.log_width).clamp(0, 1)
        small, small_score = self.thumbnails(images, 1 - share)
        large, large_score = self.photos(images, share)
        return torch.stack([small, large]).logsumexp(dim=0), small_score + large_score


def above(scores: Tensor, threshold: float) -> Tensor:
    """Return by which share of a threshold the scores (N,) are above it; if it is 0, the scores themselves."""
    return scores if threshold == 0 else (scores - threshold) / abs(threshold)

"""The deployed classifier: a network with calibrated confidence and a score that tells outliers."""

from torch import Tensor, nn
from torch.nn import functional as F

from training.models import Network

NEIGHBOURS = 5  # training images


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

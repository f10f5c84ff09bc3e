"""A network with what makes its answers trustworthy: calibrated confidence, and how familiar an image looks to it."""

from torch import Tensor, nn
from torch.nn import functional as F

from training.models import Network


class Energy(nn.Module):
    """Familiarity as the negative free energy of the logits (Liu et al. 2020)."""

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return logits.logsumexp(dim=1)


class FeatureCosine(nn.Module):
    """Familiarity as the cosine between an image's features (N, D) and the nearest of the class `means` (C, D)."""

    means: Tensor

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.register_buffer("means", means)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return (F.normalize(features, dim=1) @ F.normalize(self.means, dim=1).T).max(dim=1).values


class Classifier(nn.Module):
    """What is deployed: normalised images (N, 3, S, S) to calibrated logits (N, C) and familiarity (N,), all float32.

    The greater the familiarity, the more an image is like those of the training set.
    """

    def __init__(self, network: Network, temperature: float, familiarity: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.familiarity = familiarity

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.features(images)
        logits = self.network.head(features)
        return logits / self.temperature, self.familiarity(features, logits)

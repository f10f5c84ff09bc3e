"""A network with what makes its answers trustworthy: calibrated confidence, and how familiar an image looks to it."""

import torch
from torch import Tensor, nn

from training.models import Network


class Energy(nn.Module):
    """Familiarity as the negative free energy of the logits (Liu et al. 2020)."""

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return logits.logsumexp(dim=1)


class FeatureDistance(nn.Module):
    """Familiarity as the negative Mahalanobis distance to the nearest class mean (Lee et al. 2018).

    `whitening` (D, D) makes the features' scatter within the classes round; `means` (C, D) are those of the whitened
    features.
    """

    whitening: Tensor
    means: Tensor

    def __init__(self, whitening: Tensor, means: Tensor) -> None:
        super().__init__()
        self.register_buffer("whitening", whitening)
        self.register_buffer("means", means)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        # Without matrix products, which would lose digits that a batch of another size keeps.
        distances = torch.cdist(features @ self.whitening, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        return -distances.min(dim=1).values


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

"""Fit, on the validation images, what turns a trained network into a classifier to trust."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from training import outliers
from training.classifier import Classifier, Energy, FeatureCosine
from training.data import Images
from training.metrics import predict
from training.models import Network

FITTED_ON = 5_000  # training images that the class means are taken from
ENOUGH = 100  # validation images to believe a temperature below 1
ACCEPTED = 0.95  # share of the validation images that the threshold calls familiar
Outputs = tuple[Tensor, Tensor]


def calibrate(network: Network, training: Images, validation: Images) -> tuple[Classifier, dict[str, Any]]:
    """Make a classifier of a network in evaluation mode; returns it and the `calibration` of its card.

    The score of familiarity is the one that tells the validation images best from drawn ones (`outliers.drawn`); its
    AUROC is given for kinds that took no part in the choice.
    """
    known = outputs(network, validation.pixels)
    drawn = {kind: outputs(network, pixels) for kind, pixels in outliers.drawn().items()}
    others = {kind: outputs(network, pixels) for kind, pixels in outliers.measured().items()}

    def aurocs(score: nn.Module, unknown: dict[str, Outputs]) -> dict[str, float]:
        return separation(score(*known), {kind: score(*each) for kind, each in unknown.items()})

    scores: dict[str, nn.Module] = {"energy": Energy(), "feature_cosine": fit_cosine(network, training)}
    chosen_on = {name: aurocs(score, drawn) for name, score in scores.items()}
    chosen = max(chosen_on, key=lambda name: sum(chosen_on[name].values()))
    temperature = fit_temperature(known[1], validation.labels)
    return Classifier(network, temperature, scores[chosen]), {
        "temperature": temperature,
        "in_distribution": {
            "score": chosen,
            "threshold": scores[chosen](*known).quantile(1 - ACCEPTED).item(),
            "accepted": ACCEPTED,
            "auroc_chosen_on": chosen_on,
            "auroc": aurocs(scores[chosen], others),
        },
    }


@torch.no_grad()
def outputs(network: Network, pixels: Tensor) -> Outputs:
    """Return a network's features (N, D) and logits (N, C) for uint8 pixels (N, 3, S, S)."""
    features = predict(network.features, pixels)
    return features, network.head(features)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return what logits (N, C) are to be divided by for the least cross-entropy, 0.05 to 20 (Guo et al. 2017).

    Few images cannot show that a network is too modest, so from them it is at least 1.
    """
    least = -3.0 if len(labels) >= ENOUGH else 0.0
    logarithm = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm], max_iter=50, line_search_fn="strong_wolfe")

    def temperature() -> Tensor:
        return logarithm.clamp(least, 3).exp()

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / temperature(), labels)
        value.backward()
        return value

    optimizer.step(loss)
    return temperature().item()


def fit_cosine(network: Network, training: Images) -> FeatureCosine:
    """Take the mean direction of each class's features from a part of the training images."""
    share = FITTED_ON // len(training.classes) + 1
    members = [training.pixels[training.labels == label][:share] for label in range(len(training.classes))]
    means = [F.normalize(predict(network.features, pixels), dim=1).mean(dim=0) for pixels in members]
    return FeatureCosine(torch.stack(means))


def separation(inside: Tensor, others: dict[str, Tensor]) -> dict[str, float]:
    """Return the area under the ROC curve of telling the scores `inside` from those of each kind of others."""
    return {kind: auroc(inside, scores) for kind, scores in others.items()}


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Return the probability that a score of inside is above one of outside."""
    # Ranks, as torchmetrics would squeeze scores through a sigmoid, which has few values for large ones.
    scores = torch.cat([inside, outside]).unique(return_inverse=True)[1].double()
    scores /= len(scores)
    targets = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    return binary_auroc(scores, targets).item()

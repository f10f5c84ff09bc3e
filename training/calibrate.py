"""Fit, on the validation images, what turns a trained network into a classifier to trust."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from training import unfamiliar
from training.classifier import Classifier, Energy, FeatureCosine
from training.data import Images
from training.metrics import predict
from training.models import Network

FITTED_ON = 10_000  # training images that the class means are taken from
ENOUGH = 100  # validation images to believe a temperature below 1
ACCEPTED = 0.95  # share of the validation images that the threshold calls familiar


def calibrate(network: Network, training: Images, validation: Images) -> tuple[Classifier, dict[str, Any]]:
    """Make a classifier of a network in evaluation mode; returns it and the `calibration` of its card.

    The score of familiarity is the one that tells the validation images best from drawn ones (`unfamiliar.drawn`); its
    AUROC is given for kinds that took no part in the choice.
    """
    logits, _ = predict(Classifier(network, 1.0, Energy()), validation.pixels)
    temperature = fit_temperature(logits, validation.labels)
    candidates: dict[str, nn.Module] = {"energy": Energy(), "feature_cosine": fit_cosine(network, training)}
    aurocs = {
        name: separation(Classifier(network, temperature, score), validation.pixels, unfamiliar.drawn())
        for name, score in candidates.items()
    }
    chosen = max(aurocs, key=lambda name: sum(aurocs[name].values()))
    classifier = Classifier(network, temperature, candidates[chosen])
    _, familiarity = predict(classifier, validation.pixels)
    return classifier, {
        "temperature": temperature,
        "familiarity": {
            "score": chosen,
            "threshold": familiarity.quantile(1 - ACCEPTED).item(),
            "auroc_chosen_on": aurocs,
            "auroc": separation(classifier, validation.pixels, unfamiliar.measured()),
        },
    }


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


def separation(classifier: Classifier, familiar: Tensor, others: dict[str, Tensor]) -> dict[str, float]:
    """Return the area under the ROC curve of telling `familiar` pixels from each kind of others."""
    _, inside = predict(classifier, familiar)
    return {name: auroc(inside, predict(classifier, pixels)[1]) for name, pixels in others.items()}


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Return the probability that a score of inside is above one of outside."""
    # Ranks, as torchmetrics would squeeze scores through a sigmoid, which has few values for large ones.
    scores = torch.cat([inside, outside]).unique(return_inverse=True)[1].double()
    scores /= len(scores)
    targets = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    return binary_auroc(scores, targets).item()

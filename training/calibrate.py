"""Fit the temperature and the in-distribution score of a trained network on the validation images."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import outliers
from training.classifier import Classifier, Energy, FeatureCosine, FeatureNeighbours, make_classifier
from training.data import Images
from training.inputs import Inputs
from training.metrics import predict
from training.models import Network

MAX_IMAGES_FOR_MEANS = 5_000  # training images
MAX_IMAGES_TO_COMPARE = 2_000  # training images, whose features the checkpoint holds then: 5 kB each
MIN_IMAGES_TO_SHARPEN = 100  # validation images; with fewer, a temperature below 1 is not credible
ACCEPTED = 0.95  # share of the validation images that the threshold calls in distribution
Outputs = tuple[Tensor, Tensor]


def calibrate(network: Network, training: Images, validation: Images) -> tuple[Classifier, dict[str, Any]]:
    """Make a classifier of a network in evaluation mode. Returns it and the `calibration` of its card.

    The in-distribution score is the one that best tells the validation images from drawn outliers (`outliers.drawn`).
    The card gives its AUROC for other kinds of outliers, which took no part in the choice.
    """
    inside = outputs(network, validation.inputs)
    taken = validation.inputs.preprocessing
    drawn = {kind: outputs(network, images) for kind, images in outliers.drawn(taken).items()}
    measured = {kind: outputs(network, images) for kind, images in outliers.measured(taken).items()}

    def aurocs(score: nn.Module, outside: dict[str, Outputs]) -> dict[str, float]:
        return separation(score(*inside), {kind: score(*of_kind) for kind, of_kind in outside.items()})

    scores = {"energy": Energy(), **fit_scores(network, training)}
    chosen_on = {name: aurocs(score, drawn) for name, score in scores.items()}
    chosen = max(chosen_on, key=lambda name: sum(chosen_on[name].values()))
    temperature = fit_temperature(inside[1], validation.labels)
    return make_classifier(network, temperature, scores[chosen], len(taken)), {
        "temperature": temperature,
        "in_distribution": {
            "score": chosen,
            "threshold": scores[chosen](*inside).quantile(1 - ACCEPTED).item(),
            "accepted": ACCEPTED,
            "auroc_chosen_on": chosen_on,
            "auroc": aurocs(scores[chosen], measured),
        },
    }


@torch.no_grad()
def outputs(network: Network, images: Inputs) -> Outputs:
    """Return a network's features (N, D) and logits (N, C) of N images."""
    features = predict(network.features, images)
    return features, network.head(features)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that gives logits (N, C) the least cross-entropy, 0.05 to 20 (Guo et al. 2017).

    With few images it is at least 1, because they cannot show that a network is too cautious.
    """
    least = -3.0 if len(labels) >= MIN_IMAGES_TO_SHARPEN else 0.0  # of the logarithm of the temperature
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


def fit_scores(network: Network, training: Images) -> dict[str, nn.Module]:
    """Fit the score of features to some of the training images; of small sets, it compares with all of them."""
    if len(training.labels) <= MAX_IMAGES_TO_COMPARE:
        return {"feature_neighbours": FeatureNeighbours(predict(network.features, training.inputs))}
    share = MAX_IMAGES_FOR_MEANS // len(training.classes) + 1
    members = [(training.labels == label).nonzero().flatten()[:share] for label in range(len(training.classes))]
    features = [predict(network.features, training.inputs.subset(indices)) for indices in members]
    means = [F.normalize(of_class, dim=1).mean(dim=0) for of_class in features]
    return {"feature_cosine": FeatureCosine(torch.stack(means))}


def separation(inside: Tensor, outside: dict[str, Tensor]) -> dict[str, float]:
    """Return the area under the ROC curve (AUROC) of telling scores in distribution from each kind of outliers."""
    return {kind: auroc(inside, scores) for kind, scores in outside.items()}


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Return the probability that a score of `inside` is above one of `outside`."""
    from torchmetrics.functional.classification import binary_auroc  # here, because it loads SciPy and Matplotlib

    # Use ranks, because torchmetrics puts scores through a sigmoid, which has few different values for large ones.
    scores = torch.cat([inside, outside]).unique(return_inverse=True)[1].double()
    scores /= len(scores)
    targets = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    return binary_auroc(scores, targets).item()

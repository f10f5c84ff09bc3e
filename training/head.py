"""Fit the head of a pretrained network to features that are computed once; this takes seconds.

A pretrained network takes the photos of a class for some of the classes that it knows. The fit starts from those, and
stays near them, so that few photos are enough.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from training import distributed
from training.data import Images
from training.metrics import batch_size
from training.models import Network

MAX_ITERATIONS = 100
SHARPER = 2.0  # times the start, because a mean of several classes' weights is smaller than each


def fit_head(
    network: Network,
    initial: nn.Module,
    images: Images,
    weight_decay: float,
    device: torch.device,
    class_weights: Tensor | None = None,
) -> None:
    """Set the head's weights to those with the least cross-entropy on the images and their mirror images.

    `initial` is the head that the network had before. The squared distance from its weights for such images counts
    `weight_decay` times, for features of unit variance. If there are several processes, each computes the features of
    its share of the images.
    """
    features, labels = both_sides(network, images, device), images.labels.repeat(2)
    start = known_weights(initial, features, labels, len(images.classes))
    weights, bias = fit_linear(features, labels, start, weight_decay, class_weights)
    network.head.load_state_dict(distributed.agreed({"weight": weights, "bias": bias}))


@torch.no_grad()
def both_sides(network: Network, images: Images, device: torch.device) -> Tensor:
    """Return the features (2 N, D) of N images, then of their mirror images, on the CPU."""
    network.eval()
    mine = torch.arange(distributed.rank(), images.inputs.count, distributed.world_size())
    size = batch_size(images.inputs)
    bar = tqdm(
        images.inputs.subset(mine).batches(size, device),
        "features for the head",
        total=-(-len(mine) // size),
        leave=False,
        disable=None if distributed.rank() == 0 else True,
    )
    rows = [torch.cat([network.features(batch), network.features(batch.flip(3))], dim=1) for (batch,) in bar]
    wide = torch.zeros(images.inputs.count, rows[0].shape[1], device=device)
    wide[mine] = torch.cat(rows)
    return torch.cat(distributed.total(wide).cpu().chunk(2, dim=1))


@torch.no_grad()
def known_weights(head: nn.Module, features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return weights (C, D) for new classes, made of those of a head that knows other classes.

    Each is the mean of the head's own weights, by the probabilities that it gives to the features (N, D) of the class.
    They are 0 if the head is not linear.
    """
    if not isinstance(head, nn.Linear):
        return torch.zeros(classes, features.shape[1])
    probabilities = head.cpu()(features).softmax(dim=1)
    means = torch.stack([probabilities[labels == label].mean(dim=0) for label in range(classes)])
    weights = SHARPER * means @ head.weight
    return weights - weights.mean(dim=0)


def fit_linear(
    features: Tensor, labels: Tensor, start: Tensor, weight_decay: float, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weights (C, D), near those of `start`, and biases (C,) of a linear classifier of features (N, D)."""
    of_classes = None if class_weights is None else class_weights.cpu()
    mean = features.mean(dim=0)
    scale = (features - mean).square().mean().sqrt()
    scaled = (features - mean) / scale
    begin = start * scale
    weights, bias = begin.clone().requires_grad_(), torch.zeros(len(start), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        distance = (weights - begin).square().sum()
        value = F.cross_entropy(F.linear(scaled, weights, bias), labels, of_classes) + weight_decay * distance
        value.backward()
        return value

    optimizer.step(loss)
    unscaled = weights.detach() / scale
    return unscaled, bias.detach() - unscaled @ mean

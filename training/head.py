"""Fit the head of a pretrained network to features that are computed once; this takes seconds."""

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from training import distributed
from training.data import Images
from training.metrics import batch_size
from training.models import Network

MAX_ITERATIONS = 100


def fit_head(
    network: Network,
    images: Images,
    weight_decay: float,
    device: torch.device,
    class_weights: Tensor | None = None,
) -> None:
    """Set the head's weights to those with the least cross-entropy on the images and their mirror images.

    The squares of the weights count `weight_decay` times, for features of unit variance. If there are several
    processes, each computes the features of its share of the images.
    """
    features = both_sides(network, images, device)
    weights, bias = fit_linear(features, images.labels.repeat(2), len(images.classes), weight_decay, class_weights)
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


def fit_linear(
    features: Tensor, labels: Tensor, classes: int, weight_decay: float, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weights (C, D) and biases (C,) of a linear classifier of features (N, D)."""
    of_classes = None if class_weights is None else class_weights.cpu()
    mean = features.mean(dim=0)
    scale = (features - mean).square().mean().sqrt()
    scaled = (features - mean) / scale
    weights = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (
            F.cross_entropy(F.linear(scaled, weights, bias), labels, of_classes) + weight_decay * weights.square().sum()
        )
        value.backward()
        return value

    optimizer.step(loss)
    unscaled = weights.detach() / scale
    return unscaled, bias.detach() - unscaled @ mean

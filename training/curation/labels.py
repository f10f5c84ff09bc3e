"""Labels that are likely wrong, by confident learning (Northcutt, Jiang and Chuang 2021), as cleanlab does it."""

from typing import NamedTuple

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.head import fit_linear, known_weights

FOLDS = 5
WEIGHT_DECAY = 0.01  # of the linear classifier, which should not learn wrong labels by heart


class WrongLabel(NamedTuple):
    """A photo whose label is likely wrong: its number, the likely class, and the probabilities of it and the label."""

    photo: int
    likely: int
    probability: float
    own_probability: float


def wrong_labels(features: Tensor, labels: NDArray[np.int64], classes: int, head: nn.Module) -> list[WrongLabel]:
    """Return the likely wrong labels, the worst first. `features` are (N, D), and `head` the network's for them.

    Too few photos, or photos of one class only, say nothing of a label. Nor does the only photo of a class: the
    classifier that was fitted without it does not know the class.
    """
    counts = np.bincount(labels, minlength=classes)
    if len(labels) < 2 * FOLDS or len(np.unique(labels)) < 2 or counts.max() < FOLDS:
        return []
    probabilities = out_of_fold(features, torch.from_numpy(labels), classes, head)
    # cleanlab's default filter is too careful: of 20 labels swapped among 500 cats and dogs it names 16, and this all.
    ranked = find_label_issues(
        labels,
        probabilities,
        return_indices_ranked_by="self_confidence",
        filter_by="predicted_neq_given",
        n_jobs=1,
    )
    likely = probabilities.argmax(1)
    return [
        WrongLabel(int(at), int(likely[at]), float(probabilities[at, likely[at]]), float(probabilities[at, labels[at]]))
        for at in ranked
        if counts[labels[at]] > 1
    ]


def out_of_fold(features: Tensor, labels: Tensor, classes: int, head: nn.Module) -> NDArray[np.float64]:
    """Return the probabilities (N, C) that a classifier gives to each photo which was fitted without it.

    Every class is spread evenly over the folds. A fold's classifier may have met no photo of a rare class.
    """
    folds = torch.empty_like(labels)
    for label in range(classes):
        of_class = torch.nonzero(labels == label).flatten()
        folds[of_class] = torch.arange(len(of_class)) % FOLDS
    probabilities = torch.empty(len(labels), classes)
    for fold in range(FOLDS):
        inside, outside = folds == fold, folds != fold
        present = torch.unique(labels[outside])
        numbers = torch.searchsorted(present, labels[outside])
        start = known_weights(head, features[outside], numbers, len(present))
        weights, bias = fit_linear(features[outside], numbers, start, WEIGHT_DECAY)
        rows = torch.zeros(int(inside.sum()), classes)
        rows[:, present] = F.linear(features[inside], weights, bias).softmax(1)
        probabilities[inside] = rows
    return probabilities.double().numpy()

"""The optimizers and learning-rate schedules that a recipe can name."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, StepLR

from training import config
from training.models import Network
from training.pretrained import depths


class Muon(Optimizer):
    """Nesterov SGD that orthogonalises the update of every matrix and bank of filters (Jordan et al. 2024, "Muon").

    torch.optim.Muon takes matrices only. Here a bank of filters (O, I, H, W) counts as the matrix of its O flattened
    filters. Every matrix keeps the norm √O, so that a learning rate means the same for every layer. Other groups are
    plain Nesterov SGD.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "orthogonal": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocity = state["velocity"].mul_(group["momentum"]).add_(parameter.grad)
                update = parameter.grad.add(velocity, alpha=group["momentum"])
                if group["orthogonal"]:
                    parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
                    update = orthogonalise(update.flatten(1)).view_as(update)
                parameter.add_(update, alpha=-group["lr"])


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix near 1 (0.7 to 1.2), by five steps of a quintic Newton–Schulz iteration.

    A step multiplies the matrix by a polynomial of its Gram matrix. They are multiplied with each other first, because
    the Gram matrix is the smaller one.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # Jordan's coefficients, which are steep at 0
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factors = identity
    for _ in range(5):
        factor = a * identity + b * gram + c * gram @ gram
        factors, gram = factor @ factors, factor @ gram @ factor
    wide = factors @ wide
    return wide if len(matrix) <= matrix.shape[1] else wide.T


def make_optimizer(model: Network, settings: config.Optimizer) -> Optimizer:
    if settings.name == "muon":
        return _make_muon(model, settings)
    groups = _groups(model, settings)
    if settings.name == "sgd":
        return SGD(
            groups,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
        )
    kind = Adam if settings.name == "adam" else AdamW
    return kind(groups, lr=settings.lr, weight_decay=settings.weight_decay)


def _groups(model: Network, settings: config.Optimizer) -> list[dict[str, Any]]:
    """Return the parameters in groups with their rates, the head first, because the history shows the first rate."""
    stages = {f"features.{name}": stage for name, stage in depths(model.features).items()}
    top = max(stages.values(), default=-1) + 1  # the head
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            below = (top - stages.get(name, top)) * (settings.layer_decay != 1)
            spared = settings.name == "adamw" and parameter.ndim == 1
            group = groups.setdefault((below, spared), {"params": [], "lr": settings.lr * settings.layer_decay**below})
            group["params"].append(parameter)
            if spared:
                group["weight_decay"] = 0.0
    return [groups[key] for key in sorted(groups)]


def _make_muon(model: Network, settings: config.Optimizer) -> Muon:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    head = set(model.head.parameters())
    matrices = [parameter for parameter in parameters if parameter.ndim > 1 and parameter not in head]
    others = [parameter for parameter in parameters if parameter.ndim == 1 or parameter in head]
    groups = [{"params": matrices}, {"params": others, "lr": settings.other_lr, "orthogonal": False}]
    return Muon(groups, lr=settings.lr, momentum=settings.momentum)


def make_schedule(optimizer: Optimizer, settings: config.Schedule, steps_per_epoch: int, epochs: int) -> LRScheduler:
    """Make the schedule of the learning rates; the caller steps it once for each batch."""
    steps = epochs * steps_per_epoch
    if settings.name == "step":
        return StepLR(optimizer, step_size=settings.step_size * steps_per_epoch, gamma=settings.gamma)
    if settings.name == "triangular":
        peak = min(round(settings.warmup * steps), steps - 1)  # at least one step falls
        return LambdaLR(optimizer, lambda step: (step + 1) / peak if step < peak else (steps - step) / (steps - peak))
    total = steps + 1  # because it also steps after the last batch
    # torch divides by the steps of the rise: warmup · total - 1. If those are 0, slightly less starts at the peak.
    warmup = settings.warmup * (1 - 1e-9) if settings.warmup * total == 1 else settings.warmup
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total,
        pct_start=warmup,
        cycle_momentum=False,
    )

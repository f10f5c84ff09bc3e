import math

import pytest
import torch
from torch import nn

from training import config
from training.models import Network
from training.optimizers import Muon, make_optimizer, make_schedule, orthogonalise
from training.pretrained import build


@pytest.mark.parametrize("shape", [(20, 50), (50, 20)])
def test_orthogonalised_keeps_directions_and_levels_their_lengths(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    lengths = (left.T @ orthogonalise(matrix) @ right.T).diagonal()
    assert lengths.min() > 0.6
    assert lengths.max() < 1.3


def test_muon_keeps_filters_at_their_norm_and_descends() -> None:
    torch.manual_seed(0)
    filters = nn.Conv2d(3, 8, 3)
    hidden = nn.Linear(8 * 4 * 4, 16)
    model = Network(nn.Sequential(filters, nn.ReLU(), nn.Flatten(), hidden, nn.ReLU()), nn.Linear(16, 2))
    images, labels = torch.randn(32, 3, 6, 6), torch.arange(32) % 2
    optimizer = make_optimizer(model, config.Optimizer(name="muon", lr=0.05, other_lr=0.05, momentum=0.6))
    assert isinstance(optimizer, Muon)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    assert filters.weight.norm().item() == pytest.approx(8**0.5, rel=0.1)
    assert hidden.weight.norm().item() == pytest.approx(16**0.5, rel=0.1)


def test_parameters_that_are_fixed_stay() -> None:
    fixed = nn.Conv2d(3, 4, 3)
    fixed.weight.requires_grad_(False)
    model = Network(fixed, nn.Linear(5, 6))
    for name in ("adam", "sgd", "muon"):
        optimizer = make_optimizer(model, config.Optimizer.model_validate({"name": name, "lr": 0.1}))
        assert [p.shape for group in optimizer.param_groups for p in group["params"]] == [(4,), (6, 5), (6,)]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_lower_layers_learn_less(name: str) -> None:
    features = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    model = Network(features, nn.Linear(4, 2))
    settings = {"name": name, "lr": 0.8, "layer_decay": 0.5, "weight_decay": 0.1}
    optimizer = make_optimizer(model, config.Optimizer.model_validate(settings))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"features.0": 0.2, "features.2": 0.4, "head": 0.8}
    for layer, rate in expected.items():
        for parameter in model.get_submodule(layer).parameters():
            assert rates[id(parameter)] == pytest.approx(rate)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.8)  # which the history shows
    spared = {p.ndim for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    assert spared == ({1} if name == "adamw" else set())


def test_the_layers_of_timm_s_networks_are_their_stages() -> None:
    model = build("timm/test_efficientnet", 2, 0.0, 32)
    optimizer = make_optimizer(model, config.Optimizer(name="adamw", lr=1.0, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = ("features.conv_stem.weight", "features.conv_head.weight", "head.weight")
    stem, last, head = (rates[id(model.get_parameter(name))] for name in names)
    assert stem < last / 4 < last == head / 2


def rates(name: str, steps: int = 40, **settings: float) -> list[float]:
    """Return the rates of the steps of a run of four epochs, or of one if it is shorter, and the rate behind them."""
    model = Network(nn.Flatten(), nn.Linear(2, 2))
    optimizer = make_optimizer(model, config.Optimizer(name="sgd", lr=0.1))
    epochs = 4 if steps % 4 == 0 else 1
    settings_of_kind = config.Schedule.model_validate({"name": name} | settings)
    schedule = make_schedule(optimizer, settings_of_kind, steps // epochs, epochs)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


def test_step_schedule_falls_by_epochs() -> None:
    seen = rates("step", step_size=2, gamma=0.5)
    assert seen[:40] == pytest.approx([0.1] * 20 + [0.05] * 20)


@pytest.mark.parametrize("name", ["one_cycle", "triangular"])
def test_cycles_rise_to_the_peak_and_fall_to_nothing(name: str) -> None:
    seen = rates(name, warmup=0.5)
    assert max(seen) == pytest.approx(0.1, rel=0.01)
    assert seen.index(max(seen)) == pytest.approx(20, abs=1)
    assert seen[-1] < 1e-6


@pytest.mark.parametrize("name", ["step", "one_cycle", "triangular"])
def test_any_number_of_steps_has_rates_with_any_warmup(name: str) -> None:
    for steps in range(1, 13):
        meeting = [rise / (steps + 1) for rise in range(steps + 1)]  # where a phase begins or ends at a step
        for warmup in (*meeting, 0.2, 0.5, 0.9, 1 - 1e-9, math.nextafter(1, 0)):
            *during, _ = rates(name, steps, warmup=warmup)
            assert all(0 < rate <= 0.1 + 1e-12 for rate in during), (steps, warmup)


def test_a_triangle_may_do_without_its_rise() -> None:
    seen = rates("triangular", warmup=0)
    assert seen == pytest.approx([0.1 * (40 - step) / 40 for step in range(41)])

from pathlib import Path

import pytest
import torch
from torch import nn

from handler.transforms import Preprocessing
from tests.training.test_distributed import join, two_processes
from training import distributed
from training.checkpoint import build, load
from training.data import Images
from training.head import both_sides, fit_head, fit_linear, known_weights
from training.inputs import Inputs
from training.models import Network


def images_and_network() -> tuple[Images, Network]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (21, 3, 32, 32), generator=generator, dtype=torch.uint8)
    torch.manual_seed(0)
    network = build({"architecture": "resnet18", "dropout": 0.0}, 3)
    return Images(Inputs([Preprocessing(32)], [pixels]), torch.arange(21) % 3, ["a", "b", "c"]), network


def test_the_head_knows_the_training_images_at_once() -> None:
    images, network = images_and_network()
    fit_head(network, nn.Identity(), images, 1e-4, torch.device("cpu"))
    logits = network.head(both_sides(network, images, torch.device("cpu")))
    assert logits.argmax(dim=1).equal(images.labels.repeat(2))


def test_weight_decay_keeps_the_weights_small() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = 5 + 100 * torch.randn(40, 8, generator=generator), torch.arange(40) % 2
    loose, tight = (fit_linear(features, labels, torch.zeros(2, 8), decay)[0].norm() for decay in (1e-4, 1.0))
    assert tight < loose / 3


def test_the_fit_starts_from_what_the_network_knew() -> None:
    head = nn.Linear(8, 5)
    nn.init.eye_(head.weight)
    features, labels = 10 * torch.eye(8)[[0, 0, 3, 3]], torch.tensor([0, 0, 1, 1])  # its classes 0 and 3
    start = known_weights(head, features, labels, 2)
    assert start[0].argmax() == 0
    assert start[1].argmax() == 3
    weights, _ = fit_linear(features, labels, start, 1e6)
    assert torch.allclose(weights, start, atol=1e-3)


def save_features(rank: int, port: int, folder: Path) -> None:
    join(rank, port)
    images, network = images_and_network()
    torch.save(both_sides(network, images, torch.device("cpu")), folder / f"{rank}.pth")
    distributed.stop()


@pytest.mark.slow
def test_processes_share_the_images(tmp_path: Path) -> None:
    two_processes(save_features, tmp_path)
    images, network = images_and_network()
    for rank in range(2):
        assert torch.allclose(
            load(tmp_path / f"{rank}.pth"), both_sides(network, images, torch.device("cpu")), atol=1e-5
        )

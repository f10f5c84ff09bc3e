import pytest
import torch

from training.models import ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gives_a_logit_for_each_class(architecture: str) -> None:
    model = ARCHITECTURES[architecture](7, 0.5).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_cnn_is_the_reference_network() -> None:
    model = ARCHITECTURES["cnn"](10, 0.6)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_147_914
    layers = [type(layer).__name__ for layer in model.children()]
    assert layers == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"] * 3 + [
        "Flatten",
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_batch_can_be_learned_by_heart(architecture: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[architecture](4, 0.0)
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05

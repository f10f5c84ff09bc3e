import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from training.models import ARCHITECTURES, NARROWER, copy_weights


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gives_a_logit_for_each_class(architecture: str) -> None:
    model = ARCHITECTURES[architecture](7, 0.5).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("architecture", "parameters", "mega_flop"),
    [
        ("cnn", 1_147_914, 22.8),
        ("whitened_cnn", 1_972_802, 236.3),
        ("whitened_resnet", 3_190_466, 321.3),
        ("wide_whitened_resnet", 5_079_042, 543.6),
        ("resnet18", 11_173_962, 1110.8),
        ("resnet34", 21_282_122, 2318.8),
    ],
)
def test_has_the_size_its_docstring_says(architecture: str, parameters: int, mega_flop: float) -> None:
    model = ARCHITECTURES[architecture](10, 0.0).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 1e6 == pytest.approx(mega_flop, abs=0.1)


def test_cnn_is_the_reference_network() -> None:
    model = ARCHITECTURES["cnn"](10, 0.6)
    layers = [type(layer).__name__ for layer in model.modules() if not list(layer.children())]
    convolutions = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"] * 3
    assert layers == [*convolutions, "Flatten", "Linear", "ReLU", "Dropout", "Linear"]


def test_whitening_makes_patches_of_the_training_images_uncorrelated() -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES["whitened_cnn"](10, 0.0)
    smooth = F.interpolate(torch.randn(64, 3, 8, 8), size=32, mode="bicubic")
    model.initialise(smooth)
    responses = model.features[0](smooth)[:, :12].permute(0, 2, 3, 1).reshape(-1, 12)  # type: ignore[index]
    scatter = responses.T @ responses / len(responses)
    off_diagonal = scatter - scatter.diagonal().diag()
    assert off_diagonal.abs().max() < 0.01
    assert 0.5 < scatter.diagonal().max() <= 1.01


def test_whitened_cnn_starts_as_one_that_passes_its_input_on() -> None:
    model = ARCHITECTURES["whitened_cnn"](10, 0.0)
    convolution = next(layer for layer in model.features[2:] if isinstance(layer, nn.Conv2d))  # type: ignore[index]
    images = torch.randn(1, 24, 8, 8)
    assert torch.allclose(convolution(images)[:, :24], images, atol=1e-6)


@pytest.mark.parametrize("wide", NARROWER)
def test_a_wider_network_starts_as_the_narrower_one(wide: str) -> None:
    torch.manual_seed(0)
    source, target = ARCHITECTURES[NARROWER[wide]](10, 0.0), ARCHITECTURES[wide](10, 0.0)
    images = torch.randn(16, 3, 32, 32)
    source(images)  # moves the statistics of the batch norms
    copy_weights(source, target)
    assert torch.allclose(target.eval()(images), source.eval()(images), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["cnn", "whitened_cnn", "whitened_resnet", "resnet18"])
def test_one_batch_can_be_learned_by_heart(architecture: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[architecture](4, 0.0)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(20):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05

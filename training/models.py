"""The architectures and their registry. To add one, write a function and add it to ARCHITECTURES."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

CNN_SIZE = 32  # pixels
WHITENED_CHANNELS = 24  # both signs of the 12 eigenvectors of a 2 × 2 patch of RGB


class Network(nn.Module):
    """An image classifier: `features`, images (N, 3, S, S) to (N, D), and a linear `head`, these to logits (N, C)."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    @torch.jit.unused
    def initialise(self, images: Tensor) -> None:
        """Set the weights that depend on the normalised training images; most networks have none."""


def cnn(num_classes: int, dropout: float) -> Network:
    """Build the reference network: three layers, 1.15 M parameters, 23 MFLOP an image. It takes 32 × 32 only."""
    features = nn.Sequential(
        *_conv_block(3, 32),
        *_conv_block(32, 64),
        *_conv_block(64, 128),
        nn.Flatten(),
        nn.Linear(128 * (CNN_SIZE // 8) ** 2, 512),
        nn.ReLU(),
        nn.Dropout(dropout),
    )
    return Network(features, nn.Linear(512, num_classes))


def _conv_block(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


class WhitenedCNN(Network):
    """Blocks of convolutions after a first one that whitens 2 × 2 patches; see `whitened_cnn`, `whitened_resnet`."""

    def __init__(self, num_classes: int, dropout: float, widths: tuple[int, int, int], shortcuts: bool) -> None:
        channels = (WHITENED_CHANNELS, *widths)
        whitening = nn.Conv2d(3, WHITENED_CHANNELS, kernel_size=2)
        whitening.weight.requires_grad_(False)
        super().__init__(
            nn.Sequential(
                whitening,
                nn.GELU(),
                *(layer for pair in pairwise(channels) for layer in _pooled_block(*pair, shortcuts)),
                nn.AdaptiveMaxPool2d(1),
                nn.Flatten(),
                nn.Dropout(dropout),
            ),
            nn.Linear(widths[-1], num_classes),
        )

    @torch.jit.unused
    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        """Set the first filters to ± the eigenvectors of the images' 2 × 2 patches, scaled to unit variance."""
        patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
        variances, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (variances + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        whitening = self.features[0]  # type: ignore[index]
        whitening.weight.copy_(torch.cat([filters, -filters]))
        whitening.bias.zero_()


def _pooled_block(in_channels: int, out_channels: int, shortcut: bool) -> tuple[nn.Module, ...]:
    pooled = (_dirac(in_channels, out_channels), nn.MaxPool2d(2), _norm(out_channels), nn.GELU())
    second = (_dirac(out_channels, out_channels), _norm(out_channels))
    if not shortcut:
        return (*pooled, *second, nn.GELU())
    third = (_dirac(out_channels, out_channels), _norm(out_channels))
    return (*pooled, Shortcut(*second, nn.GELU(), *third), nn.GELU())


def _dirac(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Make a convolution that, at first, passes its input on in the first channels."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[:in_channels])
    return convolution


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    norm.weight.requires_grad_(False)  # the next filters learn the scale
    return norm


class Shortcut(nn.Module):
    """The sum of an input (N, C, H, W) and the output of some layers for it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return images + self.layers(images)


def whitened_cnn(num_classes: int, dropout: float) -> Network:
    """Build the network of airbench94 (Jordan 2024, arXiv:2404.00498): 1.97 M parameters, 236 MFLOP an image.

    It has few, wide convolutions, most of them at a low resolution, like Page's ResNet-9 without its shortcuts. The
    first filters are computed from the training images, not learned.
    """
    return WhitenedCNN(num_classes, dropout, widths=(64, 256, 256), shortcuts=False)


def whitened_resnet(num_classes: int, dropout: float) -> Network:
    """Build the network of airbench96 (Jordan 2024) at half its width: 3.19 M parameters, 321 MFLOP an image.

    It is `whitened_cnn` with a third convolution in each block, and a shortcut around the last two. It was chosen for
    its accuracy per millisecond of inference.
    """
    return WhitenedCNN(num_classes, dropout, widths=(64, 256, 256), shortcuts=True)


def wide_whitened_resnet(num_classes: int, dropout: float) -> Network:
    """Build `whitened_resnet` with more channels: 5.08 M parameters, 544 MFLOP an image."""
    return WhitenedCNN(num_classes, dropout, widths=(96, 320, 320), shortcuts=True)


def resnet18(num_classes: int, dropout: float) -> Network:
    """Build ResNet-18 (He et al. 2015) for small images: 11.2 M parameters, 1.11 GFLOP an image."""
    return _resnet_for_small_images("resnet18", num_classes, dropout)


def resnet34(num_classes: int, dropout: float) -> Network:
    """Build ResNet-34 (He et al. 2015) for small images: 21.3 M parameters, 2.32 GFLOP an image."""
    return _resnet_for_small_images("resnet34", num_classes, dropout)


def _resnet_for_small_images(name: str, num_classes: int, dropout: float) -> Network:
    """Build torchvision's ResNet of this name with a stem of 3 × 3 without pooling."""
    from torchvision import models  # here, because it loads PyTorch's compiler, which takes two seconds

    resnet = getattr(models, name)(num_classes=num_classes)
    resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's others
    resnet.maxpool = nn.Identity()
    head, resnet.fc = resnet.fc, nn.Dropout(dropout)
    return Network(resnet, head)


class Ensemble(Network):
    """Several networks as one: it joins their features, and returns the logarithm of their mean probability.

    Each member sees one of the inputs: that of its number in `places`. If there are several, `features` takes a list.
    """

    def __init__(
        self, members: list[Network], places: list[int], temperatures: list[float], weights: list[float]
    ) -> None:
        parts = [member.features for member in members]
        features = Apart(parts, places) if any(places) else SideBySide(parts)
        super().__init__(features, Mixture([member.head for member in members], temperatures, weights))


class SideBySide(nn.Module):
    """The features of all members for the same images (N, 3, S, S): (N, sum of D)."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([member(images) for member in self.members], dim=1)


class Apart(nn.Module):
    """The features of all members, each of which sees its own form of the images: (N, sum of D)."""

    def __init__(self, members: list[nn.Module], places: list[int]) -> None:
        super().__init__()
        self.members, self.places = nn.ModuleList(members), places

    def forward(self, images: list[Tensor]) -> Tensor:
        features: list[Tensor] = []
        for index, member in enumerate(self.members):
            features.append(member(images[self.places[index]]))
        return torch.cat(features, dim=1)


class Mixture(nn.Module):
    """Features of all members (N, sum of D) to the logarithm of their weighted mean probability (N, C)."""

    def __init__(self, heads: list[nn.Module], temperatures: list[float], weights: list[float]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.widths = [int(head.in_features) for head in heads]  # type: ignore[arg-type]
        self.temperatures = temperatures
        self.log_weights = [math.log(max(weight, 1e-9)) for weight in weights]

    def forward(self, features: Tensor) -> Tensor:
        parts = features.split(self.widths, dim=1)
        weighted: list[Tensor] = []
        for index, head in enumerate(self.heads):
            log_probabilities = (head(parts[index]) / self.temperatures[index]).log_softmax(dim=1)
            weighted.append(log_probabilities + self.log_weights[index])
        return torch.stack(weighted).logsumexp(dim=0)


class Merged(nn.Module):
    """A head whose classes are joined from finer ones: features (N, D) to logits (N, C).

    The finer classes of each class follow one another; `counts` says how many. Their probabilities add up.
    """

    def __init__(self, in_features: int, counts: list[int]) -> None:
        super().__init__()
        self.in_features, self.counts = in_features, counts
        self.finer = nn.Linear(in_features, sum(counts))

    def forward(self, features: Tensor) -> Tensor:
        joined: list[Tensor] = []
        for finer in self.finer(features).split(self.counts, dim=1):
            joined.append(finer.logsumexp(dim=1))
        return torch.stack(joined, dim=1)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy the weights of a network into one of the same layers, which may be wider; it computes the same at first.

    Its further channels keep their values, and the others take nothing from them yet (Chen et al. 2016, "Net2Net").
    """
    weights = target.state_dict()
    for name, value in source.state_dict().items():
        if value.ndim > 1:
            weights[name][: len(value)] = 0
        weights[name][tuple(slice(size) for size in value.shape)] = value


ARCHITECTURES: dict[str, Callable[[int, float], Network]] = {
    "cnn": cnn,
    "whitened_cnn": whitened_cnn,
    "whitened_resnet": whitened_resnet,
    "wide_whitened_resnet": wide_whitened_resnet,
    "resnet18": resnet18,
    "resnet34": resnet34,
}
# The architecture that has the same layers with fewer channels.
NARROWER = {"wide_whitened_resnet": "whitened_resnet"}

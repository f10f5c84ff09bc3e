"""Both engines predict as the checkpoint does, at every size and fit."""

import base64
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handler.image_classifier import ImageClassifier
from handler.onnx_engine import open_network
from handler.predictor import Network, Predictor
from handler.transforms import Normalised, Preprocessing, decode_image, read_pixels
from tests.drawing import TEN, draw, encode
from tests.networks import IMAGENET, enlarged, untrained
from training.batching import batching_of
from training.checkpoint import Checkpoint, load_checkpoint
from training.data import read_files
from training.export import export, export_onnx, optimised
from training.metrics import predict


def lay_out(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the files of an archive that a Predictor reads."""
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"modelVersion": "1.0"}}')
    (folder / "index_to_name.json").write_text(json.dumps(dict(enumerate(checkpoint.card["classes"]))))
    card = checkpoint.card | {"batch_size": batching_of(checkpoint).size}
    (folder / "model_card.json").write_text(json.dumps(card))


def with_torchscript(path: Path) -> Network:
    """Return the network as TorchServe's handler runs it on a GPU."""
    service = ImageClassifier()
    service.device = torch.device("cpu")
    service.model = optimised(path)  # type: ignore[assignment]
    return service._on_gpu


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(32, "crop", *IMAGENET),
        Preprocessing(96, "pad"),
        Preprocessing(160, "squeeze", *IMAGENET),
        Preprocessing(224, "crop"),
        Preprocessing(224, "pad", *IMAGENET),
    ],
    ids=lambda each: f"{each.size}-{each.fit}",
)
def test_both_engines_predict_as_the_checkpoint_does(
    checkpoint: Path, tmp_path: Path, preprocessing: Preprocessing
) -> None:
    network = enlarged(checkpoint, preprocessing)
    files = [tmp_path / f"{name}.jpg" for name in TEN]
    for name, file in zip(TEN, files, strict=True):
        draw(name, 4).resize((640, 400)).save(file)
    expected = predict(network.classifier(), read_files(files, network.inputs))[0].softmax(dim=1)
    assert (expected.argmax(dim=1) == torch.arange(10).argsort()[[sorted(TEN).index(name) for name in TEN]]).sum() > 5

    export(network, tmp_path / "network.pt")
    export_onnx(network, tmp_path / "network.onnx")
    lay_out(network, tmp_path)
    for engine in (with_torchscript(tmp_path / "network.pt"), open_network(tmp_path / "network.onnx", threads=1)):
        predictor = Predictor(tmp_path, engine)
        predictor.warm()
        replies = predictor.predict([predictor.read(file.read_bytes()) for file in files])
        answered = torch.tensor([list(reply["class_probabilities"].values()) for reply in replies])
        assert torch.allclose(answered, expected, atol=1e-5)
        assert torch.equal(answered.argmax(dim=1), expected.argmax(dim=1))


def test_the_network_runs_on_batches_of_the_size_in_the_card(checkpoint: Path, tmp_path: Path) -> None:
    network = untrained(checkpoint, "whitened_cnn", Preprocessing(96), ["cat", "dog"])
    lay_out(network, tmp_path)
    seen = []

    def count(images: list) -> tuple:
        seen.append(len(images[0]))
        return torch.zeros(len(images[0]), 2).numpy(), torch.zeros(len(images[0])).numpy()

    predictor = Predictor(tmp_path, count)
    predictor.warm()
    assert seen == [1, 4, 1, 4] * 2
    image = predictor.read(encode(Image.new("RGB", (300, 200))))
    assert len(predictor.predict([image] * 9)) == 9
    assert seen[8:] == [4, 4, 1]


@pytest.mark.parametrize(("size", "decoded"), [(32, (500, 375)), (96, (500, 375)), (224, (1000, 750))])
def test_a_large_photo_is_decoded_at_twice_the_size_of_the_input_or_more(size: int, decoded: tuple[int, int]) -> None:
    photo = encode(draw("red", 1).resize((4000, 3000)), "JPEG")
    assert decode_image(photo, size).size == decoded
    whole = Preprocessing(size).pixels(Image.open(io.BytesIO(photo)).convert("RGB")).astype(int)
    (reduced,) = read_pixels(photo, [Preprocessing(size)])
    assert abs(whole - reduced).max() < 12


@pytest.mark.alone
def test_an_explanation_of_a_large_network_takes_no_more_than_three_seconds(checkpoint: Path, tmp_path: Path) -> None:
    """A network of more operations than EfficientNet-Lite0 at 224 pixels, which has 0.8 GFLOP."""
    network = untrained(checkpoint, "whitened_cnn", Preprocessing(64), ["cat", "dog"])
    export_onnx(network, tmp_path / "network.onnx")
    lay_out(network, tmp_path)
    predictor = Predictor(tmp_path, open_network(tmp_path / "network.onnx", threads=1))
    image = predictor.read(encode(draw("red", 1).resize((4000, 3000)), "JPEG"))
    predictor.warm()
    started = time.thread_time()
    assert predictor.explain(image, "")["success"]
    assert time.thread_time() - started < 3


def test_an_explanation_shows_the_largest_input(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    seen = [Preprocessing(32)._asdict(), Preprocessing(48)._asdict()]
    lay_out(loaded, tmp_path)
    (tmp_path / "model_card.json").write_text(json.dumps(loaded.card | {"preprocessing": seen, "batch_size": 1}))

    def network(images: list[Normalised]) -> tuple[Normalised, Normalised]:
        count = len(images[0])
        return np.zeros((count, len(TEN)), dtype=np.float32), np.ones(count, dtype=np.float32)

    predictor = Predictor(tmp_path, network)
    url = predictor.explain(predictor.read(encode(draw("red", 1))), "")["input"]
    shown = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert shown.size == (48, 48)

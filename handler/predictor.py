"""The predictor of an archive, for any process: image files in, class probabilities out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handler.explanation import METHOD, SQUARES, as_data_url, heat_map
from handler.transforms import ImageError, Normalised, Part, Pixels, decode_for, inputs_of

Network = Callable[[list[Normalised]], tuple[Normalised, Normalised]]
Output = tuple[list[float], float]  # probabilities of the classes, and the score of being in distribution
Reply = dict[str, Any]  # one of gateway.backend's Prediction, Refusal and Explanation
EXPLAINED_IMAGES = 1 + len(SQUARES)  # that the network runs on for an explanation


class Decoded(NamedTuple):
    """An image: its pixels (3, S, S) for each input of the network, and the part of it that each of them shows."""

    pixels: list[Pixels]
    parts: list[Part]


Item = Decoded | ImageError  # an image as `Predictor.read` returns it


class Predictor:
    """An archive unpacked into `folder`, and the engine that runs its network.

    `network` takes normalised images, (N, 3, S, S) for each of its inputs, to calibrated logits (N, C) and scores (N,),
    all float32. The higher the score, the closer an image is to the training images.
    """

    def __init__(self, folder: Path, network: Network) -> None:
        self.network = network
        names = json.loads((folder / "index_to_name.json").read_text())
        self.classes = [names[str(index)] for index in range(len(names))]
        self.card = json.loads((folder / "model_card.json").read_text())
        self.version = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]["modelVersion"]
        self.inputs = inputs_of(self.card)
        self.batch_size = self.card["batch_size"]  # images the network runs on at once

    def read(self, file: Any) -> Item:
        """Decode the bytes of an image file for each input of the network, or say what is wrong."""
        if not isinstance(file, (bytes, bytearray)):
            return ImageError("Send the image file itself as the body of the request.")
        try:
            image = decode_for(bytes(file), self.inputs)
        except ImageError as error:
            return error
        return Decoded([each.pixels(image) for each in self.inputs], [each.part(*image.size) for each in self.inputs])

    def warm(self) -> None:
        """Warm up with batch sizes 1 and `batch_size`; engines specialise on the first shapes they see.

        A pair asks one network for black images, and the other for noise.
        """
        random = np.random.default_rng(0)
        for brightest in (0, 255):
            shapes = [(3, each.size, each.size) for each in self.inputs]
            pixels = [random.integers(2, size=shape, dtype=np.uint8) * np.uint8(brightest) for shape in shapes]
            for size in (1, self.batch_size) * 2:
                self.predict([Decoded(pixels, [])] * size)

    def predict(self, items: list[Item]) -> list[Reply]:
        """Return a prediction for each result of `read`, in order; an ImageError gets a refusal."""
        readable = [item for item in items if not isinstance(item, ImageError)]
        outputs = iter(self._outputs([item.pixels for item in readable]))
        return [refusal(item) if isinstance(item, ImageError) else self._prediction(next(outputs)) for item in items]

    def explain(self, item: Item, class_name: str) -> Reply:
        """Return which parts of an image support a class, or the predicted class if `class_name` is empty."""
        (prediction,) = self.predict([item])
        if isinstance(item, ImageError):
            return prediction
        explained_class = class_name or prediction["predicted_class"]
        if explained_class not in self.classes:
            return refusal(ImageError(f"The model has no class {explained_class}; /classes lists the classes."))
        # The picture on show is the largest input, and of two that shows the most.
        shown = max(range(len(item.pixels)), key=lambda at: (item.pixels[at].shape[-1], _area(item.parts[at])))
        normalised = [each.normalise(pixels) for each, pixels in zip(self.inputs, item.pixels, strict=True)]
        target = self.classes.index(explained_class)
        heat = heat_map(lambda images: self._run(images)[0], normalised, target, item.parts, shown)
        return {
            "explained_class": explained_class,
            "predicted_class": prediction["predicted_class"],
            "method": METHOD,
            "input": as_data_url(item.pixels[shown]),
            "heat_map": [[round(value, 4) for value in row] for row in heat.tolist()],
            "version": self.version,
            "success": True,
        }

    def _outputs(self, images: list[list[Pixels]]) -> list[Output]:
        if not images:
            return []
        columns = zip(*images, strict=True)  # the pixels of all images for each input
        batch = [each.normalise(np.stack(pixels)) for each, pixels in zip(self.inputs, columns, strict=True)]
        probabilities, scores = self._run(batch)
        return list(zip(probabilities.tolist(), scores.tolist(), strict=True))

    def _run(self, images: list[Normalised]) -> tuple[Normalised, Normalised]:
        """Return the probabilities (N, C) and scores (N,) of images (N, 3, S, S), one array for each input."""
        starts = range(0, len(images[0]), self.batch_size)
        outputs = [self.network([each[start : start + self.batch_size] for each in images]) for start in starts]
        logits, scores = (np.concatenate(column) for column in zip(*outputs, strict=True))
        return softmax(logits), scores

    def _prediction(self, output: Output) -> Reply:
        probabilities, score = output
        class_probabilities = dict(zip(self.classes, probabilities, strict=True))
        predicted_class = max(class_probabilities, key=class_probabilities.__getitem__)
        return {
            "predicted_class": predicted_class,
            "confidence": class_probabilities[predicted_class],
            "class_probabilities": class_probabilities,
            "in_distribution": score >= self.card["calibration"]["in_distribution"]["threshold"],
            "in_distribution_score": score,
            "version": self.version,
            "success": True,
        }


def _area(part: Part) -> float:
    left, top, right, bottom = part
    return (right - left) * (bottom - top)


def softmax(logits: Normalised) -> Normalised:
    """Return the probabilities (N, C) of logits (N, C), float32."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def refusal(error: ImageError) -> Reply:
    return {"error": str(error), "status": error.status, "success": False}

"""The predictor of an archive, for any process: image files in, class probabilities out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.explanation import METHOD, as_data_url, heat_map
from handler.transforms import INPUT_SIZE, ImageError, decode_image, normalise, to_pixels

Network = Callable[[Tensor], tuple[Tensor, Tensor]]
Output = tuple[list[float], float]  # probabilities of the classes, and the score of being in distribution
Reply = dict[str, Any]  # one of gateway.backend's Prediction, Refusal and Explanation
MAX_BATCH = 64  # images the network runs on at once
CPU = torch.device("cpu")


class Predictor:
    """An archive unpacked into `folder`, and the engine that runs its network.

    `network` takes normalised images (N, 3, INPUT_SIZE, INPUT_SIZE) on `device` to calibrated logits (N, C) and
    scores (N,), all float32. The higher the score, the closer an image is to the training images.
    """

    def __init__(self, folder: Path, network: Network, device: torch.device = CPU) -> None:
        self.network, self.device = network, device
        names = json.loads((folder / "index_to_name.json").read_text())
        self.classes = [names[str(index)] for index in range(len(names))]
        self.card = json.loads((folder / "model_card.json").read_text())
        self.version = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]["modelVersion"]

    def warm(self, batch_size: int) -> None:
        """Warm up with batch sizes 1 and `batch_size`; engines specialise on the first shapes they see."""
        for size in (1, batch_size) * 2:
            self._outputs([torch.zeros(3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8)] * size)

    def predict(self, items: list[Tensor | ImageError]) -> list[Reply]:
        """Return a prediction for each result of `read`, in order; an ImageError gets a refusal."""
        readable = [item for item in items if isinstance(item, Tensor)]
        chunks = (readable[first : first + MAX_BATCH] for first in range(0, len(readable), MAX_BATCH))
        outputs = iter([output for chunk in chunks for output in self._outputs(chunk)])
        return [refusal(item) if isinstance(item, ImageError) else self._prediction(next(outputs)) for item in items]

    @torch.inference_mode()
    def explain(self, item: Tensor | ImageError, class_name: str) -> Reply:
        """Return which parts of an image support a class, or the predicted class if `class_name` is empty."""
        (prediction,) = self.predict([item])
        if isinstance(item, ImageError):
            return prediction
        explained_class = class_name or prediction["predicted_class"]
        if explained_class not in self.classes:
            return refusal(ImageError(f"The model has no class {explained_class}; /classes lists the classes."))
        heat = heat_map(
            lambda images: self.network(images)[0].softmax(dim=1),
            normalise(item.to(self.device)),
            self.classes.index(explained_class),
        )
        return {
            "explained_class": explained_class,
            "predicted_class": prediction["predicted_class"],
            "method": METHOD,
            "input": as_data_url(item),
            "heat_map": [[round(value, 4) for value in row] for row in heat.tolist()],
            "version": self.version,
            "success": True,
        }

    @torch.inference_mode()
    def _outputs(self, pixels: list[Tensor]) -> list[Output]:
        logits, scores = self.network(normalise(torch.stack(pixels).to(self.device)))
        return list(zip(logits.softmax(dim=1).tolist(), scores.tolist(), strict=True))

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


def read(file: Any) -> Tensor | ImageError:
    """Decode the bytes of an image file to uint8 pixels (3, INPUT_SIZE, INPUT_SIZE), or return an ImageError."""
    if not isinstance(file, (bytes, bytearray)):
        return ImageError("Send the image file itself as the body of the request.")
    try:
        return to_pixels(decode_image(bytes(file)))
    except ImageError as error:
        return error


def refusal(error: ImageError) -> Reply:
    return {"error": str(error), "status": error.status, "success": False}

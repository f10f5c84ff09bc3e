"""What an archive holds, made ready to answer in any process: image files in, class probabilities out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.explanation import METHOD, as_data_url, heat_map
from handler.transforms import INPUT_SIZE, ImageError, decode_image, normalise, to_pixels

Network = Callable[[Tensor], tuple[Tensor, Tensor]]
Answer = tuple[list[float], float]  # probabilities of the classes, and familiarity
Reply = dict[str, Any]  # as it goes out
CHUNK = 64  # images the network runs on at once
CPU = torch.device("cpu")


class Predictor:
    """An archive unpacked into `folder`, and the engine that runs its network.

    `network` takes normalised images (N, 3, INPUT_SIZE, INPUT_SIZE) on `device` to calibrated logits (N, C) and
    familiarity (N,), all float32.
    """

    def __init__(self, folder: Path, network: Network, device: torch.device = CPU) -> None:
        self.network, self.device = network, device
        names = json.loads((folder / "index_to_name.json").read_text())
        self.classes = [names[str(index)] for index in range(len(names))]
        self.card = json.loads((folder / "model_card.json").read_text())
        self.version = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]["modelVersion"]

    def warm(self, batch_size: int) -> None:
        """Run once alone and once in a batch, as engines settle on what they see first."""
        for size in (1, batch_size) * 2:
            self._answers([torch.zeros(3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8)] * size)

    def predict(self, items: list[Tensor | ImageError]) -> list[Reply]:
        """Return a reply for each of what `read` returned, in order; an image that could not be read fails alone."""
        readable = [item for item in items if isinstance(item, Tensor)]
        chunks = (readable[first : first + CHUNK] for first in range(0, len(readable), CHUNK))
        answers = iter([answer for chunk in chunks for answer in self._answers(chunk)])
        return [failure(item) if isinstance(item, ImageError) else self._named(next(answers)) for item in items]

    @torch.inference_mode()
    def explain(self, item: Tensor | ImageError, class_name: str) -> Reply:
        """Say what in an image speaks for a class, or for the predicted one where its name is empty."""
        (answer,) = self.predict([item])
        if isinstance(item, ImageError):
            return answer
        explained_class = class_name or answer["predicted_class"]
        if explained_class not in self.classes:
            return failure(ImageError(f"The model has no class {explained_class}; /classes lists those it has."))
        heat = heat_map(
            lambda images: self.network(images)[0].softmax(dim=1),
            normalise(item.to(self.device)),
            self.classes.index(explained_class),
        )
        return {
            "explained_class": explained_class,
            "predicted_class": answer["predicted_class"],
            "method": METHOD,
            "input": as_data_url(item),
            "heat_map": [[round(value, 4) for value in row] for row in heat.tolist()],
            "version": self.version,
        }

    @torch.inference_mode()
    def _answers(self, pixels: list[Tensor]) -> list[Answer]:
        logits, familiarity = self.network(normalise(torch.stack(pixels).to(self.device)))
        return list(zip(logits.softmax(dim=1).tolist(), familiarity.tolist(), strict=True))

    def _named(self, answer: Answer) -> Reply:
        probabilities, familiarity = answer
        class_probabilities = dict(zip(self.classes, probabilities, strict=True))
        predicted_class = max(class_probabilities, key=class_probabilities.__getitem__)
        return {
            "predicted_class": predicted_class,
            "confidence": class_probabilities[predicted_class],
            "class_probabilities": class_probabilities,
            "in_distribution": familiarity >= self.card["calibration"]["in_distribution"]["threshold"],
            "in_distribution_score": familiarity,
            "version": self.version,
        }


def read(file: Any) -> Tensor | ImageError:
    """Decode the bytes of an image file to uint8 pixels (3, INPUT_SIZE, INPUT_SIZE), or say why they cannot be."""
    if not isinstance(file, (bytes, bytearray)):
        return ImageError("Send the image file itself as the body of the request.")
    try:
        return to_pixels(decode_image(bytes(file)))
    except ImageError as error:
        return error


def failure(error: ImageError) -> Reply:
    return {"error": str(error), "status": error.status}

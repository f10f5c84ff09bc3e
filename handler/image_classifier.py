"""The TorchServe handler: image files in, one or several a request, class probabilities out."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

from handler.transforms import INPUT_SIZE, ImageError, decode_image, normalise, to_pixels

# Probabilities of the classes, and familiarity. No class, as TorchServe allows for one only in this file.
Answer = tuple[list[float], float]
CHUNK = 64  # images the network runs on at once; requests with several may bring more


class ImageClassifier(BaseHandler):
    """Classifies a batch of image files; an image that cannot be read fails alone, with status 400 or 415."""

    model: torch.jit.ScriptModule

    def initialize(self, context: Context) -> None:
        """Load what the archive holds and settle the network for inference on every batch size it will see."""
        super().initialize(context)
        # The worker reports every request at INFO; TorchServe counts them already.
        logging.getLogger().setLevel(logging.WARNING)
        settings = context.model_yaml_config
        torch.set_num_threads(max(1, torch.get_num_threads() // settings["minWorkers"]))
        self.classes = [self.mapping[str(index)] for index in range(len(self.mapping))]
        self.version = context.manifest["model"]["modelVersion"]
        self.card = json.loads(Path(context.system_properties["model_dir"], "model_card.json").read_text())
        self.model = torch.jit.optimize_for_inference(torch.jit.freeze(self.model))
        for size in (1, settings["batchSize"]) * 2:  # TorchScript specialises on its first calls
            self.inference([[torch.zeros(3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8)] * size])

    def preprocess(self, data: list[dict[str, Any]]) -> list[list[Tensor | ImageError]]:
        """Decode each request's files to uint8 pixels (3, INPUT_SIZE, INPUT_SIZE), or say why they cannot be."""
        return [[_read(file) for file in request.values()] or [_read(None)] for request in data]

    @torch.inference_mode()
    def inference(self, data: list[list[Tensor | ImageError]]) -> list[list[Answer | ImageError]]:
        """Run the network on all images that could be read, of all requests; returns its answers, in place."""
        readable = [item for items in data for item in items if isinstance(item, Tensor)]
        chunks = (readable[first : first + CHUNK] for first in range(0, len(readable), CHUNK))
        answers = iter([answer for chunk in chunks for answer in self._answers(chunk)])
        return [[item if isinstance(item, ImageError) else next(answers) for item in items] for items in data]

    def postprocess(self, data: list[list[Answer | ImageError]]) -> list[str]:
        """Name the probabilities; returns one JSON text a request, a list where it brought several files."""
        return [json.dumps(self._reply(index, items)) for index, items in enumerate(data)]

    def describe_handle(self) -> str:
        """Return the model card, the device and the process that says so as JSON."""
        return json.dumps({"card": self.card, "device": str(self.device), "pid": os.getpid()})

    def _answers(self, pixels: list[Tensor]) -> list[Answer]:
        logits, familiarity = self.model(normalise(torch.stack(pixels).to(self.device)))
        return list(zip(logits.softmax(dim=1).tolist(), familiarity.tolist(), strict=True))

    def _reply(self, index: int, items: list[Answer | ImageError]) -> Any:
        if len(items) > 1:
            return [self._named(item) for item in items]
        (item,) = items
        if isinstance(item, ImageError):
            self.context.set_response_status(item.status, "Unreadable image", index)
        return self._named(item)

    def _named(self, item: Answer | ImageError) -> dict[str, Any]:
        if isinstance(item, ImageError):
            return {"error": str(item), "status": item.status}
        probabilities, familiarity = item
        class_probabilities = dict(zip(self.classes, probabilities, strict=True))
        predicted_class = max(class_probabilities, key=class_probabilities.__getitem__)
        return {
            "predicted_class": predicted_class,
            "confidence": class_probabilities[predicted_class],
            "class_probabilities": class_probabilities,
            "in_distribution": familiarity >= self.card["calibration"]["familiarity"]["threshold"],
            "in_distribution_score": familiarity,
            "version": self.version,
        }


def _read(body: Any) -> Tensor | ImageError:
    if not isinstance(body, (bytes, bytearray)):
        return ImageError("Send the image file itself as the body of the request.")
    try:
        return to_pixels(decode_image(bytes(body)))
    except ImageError as error:
        return error

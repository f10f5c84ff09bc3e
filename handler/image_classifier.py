"""The TorchServe handler: image files in, one or several a request, class probabilities out."""

import json
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
from torch import Tensor
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

from handler.explanation import METHOD, as_data_url, heat_map
from handler.transforms import INPUT_SIZE, ImageError, decode_image, normalise, to_pixels

# Probabilities of the classes, and familiarity. No class, as TorchServe allows for one only in this file.
Answer = tuple[list[float], float]
Reply = dict[str, Any]  # as it goes out
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
            self._answers([torch.zeros(3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8)] * size)

    def preprocess(self, data: list[dict[str, Any]]) -> list[list[Tensor | ImageError]]:
        """Decode each request's files to uint8 pixels (3, INPUT_SIZE, INPUT_SIZE), or say why they cannot be."""
        return [[_read(file) for file in request.values()] or [_read(None)] for request in data]

    def inference(self, data: list[list[Tensor | ImageError]]) -> list[list[Reply]]:
        """Run the network on all images that could be read, of all requests; returns its replies, in place.

        Of an image that came to be explained, it is the explanation.
        """
        readable = [item for items in data for item in items if isinstance(item, Tensor)]
        chunks = (readable[first : first + CHUNK] for first in range(0, len(readable), CHUNK))
        answers = iter([answer for chunk in chunks for answer in self._answers(chunk)])
        replies = [
            [_failure(item) if isinstance(item, ImageError) else self._named(next(answers)) for item in items]
            for items in data
        ]
        for index, (pixels, *_) in enumerate(data):
            if self._asked(index, "explain") == "True" and isinstance(pixels, Tensor):
                replies[index] = [self._explained(index, pixels, replies[index][0]["predicted_class"])]
        return replies

    def postprocess(self, data: list[list[Reply]]) -> list[str]:
        """Return one JSON text a request, a list where it brought several files; set the status of a single one."""
        for index, replies in enumerate(data):
            if len(replies) == 1 and "error" in replies[0]:
                self.context.set_response_status(replies[0]["status"], "Refused", index)
        return [json.dumps(replies if len(replies) > 1 else replies[0]) for replies in data]

    def describe_handle(self) -> str:
        """Return the model card, the device and the process that says so as JSON."""
        return json.dumps({"card": self.card, "device": str(self.device), "pid": os.getpid()})

    @torch.inference_mode()
    def _answers(self, pixels: list[Tensor]) -> list[Answer]:
        logits, familiarity = self.model(normalise(torch.stack(pixels).to(self.device)))
        return list(zip(logits.softmax(dim=1).tolist(), familiarity.tolist(), strict=True))

    @torch.inference_mode()
    def _explained(self, index: int, pixels: Tensor, predicted_class: str) -> Reply:
        explained_class = unquote(self._asked(index, "explained-class")) or predicted_class
        if explained_class not in self.classes:
            return _failure(ImageError(f"The model has no class {explained_class}; /classes lists those it has."))
        heat = heat_map(
            lambda images: self.model(images)[0].softmax(dim=1),
            normalise(pixels.to(self.device)),
            self.classes.index(explained_class),
        )
        return {
            "explained_class": explained_class,
            "predicted_class": predicted_class,
            "method": METHOD,
            "input": as_data_url(pixels),
            "heat_map": [[round(value, 4) for value in row] for row in heat.tolist()],
            "version": self.version,
        }

    def _asked(self, index: int, header: str) -> str:
        """Return a header of one request of the batch; TorchServe itself sets `explain`, to True or False."""
        return self.context.get_request_header(index, header) or ""

    def _is_explain(self) -> bool:
        """Deny what the base class asks of the first request alone, as it goes for itself only."""
        return False

    def _named(self, answer: Answer) -> Reply:
        probabilities, familiarity = answer
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


def _failure(error: ImageError) -> Reply:
    return {"error": str(error), "status": error.status}


def _read(body: Any) -> Tensor | ImageError:
    if not isinstance(body, (bytes, bytearray)):
        return ImageError("Send the image file itself as the body of the request.")
    try:
        return to_pixels(decode_image(bytes(body)))
    except ImageError as error:
        return error

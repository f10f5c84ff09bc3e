"""The TorchServe handler: a request brings one image file or several, and gets class probabilities."""

import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from handler import memory  # first, because handler silences ONNX Runtime, which BaseHandler imports

# isort: split
import torch
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

from handler.onnx_engine import NETWORK, open_for_all
from handler.predictor import Item, Predictor, Reply
from handler.transforms import Normalised


class ImageClassifier(BaseHandler):
    """Predicts a batch of image files; an image that cannot be read fails alone, with status 400 or 415.

    On a GPU its network is TorchScript. On a processor it is ONNX, because ONNX Runtime takes less time there.
    """

    model: torch.jit.ScriptModule

    def initialize(self, context: Context) -> None:
        """Load the files of the archive, and warm up the network."""
        # The worker would log every request at INFO; TorchServe counts them already.
        logging.getLogger().setLevel(logging.WARNING)
        folder = Path(context.system_properties["model_dir"])
        if context.system_properties["gpu_id"] is None or not torch.accelerator.is_available():
            self.device = torch.device("cpu")
            network = open_for_all(folder / NETWORK, torch.get_num_threads() // context.model_yaml_config["minWorkers"])
        else:
            torch.set_float32_matmul_precision("highest")  # as in training; importing BaseHandler has lowered it
            super().initialize(context)
            self.model = torch.jit.optimize_for_inference(torch.jit.freeze(self.model))
            network = self._on_gpu
        self.classifier = Predictor(folder, network)
        memory.keep()  # from now on, and not what loading alone needs
        self.classifier.warm()

    def handle(self, data: list[dict[str, Any]], context: Context) -> Any:
        """Answer a batch of requests; if all of them give way to others, at the least low of their priorities."""
        niceness = min(int(context.get_request_header(index, "niceness") or 0) for index in range(len(data)))
        if not niceness:
            return self._answer(data, context)
        return _thread_of(niceness).submit(self._answer, data, context).result()

    def preprocess(self, data: list[dict[str, Any]]) -> list[list[Item]]:
        """Decode the files of every request to pixels; a file that cannot be read becomes an ImageError."""
        read = self.classifier.read
        requests = [self._files(index, request) for index, request in enumerate(data)]
        return [[read(file) for file in files] or [read(None)] for files in requests]

    def inference(self, data: list[list[Item]]) -> list[list[Reply]]:
        """Run the network on the readable images of all requests; returns the replies in the same order.

        A request to explain an image gets the explanation.
        """
        explained = [self._header(index, "explain") == "True" for index in range(len(data))]
        others = [item for items, explain in zip(data, explained, strict=True) if not explain for item in items]
        answers = iter(self.classifier.predict(others))
        return [
            [self.classifier.explain(items[0], unquote(self._header(index, "explained-class")))]
            if explained[index]
            else [next(answers) for _ in items]
            for index, items in enumerate(data)
        ]

    def postprocess(self, data: list[list[Reply]]) -> list[str]:
        """Return a JSON text for each request, a list for several files; a refusal of a single file sets the status."""
        for index, replies in enumerate(data):
            if len(replies) == 1 and not replies[0]["success"]:
                self.context.set_response_status(replies[0]["status"], "Refused", index)
        return [json.dumps(replies if len(replies) > 1 else replies[0]) for replies in data]

    def describe_handle(self) -> str:
        """Return the model card, the device and the worker's process id as JSON."""
        return json.dumps({"card": self.classifier.card, "device": str(self.device), "pid": os.getpid()})

    def _answer(self, data: list[dict[str, Any]], context: Context) -> list[str]:
        """Do what BaseHandler.handle does, but without its profiler, and without times that no worker passes on."""
        self.context = context
        if self._is_describe():
            return [self.describe_handle()]
        return self.postprocess(self.inference(self.preprocess(data)))

    @torch.inference_mode()
    def _on_gpu(self, images: list[Normalised]) -> tuple[Normalised, Normalised]:
        """Run the network on `self.device`. It takes a tensor; one with several inputs takes a list of them."""
        inputs = [torch.from_numpy(each).to(self.device) for each in images]
        logits, scores = self.model(inputs if len(inputs) > 1 else inputs[0])
        return logits.cpu().numpy(), scores.cpu().numpy()

    def _files(self, index: int, request: dict[str, Any]) -> Iterable[Any]:
        """Return the files of a request: the body, its pieces if a header has their lengths, or the parts of a form."""
        lengths = self._header(index, "file-lengths")
        if not lengths:
            return request.values()
        ends = list(accumulate(map(int, lengths.split(","))))
        return [request["body"][start:end] for start, end in pairwise([0, *ends])]

    def _header(self, index: int, header: str) -> str:
        """Return a header of one request of the batch; TorchServe itself sets `explain`, to True or False."""
        return self.context.get_request_header(index, header) or ""


@cache
def _thread_of(niceness: int) -> ThreadPoolExecutor:
    """Return the thread for batches of this niceness. It needs its own, because none may raise its priority again."""
    return ThreadPoolExecutor(1, initializer=partial(os.nice, niceness))

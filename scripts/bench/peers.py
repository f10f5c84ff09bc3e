"""Servers that you might build instead of the product: the same network in a process of another framework.

    .venv/bin/python -m scripts.bench.peers fastapi build --port 9000

Each takes network.pt, or network.onnx, and model_card.json of a folder, and answers POST /predict with the same
fields. `loop` serves nothing: it predicts the images in files/ in batches and prints how many a second.
"""

import io
import json
import os
import runpy
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from handler.transforms import LEAST_DECODED, Normalised, Pixels, inputs_of
from training.commands import PATH, command

BATCH_SIZE = 64  # of the loop


class Model:
    """A network as most would load it: TorchScript on two threads.

    They would decode the whole of an image. With `draft`, a JPEG is decoded at the size that the network needs.
    """

    def __init__(self, folder: Path, draft: bool) -> None:
        self.draft = draft
        card = json.loads((folder / "model_card.json").read_text())
        self.classes, self.inputs = card["classes"], inputs_of(card)
        self.load(folder)

    def load(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.network = torch.jit.load(folder / "network.pt").eval()

    @torch.inference_mode()
    def logits(self, images: list[Normalised]) -> Tensor:
        """Run the network on (N, 3, S, S), for each of its inputs; returns (N, C)."""
        tensors = [torch.from_numpy(each) for each in images]
        return self.network(tensors if len(tensors) > 1 else tensors[0])[0]

    def probabilities(self, images: list[bytes]) -> Tensor:
        """Predict the bytes of image files; returns (N, C)."""
        columns = zip(*map(self.decode, images), strict=True)
        batch = [each.normalise(np.stack(pixels)) for each, pixels in zip(self.inputs, columns, strict=True)]
        return self.logits(batch).softmax(dim=1)

    def decode(self, file: bytes) -> list[Pixels]:
        """Decode and resize as most would write it; returns uint8 of shape (3, S, S) for each input."""
        image = Image.open(io.BytesIO(file))
        if self.draft:
            image.draft(None, (max(LEAST_DECODED, *(2 * each.size for each in self.inputs)),) * 2)
        decoded = image.convert("RGB")
        return [each.pixels(decoded) for each in self.inputs]

    def answer(self, probabilities: Tensor) -> dict[str, Any]:
        named = dict(zip(self.classes, probabilities.tolist(), strict=True))
        best = max(named, key=named.__getitem__)
        return {"predicted_class": best, "confidence": named[best], "class_probabilities": named, "success": True}

    def predict(self, image: bytes) -> dict[str, Any]:
        return self.answer(self.probabilities([image])[0])


class OnnxModel(Model):
    """The same network by ONNX Runtime, with as many threads as it takes by itself."""

    def load(self, folder: Path) -> None:
        import onnxruntime  # after handler, which silences it

        self.session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
        self.names = [each.name for each in self.session.get_inputs()]

    def logits(self, images: list[Normalised]) -> Tensor:
        return torch.from_numpy(self.session.run(None, dict(zip(self.names, images, strict=True)))[0])


def flask(folder: Path, port: int, draft: bool) -> None:
    from flask import Flask, request

    app, model = Flask(__name__), Model(folder, draft)

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        return model.predict(request.files["file"].read())

    app.run(port=port, threaded=True)


def fastapi(folder: Path, port: int, draft: bool, kind: type[Model] = Model) -> None:
    import uvicorn
    from fastapi import FastAPI, UploadFile

    app, model = FastAPI(), kind(folder, draft)

    @app.post("/predict")
    async def predict(file: UploadFile) -> dict[str, Any]:
        return model.predict(await file.read())

    uvicorn.run(app, port=port, access_log=False)


def fastapi_onnx(folder: Path, port: int, draft: bool) -> None:
    fastapi(folder, port, draft, OnnxModel)


def litserve(folder: Path, port: int, draft: bool) -> None:
    from scripts.bench.litserve_peer import serve  # a module of its own, as LitServe's processes import its class

    serve(folder, port, draft)


def bentoml(folder: Path, port: int, draft: bool) -> None:
    os.environ |= {"PEER_FOLDER": str(folder.resolve()), "PEER_DRAFT": "1" * draft, "BENTOML_DO_NOT_TRACK": "True"}
    os.environ["BENTOML_HOME"] = str(folder.resolve() / "bentoml")  # it empties a folder there
    sys.argv = ["bentoml", "serve", "scripts.bench.bentoml_peer:Classifier", "--host", "127.0.0.1", "--port", str(port)]
    runpy.run_module("bentoml", run_name="__main__")


def loop(folder: Path) -> float:
    """Predict all files of folder/files, and return how many a second."""
    model, files, started = Model(folder, draft=False), sorted((folder / "files").iterdir()), time.monotonic()
    for first in range(0, len(files), BATCH_SIZE):
        model.probabilities([file.read_bytes() for file in files[first : first + BATCH_SIZE]])
    return len(files) / (time.monotonic() - started)


SERVERS = {function.__name__: function for function in (flask, fastapi, litserve, bentoml, fastapi_onnx)}


@command("peers", help=__doc__)
@click.argument("framework", type=click.Choice([*SERVERS, "loop"]))
@click.argument("folder", type=PATH)
@click.option("--port", type=int, default=9000, metavar="N", help="(default: 9000)")
@click.option("--draft", is_flag=True, help="decode JPEG at the size that the network needs")
def main(framework: str, folder: Path, port: int, draft: bool) -> None:
    if framework == "loop":
        print(loop(folder))
    else:
        SERVERS[framework](folder, port, draft)


if __name__ == "__main__":
    main()

"""Servers that you might build instead of the product: the same network in a process of another framework.

    .venv/bin/python -m scripts.bench.peers fastapi build --port 9000

Each takes network.pt and model_card.json of a folder, and answers POST /predict with the same fields. `loop` serves
nothing: it predicts the images in files/ in batches and prints how many a second.
"""

import io
import json
import time
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from handler.transforms import Pixels, inputs_of
from training.commands import PATH, command

BATCH_SIZE = 64  # of the loop


class Model:
    """A network as most would load it: TorchScript on two threads."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.network = torch.jit.load(folder / "network.pt").eval()
        card = json.loads((folder / "model_card.json").read_text())
        self.classes, (self.input,) = card["classes"], inputs_of(card)

    @torch.inference_mode()
    def probabilities(self, images: list[bytes]) -> Tensor:
        """Predict the bytes of image files; returns (N, C)."""
        pixels = np.stack([self.decode(image) for image in images])
        return self.network(torch.from_numpy(self.input.normalise(pixels)))[0].softmax(dim=1)

    def decode(self, image: bytes) -> Pixels:
        """Decode and resize as most would write it; returns uint8 of shape (3, S, S)."""
        return self.input.pixels(Image.open(io.BytesIO(image)).convert("RGB"))

    def answer(self, probabilities: Tensor) -> dict[str, Any]:
        named = dict(zip(self.classes, probabilities.tolist(), strict=True))
        best = max(named, key=named.__getitem__)
        return {"predicted_class": best, "confidence": named[best], "class_probabilities": named, "success": True}

    def predict(self, image: bytes) -> dict[str, Any]:
        return self.answer(self.probabilities([image])[0])


def flask(folder: Path, port: int) -> None:
    from flask import Flask, request

    app, model = Flask(__name__), Model(folder)

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        return model.predict(request.files["file"].read())

    app.run(port=port, threaded=True)


def fastapi(folder: Path, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI, UploadFile

    app, model = FastAPI(), Model(folder)

    @app.post("/predict")
    async def predict(file: UploadFile) -> dict[str, Any]:
        return model.predict(await file.read())

    uvicorn.run(app, port=port, access_log=False)


def litserve(folder: Path, port: int) -> None:
    from scripts.bench.litserve_peer import serve  # a module of its own, as LitServe's processes import its class

    serve(folder, port)


def loop(folder: Path) -> float:
    """Predict all files of folder/files, and return how many a second."""
    model, files, started = Model(folder), sorted((folder / "files").iterdir()), time.monotonic()
    for first in range(0, len(files), BATCH_SIZE):
        model.probabilities([file.read_bytes() for file in files[first : first + BATCH_SIZE]])
    return len(files) / (time.monotonic() - started)


SERVERS = {"flask": flask, "fastapi": fastapi, "litserve": litserve}


@command("peers", help=__doc__)
@click.argument("framework", type=click.Choice([*SERVERS, "loop"]))
@click.argument("folder", type=PATH)
@click.option("--port", type=int, default=9000, metavar="N", help="(default: 9000)")
def main(framework: str, folder: Path, port: int) -> None:
    if framework == "loop":
        print(loop(folder))
    else:
        SERVERS[framework](folder, port)


if __name__ == "__main__":
    main()

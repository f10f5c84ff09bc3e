"""The network in LitServe, which batches requests as TorchServe does; `scripts.bench.peers litserve` runs it."""

from pathlib import Path
from typing import Any

from fastapi import Request
from litserve import LitAPI, LitServer
from torch import Tensor

from scripts.bench.peers import Model

BATCH_SIZE = 16
BATCH_TIMEOUT = 0.002  # seconds


class API(LitAPI):
    def __init__(self, folder: Path, draft: bool) -> None:
        super().__init__(max_batch_size=BATCH_SIZE, batch_timeout=BATCH_TIMEOUT)
        self.folder, self.draft = folder, draft

    def setup(self, device: str) -> None:
        self.model = Model(self.folder, self.draft)

    def decode_request(self, request: Request) -> bytes:
        return request["file"].file.read()  # LitServe hands on the form itself

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: list[bytes]) -> Tensor:
        return self.model.probabilities(x)

    def unbatch(self, output: Tensor) -> list[Tensor]:
        return list(output)

    def encode_response(self, output: Tensor) -> dict[str, Any]:
        return self.model.answer(output)


def serve(folder: Path, port: int, draft: bool) -> None:
    server = LitServer(API(folder, draft), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")

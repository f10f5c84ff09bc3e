"""The network as a BentoML service, which `scripts.bench.peers bentoml` starts with its folder in the environment."""

import os
from pathlib import Path
from typing import Any

import bentoml

from scripts.bench.peers import Model


@bentoml.service(workers=1, traffic={"timeout": 60})
class Classifier:
    def __init__(self) -> None:
        self.model = Model(Path(os.environ["PEER_FOLDER"]), bool(os.environ["PEER_DRAFT"]))

    @bentoml.api
    def predict(self, file: Path) -> dict[str, Any]:
        return self.model.predict(file.read_bytes())

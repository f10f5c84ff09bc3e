"""A Backend that needs no model: for what the real one cannot be made to do, such as to wait."""

import contextlib
import threading
from collections.abc import Iterator
from unittest.mock import patch

from werkzeug.serving import make_server

from gateway import app
from gateway.backend import Answer, Backend, Details, Explanation, Prediction, Version
from gateway.pixels import is_small


def prediction(name: str) -> Prediction:
    return {
        "predicted_class": name,
        "confidence": 1.0,
        "class_probabilities": {name: 1.0},
        "in_distribution": True,
        "in_distribution_score": 0.9,
        "version": "1.0",
        "success": True,
    }


class FakeBackend(Backend):
    """Sees a cat in every image."""

    light = waits = False  # as the embedded one is with a small network; as TorchServe does

    def may_skip_line(self, image: bytes, version: str | None, free: bool) -> bool:
        return (free and self.waits) or (self.light and is_small(image))

    def predict(self, image: bytes, version: str | None = None) -> Prediction:
        return prediction("cat")

    def predict_all(self, images: list[bytes], version: str | None = None) -> list[Answer]:
        return [self.predict(image, version) for image in images]

    def explain(self, image: bytes, class_name: str, version: str | None = None) -> Explanation:
        return {
            "explained_class": class_name,
            "predicted_class": self.predict(image, version)["predicted_class"],
            "method": "none",
            "input": "",
            "heat_map": [],
            "version": "1.0",
            "success": True,
        }

    def details(self) -> Details:
        card = {"name": "fake", "classes": ["cat"], "calibration": {"in_distribution": {"threshold": 0.5}}}
        return {"card": card, "device": "cpu", "version": "1.0", "workers": 1}

    def versions(self) -> list[Version]:
        return [{"version": "1.0", "default": True, "workers": 1}]


@contextlib.contextmanager
def serving(**settings: object) -> Iterator[str]:
    """Serve a gateway with this backend until the block ends; returns its URL."""
    with patch.object(app, "_backend", lambda config: FakeBackend()):
        server = make_server("127.0.0.1", 0, app.create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()

"""A Backend that needs no model: for what the real one cannot be made to do, such as to wait."""

from gateway.backend import Answer, Backend, Details, Explanation, Prediction, Version


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

"""The last step to every checkpoint: round the weights, calibrate, measure."""

from pathlib import Path
from typing import Any

from torch import Tensor

from training.calibrate import calibrate
from training.checkpoint import Checkpoint, build, describe, halved
from training.data import Images, load_test_images
from training.metrics import figures, predict


def finish(
    weights: dict[str, Tensor],
    name: str,
    recipe: dict[str, Any],
    training: Images,
    validation: Images,
    data: Path | None,
    metrics: dict[str, Any],
    **others: Any,
) -> Checkpoint:
    """Make a checkpoint of a network's weights: rounded, calibrated on the validation images, measured.

    The test images are predicted here, once. The card gets `metrics` and `others` unchanged.
    """
    network = build(recipe, len(training.classes)).eval()
    network.load_state_dict(halved(weights))
    classifier, calibration = calibrate(network, training, validation)
    test = load_test_images(data, training.classes, training.inputs.preprocessing)
    measured = {
        split: figures(predict(classifier, images.inputs)[0], images.labels)
        for split, images in (("validation", validation), ("test", test))
    }
    card = describe(name, recipe, training, data, calibration=calibration, metrics=metrics | measured, **others)
    return Checkpoint(halved(classifier.state_dict()), card)

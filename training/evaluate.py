"""Measure a checkpoint on the test images.

python -m training.evaluate model_store/cifar10_cnn_enhanced.pth [--data FOLDER]
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handler.transforms import normalise
from training.checkpoint import CheckpointError, load_checkpoint
from training.data import DataError, Images, load_images

BATCH_SIZE = 500


@torch.inference_mode()
def predict(model: nn.Module, pixels: Tensor, device: str = "cpu") -> Tensor:
    """Return logits (N, classes) float32, on the CPU, for uint8 pixels (N, 3, S, S)."""
    model.eval()
    return torch.cat([model(normalise(batch.to(device))).cpu() for batch in pixels.split(BATCH_SIZE)])


def evaluate(model: nn.Module, images: Images, device: str = "cpu") -> dict[str, float]:
    """Return cross-entropy `loss`, `accuracy` from 0 to 1, and the number of `images`."""
    logits = predict(model, images.pixels, device)
    return {
        "loss": F.cross_entropy(logits, images.labels).item(),
        "accuracy": (logits.argmax(dim=1) == images.labels).double().mean().item(),
        "images": len(images.labels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, help="folder with test/<class>/*; CIFAR-10 without it")
    arguments = parser.parse_args()
    try:
        checkpoint = load_checkpoint(arguments.checkpoint)
        images = load_images(arguments.data, "test")
    except (CheckpointError, DataError) as error:
        raise SystemExit(str(error)) from None
    if images.classes != checkpoint.card["classes"]:
        raise SystemExit(f"The images show {images.classes}, the checkpoint knows {checkpoint.card['classes']}.")
    figures = evaluate(checkpoint.network(), images)
    print(f"accuracy {figures['accuracy']:.2%}, loss {figures['loss']:.4f} on {figures['images']:,} test images")


if __name__ == "__main__":
    main()

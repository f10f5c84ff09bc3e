"""Learn from the probabilities of a better network, the teacher (Hinton et al. 2015, arXiv:1503.02531)."""

import math
import zlib
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from handler.transforms import Preprocessing
from training.checkpoint import load_checkpoint
from training.config import Distillation, Recipe, RecipeError
from training.data import Images, load_images
from training.inputs import Inputs, call, renormalise
from training.metrics import batch_size
from training.project import from_recipe


def inputs_of_teacher(recipe: Recipe) -> list[Preprocessing]:
    """Return the inputs of a recipe's teacher if it looks at the unchanged images, and not as the network does."""
    if not recipe.distillation or recipe.distillation.view != "original":
        return []
    inputs = load_checkpoint(from_recipe(recipe.distillation.teacher)).inputs
    return inputs if inputs != [recipe.preprocessing] else []


def with_teacher(images: Images, recipe: Recipe, data: Path | None) -> Images:
    """Load the training `images` of a recipe's network for its teacher, too, if it needs others. Raises DataError.

    Each network gets them as without the other one: a large JPEG is decoded as large as the largest input needs.
    """
    others = inputs_of_teacher(recipe)
    return images.beside(load_images(data, "train", others)) if others else images


class Teacher:
    """A trained network that predicts every image as the student sees it, or every unchanged image once.

    Its size and normalisation may differ from the student's. `training` has the student's input first, and those of
    `inputs_of_teacher` behind it. `digest` is a checksum of its checkpoint's file.
    """

    def __init__(self, settings: Distillation, training: Images, device: torch.device) -> None:
        path = from_recipe(settings.teacher)
        checkpoint = load_checkpoint(path)
        if checkpoint.card["classes"] != training.classes:
            raise RecipeError(
                f"The teacher {settings.teacher} knows the classes {checkpoint.card['classes']}, "
                f"but the training images have {training.classes}; choose a teacher with the same classes."
            )
        self.network = checkpoint.single().network.to(device).to(memory_format=torch.channels_last)
        self.settings, self.device = settings, device
        self.student, self.inputs = training.preprocessing, checkpoint.inputs
        self.digest = zlib.crc32(path.read_bytes())
        self.logits = self._predict(training.inputs.of(self.inputs)) if settings.view == "original" else None

    def mix(self, loss: Tensor, images: Tensor, indices: Tensor, logits: Tensor) -> Tensor:
        """Mix the student's loss with the divergence of its logits from the teacher's; both are sums over images.

        `images` (N, 3, S, S) are those that the student saw. `indices` (N,) are their places in the training images.
        """
        temperature, weight = self.settings.temperature, self.settings.weight
        with torch.no_grad():
            taught = self._look(images) if self.logits is None else self.logits[indices].to(self.device)
        soft = F.log_softmax(taught / temperature, dim=1)
        divergence = F.kl_div(F.log_softmax(logits / temperature, dim=1), soft, reduction="sum", log_target=True)
        return (1 - weight) * loss + weight * temperature**2 * divergence

    def _look(self, images: Tensor) -> Tensor:
        """Return the logits (N, C) of images that are normalised for the student."""
        return call(self.network, [renormalise(images, self.student, each) for each in self.inputs])

    @torch.no_grad()
    def _predict(self, inputs: Inputs) -> Tensor:
        """Return the logits (N, C) of unchanged images, each averaged with its mirror image's."""
        size = batch_size(inputs)
        total = math.ceil(inputs.count / size)
        batches = tqdm(inputs.batches(size, self.device), "the teacher's predictions", total, leave=False, disable=None)
        return torch.cat([self._both_sides(batch).cpu() for batch in batches])

    def _both_sides(self, images: list[Tensor]) -> Tensor:
        return (call(self.network, images) + call(self.network, [each.flip(3) for each in images])) / 2

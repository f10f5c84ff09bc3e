"""Learning from the soft answers of a better network (Hinton et al. 2015, arXiv:1503.02531)."""

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from handler.transforms import normalise
from training.checkpoint import load_checkpoint
from training.config import Distillation, RecipeError
from training.data import Images
from training.metrics import BATCH_SIZE
from training.project import from_recipe


class Teacher:
    """A trained network that sees every image as the student sees it, or answers for each original once."""

    def __init__(self, settings: Distillation, training: Images, device: torch.device) -> None:
        checkpoint = load_checkpoint(from_recipe(settings.teacher))
        if checkpoint.card["classes"] != training.classes:
            raise RecipeError(
                f"The teacher {settings.teacher} knows {checkpoint.card['classes']}, not {training.classes}."
            )
        self.network = checkpoint.classifier().network.to(device).to(memory_format=torch.channels_last)
        self.settings, self.device = settings, device
        self.answers = self._answers(training.pixels) if settings.view == "original" else None

    def mix(self, loss: Tensor, images: Tensor, indices: Tensor, logits: Tensor) -> Tensor:
        """Mix the student's loss with the divergence of its logits from the teacher's; both are sums over images.

        `images` (N, 3, S, S) are those that the student saw, `indices` (N,) say which of the training images they are.
        """
        temperature, weight = self.settings.temperature, self.settings.weight
        with torch.no_grad():
            taught = self.network(images) if self.answers is None else self.answers[indices].to(self.device)
        soft = F.log_softmax(taught / temperature, dim=1)
        divergence = F.kl_div(F.log_softmax(logits / temperature, dim=1), soft, reduction="sum", log_target=True)
        return (1 - weight) * loss + weight * temperature**2 * divergence

    @torch.no_grad()
    def _answers(self, pixels: Tensor) -> Tensor:
        batches = tqdm(pixels.split(BATCH_SIZE), desc="the teacher's answers", leave=False)
        return torch.cat([self._both_sides(normalise(batch.to(self.device))).cpu() for batch in batches])

    def _both_sides(self, images: Tensor) -> Tensor:
        return (self.network(images) + self.network(images.flip(3))) / 2

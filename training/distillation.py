"""Learning from the soft answers of a better network (Hinton et al. 2015, arXiv:1503.02531)."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from training.checkpoint import load_checkpoint
from training.config import Distillation, RecipeError


class Teacher:
    """A trained network that sees every image as the student sees it."""

    def __init__(self, settings: Distillation, classes: list[str], device: torch.device) -> None:
        checkpoint = load_checkpoint(Path(settings.teacher))
        if checkpoint.card["classes"] != classes:
            raise RecipeError(f"The teacher {settings.teacher} knows {checkpoint.card['classes']}, not {classes}.")
        self.network = checkpoint.classifier().network.to(device).to(memory_format=torch.channels_last)
        self.settings = settings

    def mix(self, loss: Tensor, images: Tensor, logits: Tensor) -> Tensor:
        """Mix the student's loss with the divergence of its logits from the teacher's; both are sums over images."""
        temperature, weight = self.settings.temperature, self.settings.weight
        with torch.no_grad():
            soft = F.log_softmax(self.network(images) / temperature, dim=1)
        divergence = F.kl_div(F.log_softmax(logits / temperature, dim=1), soft, reduction="sum", log_target=True)
        return (1 - weight) * loss + weight * temperature**2 * divergence

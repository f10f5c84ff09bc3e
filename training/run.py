"""The state of a training run, and how one epoch of training changes it."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from training import distributed
from training.checkpoint import build, copy_initial, current_commit
from training.config import Recipe, RecipeError, stored_recipe
from training.data import Epoch, Images, seeded
from training.distillation import Teacher
from training.head import fit_head
from training.history import Row
from training.inputs import normalise
from training.metrics import evaluate
from training.optimizers import make_optimizer, make_schedule

EPOCH_START: dict[str, Any] = {"batches": 0, "lr": 0.0, "seen": 0, "loss": 0.0, "correct": 0.0, "seconds": 0.0}
DROPOUT_KEY = 1  # makes the seed of dropout differ from that of the augmentation
IMAGES_TO_INITIALISE = 5000
MIN_STEPS_TO_COMPILE = 1000  # fewer take less time than compiling the network
INPUT_NAMES = {
    "training": "training images",
    "validation": "validation images",
    "classes": "names of the classes",
    "teacher": "teacher's checkpoint",
}


def moved(decay: float, average: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
    """Move an average towards the current value.

    It moves faster during the first steps, so that a short run forgets its random start.
    """
    if not average.is_floating_point():
        return current
    decay = min(decay, (1 + int(steps)) / (10 + int(steps)))
    return average * decay + current * (1 - decay)


def class_weights(training: Images, power: float, device: torch.device) -> Tensor | None:
    """Return the weight of each class in the loss, its frequency to the power of -`power`; None if all count the same.

    The mean over the training images is 1, so that the learning rate need not change.
    """
    if power == 0:
        return None
    counts = training.labels.bincount(minlength=len(training.classes)).double().clamp(min=1)
    weights = counts**-power
    return (weights * len(training.labels) / (weights * counts).sum()).float().to(device)


class Run:
    """Everything that changes while a network is trained, and therefore everything that resuming needs.

    The random numbers of a batch depend on the seed, the epoch and the batch only, so no random state is saved.
    If there are several processes, each takes its share of every batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        training: Images,
        validation: Images,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        own = [recipe.preprocessing]
        self.recipe, self.training, self.validation = recipe, training.of(own), validation.of(own)
        self.memory_format = memory_format
        self.device = distributed.device()
        anywhere = recipe.mixed_precision == "anywhere"
        self.mixed_precision = bool(recipe.mixed_precision) and distributed.has_bfloat16(self.device, anywhere)
        with self._precision():
            self.teacher = Teacher(recipe.distillation, training, self.device) if recipe.distillation else None
        torch.manual_seed(recipe.seed)
        model = build(recipe.model_dump(), len(training.classes))
        if recipe.initial:
            self.initial_head = copy_initial(model, recipe.model_dump(), training.classes)
        else:
            share = min(1, (32 / recipe.input.size) ** 2)  # large images have more pixels to learn from
            every = max(1, int(len(training.labels) / (IMAGES_TO_INITIALISE * share)))
            model.initialise(normalise(self.training.pixels[::every], recipe.preprocessing))
        self.model = model.to(self.device).to(memory_format=memory_format)
        self.average = AveragedModel(self.model, avg_fn=partial(moved, recipe.ema_decay), use_buffers=True)
        self.parallel = distributed.parallel(self.model)
        self.class_weights = class_weights(training, recipe.class_weights, self.device)
        self.optimizer = make_optimizer(self.model, recipe.optimizer)
        self.schedule = make_schedule(
            self.optimizer, recipe.schedule, len(Epoch(self.training, recipe, 1)), recipe.epochs
        )
        if self.mixed_precision and recipe.epochs * len(Epoch(self.training, recipe, 1)) >= MIN_STEPS_TO_COMPILE:
            self.parallel = distributed.compiled(self.parallel, self.device)
        self.progress = dict(EPOCH_START)
        self.best: dict[str, Tensor] = {}
        self.history: list[Row] = []
        self.commit = current_commit()  # of the code that starts the run; the checkout may change before it ends
        self.inputs = {
            "training": self.training.fingerprint(),
            "validation": self.validation.fingerprint(),
            "classes": training.classes,
            "teacher": self.teacher.digest if self.teacher else None,
        }

    @property
    def subject(self) -> tuple[dict[str, Any], dict[str, Any], str | None]:
        """The recipe, inputs and code, which must be the same in all processes of a run."""
        return self.recipe.model_dump(), self.inputs, self.commit

    @property
    def best_row(self) -> Row:
        if self.recipe.best_by == "accuracy":
            return max(self.history, key=lambda row: row["validation_accuracy"])
        return min(self.history, key=lambda row: row["validation_loss"])

    @property
    def finished(self) -> bool:
        stale = len(self.history) - self.best_row["epoch"] if self.history else 0
        return len(self.history) >= self.recipe.epochs or stale >= self.recipe.patience

    def train_epoch(self, save: Callable[[], None] = lambda: None) -> Row:
        """Train to the end of the epoch, measure on the validation images, and return the epoch's row of the history.

        Calls `save` after every batch, because the state is complete then.
        """
        number = len(self.history) + 1
        if number == 1 and self.progress["batches"] == 0 and self.recipe.head_first:
            decay = self.recipe.head_first.weight_decay
            fit_head(self.model, self.initial_head, self.training, decay, self.device, self.class_weights)
        if self.progress["batches"] == 0:
            self.progress["lr"] = self.optimizer.param_groups[0]["lr"]
        self._train_batches(number, save)
        measured = distributed.agreed(evaluate(self.average.module, self.validation, self.device))
        row = {
            "epoch": number,
            "lr": self.progress["lr"],
            "train_loss": self.progress["loss"] / self.progress["seen"],
            "train_accuracy": self.progress["correct"] / self.progress["seen"],
            "validation_loss": measured["loss"],
            "validation_accuracy": measured["accuracy"],
            "seconds": self.progress["seconds"],
        }
        self.history.append(row)
        self.progress = dict(EPOCH_START)
        if self.best_row is row:
            # Clone, because state_dict() returns the tensors that the next epoch changes.
            self.best = {name: value.cpu().clone() for name, value in self.average.module.state_dict().items()}
        return row

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed_precision)

    def _train_batches(self, number: int, save: Callable[[], None]) -> None:
        epoch, progress = Epoch(self.training, self.recipe, number), self.progress
        title = f"epoch {number}/{self.recipe.epochs}"
        started = time.monotonic() - progress["seconds"]
        self._to_train()
        with tqdm(
            epoch.loader(self.recipe.num_workers, progress["batches"]),
            desc=title,
            initial=progress["batches"],
            total=len(epoch),
            disable=None if distributed.rank() == 0 else True,
            leave=False,
        ) as batches:
            for images, indices, labels in batches:
                keys = (self.recipe.seed, number, progress["batches"], DROPOUT_KEY + distributed.rank())
                torch.manual_seed(seeded(*keys).initial_seed())
                loss, correct = self.train_batch(images, indices, labels)
                if not math.isfinite(loss):
                    raise RecipeError(f"The loss became {loss} in {title}; try a lower optimizer.lr.")
                progress["batches"] += 1
                progress["seen"] += len(indices)
                progress["loss"] += loss
                progress["correct"] += correct
                progress["seconds"] = time.monotonic() - started
                means = (progress["loss"] / progress["seen"], progress["correct"] / progress["seen"])
                batches.set_postfix_str("loss {:.3f}, accuracy {:.1%}".format(*means), refresh=False)
                save()

    def _to_train(self) -> None:
        self.model.train()
        if self.recipe.freeze_norms:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def train_batch(self, images: Tensor, indices: Tensor, labels: Tensor) -> tuple[float, float]:
        """Take one step with a batch of an Epoch: images (N, 3, S, S), indices (N,), and labels (N,) or shares (N, C).

        Returns the sum of the losses of the batch, and the number of correct predictions. A mixed image is predicted
        correctly if it is the class with the largest share.
        """
        count, mine = len(indices), slice(distributed.rank(), None, distributed.world_size())
        images = images[mine].to(self.device, memory_format=self.memory_format)
        indices = indices[mine]
        labels = labels[mine].to(self.device)
        with self._precision():
            logits = self.parallel(images)
            smoothing = self.recipe.label_smoothing
            loss = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=smoothing, reduction="sum")
            if self.teacher:
                loss = self.teacher.mix(loss, images, indices, logits)
        self.optimizer.zero_grad()
        (loss * distributed.world_size() / count).backward()
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.model)
        correct = (logits.argmax(dim=1) == (labels if labels.ndim == 1 else labels.argmax(dim=1))).sum()
        sums = distributed.total(torch.stack([loss.detach(), correct]))
        return sums[0].item(), sums[1].item()

    def state_dict(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(),
            "inputs": self.inputs,
            "commit": self.commit,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": self.progress,
            "best": self.best,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state. Raises RecipeError if it belongs to another recipe or other inputs."""
        kept = stored_recipe(state["recipe"], "The recipe of the run to resume")
        if kept.model_dump() != self.recipe.model_dump():
            raise RecipeError("The run to resume has another recipe; choose another --output.")
        inputs = state.get("inputs") or {"training": state["fingerprint"]}  # older runs know only the training images
        changed = [INPUT_NAMES[name] for name, value in inputs.items() if value != self.inputs[name]]
        if changed:
            raise RecipeError(
                f"The {' and the '.join(changed)} changed after the run to resume began; "
                "restore the earlier ones, or choose another --output."
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress, self.best, self.history = state["progress"], state["best"], state["history"]
        self.commit = state["commit"]

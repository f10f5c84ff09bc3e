"""Train a network as a recipe says.

    python -m training.train --recipe training/recipes/cnn.yaml

writes into the output folder (runs/<recipe> unless --output says otherwise) the checkpoint <name>.pth,
training_history.pth, .csv and .png, and last.pth, from which --resume goes on.
"""

import argparse
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR
from tqdm import tqdm

from training.checkpoint import Checkpoint, CheckpointError, current_commit, describe, load, save, save_checkpoint
from training.config import Recipe, RecipeError, load_recipe
from training.data import DataError, Epoch, Images, class_names, load_images, seeded, stratified_split
from training.evaluate import evaluate
from training.history import Row, write_history
from training.models import ARCHITECTURES


class Run:
    """All that changes while a network is trained, and so all that resuming needs."""

    def __init__(self, recipe: Recipe, training: Images, validation: Images) -> None:
        self.recipe, self.training, self.validation = recipe, training, validation
        self.device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        torch.manual_seed(recipe.seed)
        model = ARCHITECTURES[recipe.architecture](len(training.classes), recipe.dropout)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.model, recipe)
        self.schedule = make_schedule(self.optimizer, recipe, steps_per_epoch=len(self.epoch(0)))
        self.best: dict[str, Tensor] = {}
        self.history: list[Row] = []
        self.commit = current_commit()  # of the code that started, whatever is checked out when it is done
        self.fingerprint = [zlib.crc32(training.pixels.numpy().data), zlib.crc32(training.labels.numpy().data)]

    @property
    def best_row(self) -> Row:
        return min(self.history, key=lambda row: row["validation_loss"])

    @property
    def finished(self) -> bool:
        stale = len(self.history) - self.best_row["epoch"] if self.history else 0
        return len(self.history) >= self.recipe.epochs or stale >= self.recipe.patience

    def epoch(self, number: int) -> Epoch:
        return Epoch(self.training, self.recipe.augment, self.recipe.batch_size, self.recipe.seed, number)

    def train_epoch(self) -> Row:
        """Train for one more epoch, measure it on the validation images, and return its row of the history."""
        started = time.monotonic()
        number = len(self.history) + 1
        lr = self.optimizer.param_groups[0]["lr"]
        torch.manual_seed(seeded(self.recipe.seed, number).initial_seed())  # for dropout
        figures = self._pass_over(self.epoch(number), f"epoch {number}/{self.recipe.epochs}")
        measured = evaluate(self.model, self.validation, self.device)
        row = {
            "epoch": number,
            "lr": lr,
            **{f"train_{name}": value for name, value in figures.items()},
            "validation_loss": measured["loss"],
            "validation_accuracy": measured["accuracy"],
            "seconds": time.monotonic() - started,
        }
        self.history.append(row)
        if self.best_row is row:
            # clone: state_dict() hands out the very tensors that the next epoch changes
            self.best = {name: value.cpu().clone() for name, value in self.model.state_dict().items()}
        return row

    def _pass_over(self, epoch: Epoch, title: str) -> dict[str, float]:
        self.model.train()
        loss_sum = correct = seen = 0.0
        with tqdm(epoch.loader(self.recipe.num_workers), desc=title, disable=None, leave=False) as batches:
            for images, labels in batches:
                images = images.to(self.device, memory_format=torch.channels_last)
                labels = labels.to(self.device)
                logits = self.model(images)
                loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
                if not loss.isfinite():
                    raise RecipeError(f"The loss became {loss.item()} in {title}; try a lower optimizer.lr.")
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.schedule.step()
                seen += len(labels)
                loss_sum += loss.item() * len(labels)
                correct += (logits.argmax(dim=1) == labels).sum().item()
                batches.set_postfix_str(f"loss {loss_sum / seen:.3f}, accuracy {correct / seen:.1%}", refresh=False)
        return {"loss": loss_sum / seen, "accuracy": correct / seen}

    def state_dict(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(),
            "fingerprint": self.fingerprint,
            "commit": self.commit,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state. Raises RecipeError where it belongs to another recipe or other images."""
        if state["recipe"] != self.recipe.model_dump() or state["fingerprint"] != self.fingerprint:
            raise RecipeError("The run to resume had another recipe or other images; choose another --output.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.best, self.history, self.commit = state["best"], state["history"], state["commit"]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    settings = recipe.optimizer
    if settings.name == "adam":
        return torch.optim.Adam(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        nesterov=True,
    )


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """Make the schedule of the learning rate, stepped once a batch."""
    settings = recipe.schedule
    if settings.name == "step":
        return StepLR(optimizer, step_size=settings.step_size * steps_per_epoch, gamma=settings.gamma)
    return OneCycleLR(
        optimizer,
        max_lr=recipe.optimizer.lr,
        total_steps=recipe.epochs * steps_per_epoch + 1,  # it also steps behind the last batch
        pct_start=settings.warmup,
        cycle_momentum=False,
    )


def train(recipe: Recipe, data: Path | None, output: Path, resume: bool) -> Path:
    """Train, write everything into `output` and return the checkpoint's path.

    The test images are read once, when all else is settled.
    """
    last = output / "last.pth"
    if last.exists() and not resume:
        raise RecipeError(f"{output} already holds a run; go on with --resume, or choose another --output.")
    if data is not None and class_names(data, "train") != class_names(data, "test"):
        raise DataError(f"{data}/train and {data}/test have different classes; give both the same folders.")
    training, validation = stratified_split(load_images(data, "train"), recipe.validation_fraction, recipe.seed)
    run = Run(recipe, training, validation)
    if last.exists():
        run.load_state_dict(load(last))
    _say(f"{recipe.name}: {len(training.labels):,} images to train on, {len(validation.labels):,} for validation")
    while not run.finished:
        _say(_line(run, run.train_epoch()))
        write_history(run.history, output)
        save(run.state_dict(), last)

    run.model.load_state_dict(run.best)
    metrics: dict[str, Any] = {
        "epochs": len(run.history),
        "best_epoch": run.best_row["epoch"],
        "seconds_per_epoch": sum(row["seconds"] for row in run.history) / len(run.history),
        "validation": evaluate(run.model, validation, run.device),
        "test": evaluate(run.model, load_images(data, "test"), run.device),
    }
    checkpoint = output / f"{recipe.name}.pth"
    card = describe(recipe, training.classes, metrics, "CIFAR-10" if data is None else data.name, run.commit)
    save_checkpoint(Checkpoint(run.best, card), checkpoint)
    _say(
        f"best epoch {metrics['best_epoch']} of {metrics['epochs']}: validation accuracy "
        f"{metrics['validation']['accuracy']:.2%}, test accuracy {metrics['test']['accuracy']:.2%}; wrote {checkpoint}"
    )
    return checkpoint


def _line(run: Run, row: Row) -> str:
    left = row["seconds"] * (run.recipe.epochs - row["epoch"]) / 60
    return (
        f"epoch {row['epoch']}/{run.recipe.epochs}: "
        f"train loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.2%}; "
        f"validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.2%}; "
        f"{row['seconds']:.1f} s, at most {left:.0f} min left"
    )


def _say(line: str) -> None:
    tqdm.write(line)
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("training/recipes/cnn.yaml"))
    parser.add_argument("--data", type=Path, help="folder with train/<class>/* and test/<class>/*; CIFAR-10 without it")
    parser.add_argument("--output", type=Path, help="folder for what is written; runs/<recipe> without it")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    arguments = parser.parse_args()
    output = arguments.output or Path("runs") / arguments.recipe.stem
    try:
        train(load_recipe(arguments.recipe), arguments.data, output, arguments.resume)
    except (RecipeError, DataError, CheckpointError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("\nInterrupted; the same command with --resume goes on.") from None


if __name__ == "__main__":
    main()

"""Train a network as a recipe says.

    python -m training.train --recipe training/recipes/cnn.yaml

writes into the output folder (runs/<recipe> unless --output says otherwise) the checkpoint <name>.pth,
training_history.pth, .csv and .png, and last.pth, from which --resume goes on.
"""

import argparse
import math
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from handler.transforms import normalise
from training.checkpoint import Checkpoint, CheckpointError, current_commit, describe, load, save, save_checkpoint
from training.config import Recipe, RecipeError, load_recipe
from training.data import DataError, Epoch, Images, class_names, load_images, seeded, stratified_split
from training.evaluate import evaluate
from training.history import Row, write_history
from training.models import ARCHITECTURES
from training.optimizers import make_optimizer, make_schedule

START: dict[str, Any] = {
    "batches": 0,
    "seen": 0,
    "loss": 0.0,
    "correct": 0,
    "seconds": 0.0,
}  # of the progress of an epoch
DROPOUT = 1  # its key, beside that of the augmentation


class Run:
    """All that changes while a network is trained, and so all that resuming needs.

    What is random in a batch depends on the seed, the epoch and the batch alone, so no random state has to be kept.
    """

    def __init__(self, recipe: Recipe, training: Images, validation: Images) -> None:
        self.recipe, self.training, self.validation = recipe, training, validation
        self.device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        torch.manual_seed(recipe.seed)
        model = ARCHITECTURES[recipe.architecture](len(training.classes), recipe.dropout)
        model.initialise(normalise(training.pixels[:: max(1, len(training.pixels) // 5000)]))
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.average = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True
        )  # with a decay of 0, the model itself
        self.optimizer = make_optimizer(self.model, recipe.optimizer)
        self.schedule = make_schedule(self.optimizer, recipe.schedule, len(Epoch(training, recipe, 1)), recipe.epochs)
        self.progress = dict(START)
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

    def train_epoch(self, save: Callable[[], None] = lambda: None) -> Row:
        """Train to the end of the epoch, measure on the validation images, and return the epoch's row of the history.

        Calls `save` after every batch; the state is whole there.
        """
        number = len(self.history) + 1
        lr = self.optimizer.param_groups[0]["lr"]
        self._train_batches(number, save)
        measured = evaluate(self.average.module, self.validation, self.device)
        row = {
            "epoch": number,
            "lr": lr,
            "train_loss": self.progress["loss"] / self.progress["seen"],
            "train_accuracy": self.progress["correct"] / self.progress["seen"],
            "validation_loss": measured["loss"],
            "validation_accuracy": measured["accuracy"],
            "seconds": self.progress["seconds"],
        }
        self.history.append(row)
        self.progress = dict(START)
        if self.best_row is row:
            # clone: state_dict() hands out the very tensors that the next epoch changes
            self.best = {name: value.cpu().clone() for name, value in self.average.module.state_dict().items()}
        return row

    def _train_batches(self, number: int, save: Callable[[], None]) -> None:
        epoch, progress = Epoch(self.training, self.recipe, number), self.progress
        batches = epoch.loader(self.recipe.num_workers, progress["batches"])
        title = f"epoch {number}/{self.recipe.epochs}"
        started = time.monotonic() - progress["seconds"]
        self.model.train()
        with tqdm(
            batches, desc=title, initial=progress["batches"], total=len(epoch), disable=None, leave=False
        ) as shown:
            for images, labels in shown:
                torch.manual_seed(seeded(self.recipe.seed, number, progress["batches"], DROPOUT).initial_seed())
                loss, correct = self._train_batch(images, labels)
                if not math.isfinite(loss):
                    raise RecipeError(f"The loss became {loss} in {title}; try a lower optimizer.lr.")
                progress["batches"] += 1
                progress["seen"] += len(labels)
                progress["loss"] += loss * len(labels)
                progress["correct"] += correct
                progress["seconds"] = time.monotonic() - started
                means = (progress["loss"] / progress["seen"], progress["correct"] / progress["seen"])
                shown.set_postfix_str("loss {:.3f}, accuracy {:.1%}".format(*means), refresh=False)
                save()

    def _train_batch(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        """Take one step; returns the batch's mean loss and how many of its images were classified correctly."""
        images = images.to(self.device, memory_format=torch.channels_last)
        labels = labels.to(self.device)
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.model)
        return loss.item(), int((logits.argmax(dim=1) == labels).sum())

    def state_dict(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(),
            "fingerprint": self.fingerprint,
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
        """Go on from a saved state. Raises RecipeError where it belongs to another recipe or other images."""
        if state["recipe"] != self.recipe.model_dump() or state["fingerprint"] != self.fingerprint:
            raise RecipeError("The run to resume had another recipe or other images; choose another --output.")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress, self.best, self.history = state["progress"], state["best"], state["history"]
        self.commit = state["commit"]


class Saver:
    """Writes the state of a run to a file, at most every so many seconds."""

    def __init__(self, run: Run, path: Path, seconds: float) -> None:
        self.run, self.path, self.seconds = run, path, seconds
        self.saved = time.monotonic()

    def save_when_due(self) -> None:
        if time.monotonic() - self.saved >= self.seconds:
            self.save()

    def save(self) -> None:
        save(self.run.state_dict(), self.path)
        self.saved = time.monotonic()


def train(recipe: Recipe, data: Path | None, output: Path, resume: bool, save_seconds: float = 60) -> Path:
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
    saver = Saver(run, last, save_seconds)
    _say(f"{recipe.name}: {len(training.labels):,} images to train on, {len(validation.labels):,} for validation")
    while not run.finished:
        _say(_line(run, run.train_epoch(saver.save_when_due)))
        write_history(run.history, output)
        saver.save()

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
    parser.add_argument(
        "--save-seconds", type=float, default=60, help="save last.pth this often; every 60 s without it"
    )
    arguments = parser.parse_args()
    output = arguments.output or Path("runs") / arguments.recipe.stem
    try:
        train(load_recipe(arguments.recipe), arguments.data, output, arguments.resume, arguments.save_seconds)
    except (RecipeError, DataError, CheckpointError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("\nInterrupted; the same command with --resume goes on.") from None


if __name__ == "__main__":
    main()

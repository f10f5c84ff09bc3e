"""Train a network as a recipe says.

    classifier train my-photos
    classifier train my-photos --recipe fine_tune --output runs/mine
    classifier train --recipe cnn --set optimizer.lr=0.01 --set epochs=20

writes into the output folder (runs/<recipe> unless --output says otherwise) the checkpoint <name>.pth,
training_history.pth, .csv and .png, and last.pth, from which --resume continues. You may train in several processes;
only the first one writes files:

    torchrun --nproc-per-node 2 -m training.train --recipe cnn
"""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import click
from filelock import FileLock, Timeout
from tqdm import tqdm

from training import commands, distributed
from training.archive import next_version, version_of
from training.checkpoint import LAST, Checkpoint, load, save, save_checkpoint
from training.class_folders import has_splits
from training.config import Recipe, RecipeError, load_recipe, with_settings
from training.data import Epoch, load_training_images, stratified_split
from training.distillation import with_teacher
from training.files import check_writable
from training.finish import finish
from training.history import Row, write_history
from training.logs import MLflow, Open, TensorBoard
from training.outcome import Stopped, say
from training.project import CHECKPOINTS, MAR, RECIPES
from training.run import Run

PHOTOS, CIFAR10 = "photos", "whitened_cnn"  # the recipes by default
SAVE_SECONDS = 60.0
MIN_STEPS = 40  # fewer in a run teach a new network little


def train(
    recipe: Recipe,
    data: Path | None,
    output: Path,
    resume: bool,
    save_seconds: float = SAVE_SECONDS,
    logs: Sequence[Open] = (),
) -> Path:
    """Train, write everything into `output`, and into `logs`; returns the checkpoint's path.

    Raises RecipeError, DataError or CheckpointError before the first step if recipe, images or a checkpoint are wrong.
    """
    last, checkpoint = output / LAST, output / f"{recipe.name}.pth"
    first = distributed.rank() == 0  # the process that writes files

    # Prepare. This reads the test images too, because a bad one must not end the run after hours of training.
    if last.exists() and not resume:
        raise RecipeError(f"{output} already holds a run; continue it with --resume, or choose another --output.")
    if data and data.is_dir() and data.resolve() in output.resolve().parents and not has_splits(data):
        raise RecipeError(f"{output} lies in {data}, whose folders are classes; name another --output.")
    if first:
        check_writable(output)
    images = with_teacher(load_training_images(data, [recipe.preprocessing]), recipe, data)
    training, validation = stratified_split(images, recipe.validation_fraction, recipe.split_seed)
    run = Run(recipe, training, validation)
    if not distributed.equal(run.subject):
        raise RecipeError("The processes have different recipes, images or code; give all hosts the same.")

    with _alone_in(output):
        # Resume. Every process continues from the state that the first one reads.
        if state := distributed.agreed(load(last) if last.exists() else None):
            run.load_state_dict(state)

        opened = [open_log(recipe, output) for open_log in logs] if first else []

        # Loop. The history is written before the state, so that no resumed run lacks a row of it.
        _print_size(run)
        saver = Saver(run, last, save_seconds)
        while not run.finished:
            row = run.train_epoch(saver.save_when_due)
            if first:
                write_history(run.history, output)
            saver.save()
            _print(_line(run, row))
            for log in opened:
                _try(partial(log.add, run.history))

        # Conclude.
        if first:
            made = conclude(run, data)
            save_checkpoint(made, checkpoint)
            for log in opened:
                _try(partial(log.end, checkpoint, made))
    return checkpoint


@contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """Keep other runs out of a folder until the block ends. Raises RecipeError in all processes if one is in it."""
    lock = FileLock(output / ".lock")
    if distributed.rank() == 0:
        output.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout):
            lock.acquire(timeout=0)
    if not distributed.agreed(lock.is_locked):
        raise RecipeError(f"Another process trains into {output}; wait for its end, or choose another --output.")
    try:
        yield
    finally:
        lock.release()


def _try(log: Callable[[], None]) -> None:
    try:
        log()
    except Exception as error:  # whatever a server or a full disk raises: training is worth more than its log
        say(f"An epoch or the checkpoint could not be logged as you asked, and training goes on. {error}")


class Saver:
    """Writes the state of a run to a file, at most once every `seconds`."""

    def __init__(self, run: Run, path: Path, seconds: float) -> None:
        self.run, self.path, self.seconds = run, path, seconds
        self.saved = time.monotonic()

    def save_when_due(self) -> None:
        if time.monotonic() - self.saved >= self.seconds:
            self.save()

    def save(self) -> None:
        if distributed.rank() == 0:
            save(self.run.state_dict(), self.path)
        self.saved = time.monotonic()


def conclude(run: Run, data: Path | None) -> Checkpoint:
    """Make a checkpoint of the best weights of a run, and measure it on the test images, for the first time."""
    course = {
        "epochs": len(run.history),
        "best_epoch": run.best_row["epoch"],
        "seconds_per_epoch": sum(row["seconds"] for row in run.history) / len(run.history),
    }
    checkpoint = finish(
        run.best, run.recipe.name, run.recipe.plain(), run.training, run.validation, data, course, commit=run.commit
    )
    metrics = checkpoint.card["metrics"]
    _print(
        f"best epoch by validation {run.recipe.best_by}: {metrics['best_epoch']} of {metrics['epochs']}; validation "
        f"accuracy {metrics['validation']['accuracy']:.2%}, test accuracy {metrics['test']['accuracy']:.2%}"
    )
    return checkpoint


def next_commands(checkpoint: Path, data: Path) -> str:
    """Return the commands that show the mistakes on your photos, pack the checkpoint, and serve it."""
    version = next_version(version_of(archive) or "" for archive in CHECKPOINTS.glob(f"*{MAR}"))
    name = checkpoint.absolute().parent.name  # every run has another folder, but few have another name
    if (CHECKPOINTS / f"{name}{MAR}").exists():  # and may be served
        name = f"{name}-{version}"
    store = CHECKPOINTS.relative_to(Path.cwd()) if CHECKPOINTS.is_relative_to(Path.cwd()) else CHECKPOINTS
    sample = data / "test" if data.is_dir() and has_splits(data) else data
    commands = [
        ["evaluate", checkpoint, "--data", data, "--output", checkpoint.parent / "report"],
        ["archive", checkpoint, "--version", version, "--output", store / f"{name}{MAR}"],
        ["models", "roll", f"{name}{MAR}", *(["--sample", sample] if data.is_dir() else [])],
    ]
    lines = [shlex.join(["classifier", *map(str, words)]) for words in commands]
    first, last = "Look at its mistakes, pack it, and serve it:", "If other classes are served now, add --new-classes."
    return "\n".join([first, *(f"    {line}" for line in lines), last])


def _print_size(run: Run) -> None:
    recipe, training, validation = run.recipe, run.training, run.validation
    _print(f"{recipe.name}: {len(training.labels):,} images to train on, {len(validation.labels):,} for validation")
    steps = recipe.epochs * len(Epoch(training, recipe, 1))
    if steps < MIN_STEPS and not recipe.initial:  # a trained network has less to learn
        _print(f"These are {steps} steps in all, which is few; use a smaller batch_size or more epochs.")


def _line(run: Run, row: Row) -> str:
    """Return an epoch's line: its row, and the minutes left if all epochs are trained."""
    pixels = [run.recipe.image_size(number) ** 2 for number in range(int(row["epoch"]), run.recipe.epochs + 1)]
    left = row["seconds"] * sum(pixels[1:]) / pixels[0] / 60
    return (
        f"epoch {row['epoch']}/{run.recipe.epochs}: "
        f"train loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.2%}; "
        f"validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.2%}; "
        f"{row['seconds']:.1f} s, at most {left:.0f} min left"
    )


def _print(line: str) -> None:
    """Print a line above the progress bar, in the first process only."""
    if distributed.rank() == 0:
        tqdm.write(line)
        sys.stdout.flush()


@commands.command(
    "train",
    help=__doc__,
    interrupted="\nInterrupted; the same command with --resume (RESUME=1 with make) continues from the last save.",
)
@click.argument("folder", type=commands.PATH, required=False, help="the same as --data")
@commands.recipe(f"{PHOTOS} for your own images, {CIFAR10} for CIFAR-10", None)
@commands.settings
@commands.data(commands.LAYOUTS)
@commands.output("folder for all files of the run (default: runs/<recipe>)", "FOLDER")
@click.option("--resume", is_flag=True, help="continue the run in the output folder")
@click.option(
    "--save-seconds",
    type=float,
    default=SAVE_SECONDS,
    metavar="S",
    help=f"time between saves of last.pth (default: {SAVE_SECONDS:g})",
)
@click.option("--tensorboard", is_flag=True, help="log for TensorBoard as well")
@click.option("--mlflow", is_flag=True, help="log for MLflow as well")
def main(
    folder: Path | None,
    recipe: Path | None,
    settings: tuple[tuple[str, str], ...],
    data: Path | None,
    output: Path | None,
    resume: bool,
    save_seconds: float,
    tensorboard: bool,
    mlflow: bool,
) -> None:
    if folder and data:
        raise Stopped(f"Name one folder of images, {folder} or --data {data}.")
    images = folder or data
    chosen = recipe or RECIPES / f"{PHOTOS if images else CIFAR10}.yaml"
    run = output or Path("runs") / chosen.stem
    distributed.start()
    try:
        if resume and not (run / LAST).exists():
            _print(f"{run} holds no run to resume, so training starts from the beginning.")
        checkpoint = train(
            with_settings(load_recipe(chosen), settings),
            images,
            run,
            resume,
            save_seconds,
            [log for log, wanted in ((TensorBoard, tensorboard), (MLflow, mlflow)) if wanted],
        )
        _print(f"wrote {checkpoint}")
        if images:
            _print(next_commands(checkpoint, images))
    finally:
        distributed.stop()


if __name__ == "__main__":
    main()

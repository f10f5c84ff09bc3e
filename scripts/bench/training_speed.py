"""Measure how much faster each measure makes the training of a recipe, in turns, each in its own process.

    classifier bench training --recipe whitened_cnn

prints milliseconds an image, seconds an epoch of 47,500 images, and the ratio to the row above.
"""

import json
import os
import subprocess
import sys
import time
from ctypes.util import find_library
from pathlib import Path
from statistics import median

import click
import torch

from training import commands
from training.config import Recipe, SmallerImages, load_recipe
from training.data import Epoch, Images
from training.inputs import Inputs
from training.outcome import Stopped
from training.run import Run

EPOCH = 47_500  # images: CIFAR-10's without a twentieth for validation
BATCHES = 4  # timed, after one that is not
STEPS = (
    "as PyTorch comes",
    "channels last",
    "jemalloc",
    "jemalloc that keeps its memory, in large pages",
    "images of 24 pixels",
    "images of 16 pixels",
)
KEEP = "thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1"  # as the Makefile has it


def measure(recipe: Recipe, step: int) -> float:
    """Return milliseconds an image with all measures up to `step`, of those that are of this process."""
    smaller = [SmallerImages(epochs=1, size=(24, 16)[step - 4])] if step >= 4 else []
    recipe = recipe.model_copy(update={"smaller_images": smaller})
    pixels = torch.randint(0, 256, (recipe.batch_size, 3, recipe.input.size, recipe.input.size), dtype=torch.uint8)
    inputs = Inputs([recipe.preprocessing], [pixels])
    images = Images(inputs, torch.arange(recipe.batch_size) % 10, [str(label) for label in range(10)])
    run = Run(recipe, images, images, torch.channels_last if step >= 1 else torch.contiguous_format)
    epoch = Epoch(images, recipe, 1)
    started = 0.0
    for batch in range(BATCHES + 1):
        if batch == 1:
            started = time.perf_counter()
        run.train_batch(*epoch[0])
    return (time.perf_counter() - started) / BATCHES / recipe.batch_size * 1000


def in_own_process(recipe: Path, step: int) -> float:
    environment = dict(os.environ)
    for name in ("LD_PRELOAD", "MALLOC_CONF"):
        environment.pop(name, None)
    if step >= 2:
        environment["LD_PRELOAD"] = find_library("jemalloc") or ""
    if step >= 3:
        environment["MALLOC_CONF"] = KEEP
    command = [sys.executable, "-m", "scripts.bench.training_speed", "--recipe", str(recipe), "--step", str(step)]
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


@commands.command("training", help=__doc__)
@commands.recipe("whitened_cnn", "whitened_cnn")
@click.option("--rounds", type=commands.COUNT, default=3, metavar="N", help="whose median is printed (default: 3)")
@click.option("--step", type=int, hidden=True)
def main(recipe: Path, rounds: int, step: int | None) -> None:
    loaded = load_recipe(recipe)
    if step is not None:
        print(measure(loaded, step))
        return
    if not find_library("jemalloc"):
        raise Stopped("jemalloc is not installed; on Debian, apt-get install libjemalloc2.")
    steps = range(4 if loaded.architecture == "cnn" else len(STEPS))  # cnn takes one size only
    try:
        measured = [[in_own_process(recipe, step) for step in steps] for _ in range(rounds)]
    except subprocess.CalledProcessError as error:  # whose process has printed why
        raise SystemExit(error.returncode) from None
    before = None
    for name, times in zip(STEPS, zip(*measured, strict=True), strict=False):
        now = median(times)
        ratio = f"{before / now:.2f} times the speed" if before else ""
        print(f"{name:46} {now:7.2f} ms an image {now * EPOCH / 1000:7.0f} s an epoch  {ratio}")
        before = now


if __name__ == "__main__":
    main()

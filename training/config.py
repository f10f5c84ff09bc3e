"""The shape of a recipe: everything that decides a training run, read from YAML and checked once."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from handler.transforms import INPUT_SIZE
from training.models import ARCHITECTURES
from training.outcome import Stopped

RUN_FILES = ("last", "training_history")  # .pth, beside the checkpoint; some file systems ignore case


class RecipeError(Stopped, ValueError):
    """A recipe that cannot be followed; the message says which field and why."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Augment(_Section):
    """How far each random change goes; 0 turns it off.

    `flip` alternating mirrors an image in every other epoch, so that two epochs show both sides of each (Jordan 2024).
    `policy` is torchvision's of that name, applied before everything else.
    """

    policy: Literal["none", "autoaugment", "randaugment", "trivialaugment"] = "none"
    crop_padding: int = Field(0, ge=0)  # pixels
    border: Literal["zeros", "reflection"] = "zeros"  # what a shift or turn brings in
    flip: Literal["never", "random", "alternating"] = "never"
    rotation: float = Field(0.0, ge=0, le=180)  # degrees
    brightness: float = Field(0.0, ge=0, lt=1)
    contrast: float = Field(0.0, ge=0, lt=1)
    saturation: float = Field(0.0, ge=0, lt=1)
    hue: float = Field(0.0, ge=0, le=0.5)  # turns
    noise: float = Field(0.0, ge=0)  # deviation, after normalising
    erasing: float = Field(0.0, ge=0, le=1)  # probability


class Optimizer(_Section):
    """With muon, `lr` is that of filters and hidden matrices, and `other_lr` that of head, biases and norms."""

    name: Literal["adam", "sgd", "muon"]
    lr: float = Field(gt=0)
    other_lr: float = Field(0.05, gt=0)  # muon only
    weight_decay: float = Field(0.0, ge=0)  # adam and sgd
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd and muon, Nesterov


class Schedule(_Section):
    name: Literal["step", "one_cycle", "triangular"]
    step_size: int = Field(15, gt=0)  # epochs; step only
    gamma: float = Field(0.5, gt=0, le=1)  # step only
    warmup: float = Field(0.2, ge=0, lt=1)  # share of the run; one_cycle and triangular


class SmallerImages(_Section):
    """The first `epochs` see images shrunk to `size` pixels, which costs (size / INPUT_SIZE)² of the time."""

    epochs: int = Field(gt=0)
    size: int = Field(ge=12, lt=INPUT_SIZE)


class Distillation(_Section):
    """Learn from the soft answers of a better network (Hinton et al. 2015).

    With `view` student it sees every image as the student does. With original it answers once, before the training, to
    every image and its mirror image as they are, and costs nothing later.
    """

    teacher: str  # path of its checkpoint
    temperature: float = Field(4.0, gt=0)
    weight: float = Field(0.9, gt=0, le=1)  # of the teacher's answers; the rest is for the labels
    view: Literal["student", "original"] = "student"


class Recipe(_Section):
    """One training run as data; `name` names the checkpoint."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    architecture: Literal[tuple(ARCHITECTURES)]  # type: ignore[valid-type]
    initial: str | None = None  # path of a checkpoint to begin from; for other classes its head begins anew
    dropout: float = Field(0.0, ge=0, lt=1)
    augment: Augment = Augment()
    optimizer: Optimizer
    schedule: Schedule
    smaller_images: list[SmallerImages] = []
    distillation: Distillation | None = None
    ema_decay: float = Field(0.0, ge=0, lt=1)  # a step, of the average of the weights; 0 turns it off
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    batch_size: int = Field(64, gt=1)
    epochs: int = Field(100, gt=0)
    best_by: Literal["loss", "accuracy"] = "loss"  # of the validation images; says which epoch's weights are kept
    patience: int = Field(10, gt=0)  # epochs without a better one
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    num_workers: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)
    split_seed: int = Field(42, ge=0)  # of the validation images, which runs to be compared or joined must share

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.name.lower() in RUN_FILES:
            raise ValueError(f"a run writes a file {self.name.lower()}.pth besides its checkpoint; choose another name")
        if self.smaller_images and self.architecture == "cnn":
            raise ValueError("cnn takes images of one size only; leave out smaller_images")
        if sum(stage.epochs for stage in self.smaller_images) >= self.epochs:
            raise ValueError("smaller_images leaves no epoch for images of full size")
        return self

    def image_size(self, epoch: int) -> int:
        """Return the side, in pixels, of the images of an epoch; epochs count from 1."""
        for stage in self.smaller_images:
            if epoch <= stage.epochs:
                return stage.size
            epoch -= stage.epochs
        return INPUT_SIZE


def load_recipe(path: Path, settings: Iterable[tuple[str, str]] = ()) -> Recipe:
    """Read a recipe from a YAML file, with other values, as YAML, in the dotted fields that `settings` names.

    Raises RecipeError with a sentence for each field that is wrong.
    """
    try:
        values = yaml.safe_load(path.read_text())
        for field, text in settings if isinstance(values, dict) else ():
            _set(values, field, text)
        return make_recipe(values, str(path))
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe {path}; those that come along are in training/recipes.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None


def make_recipe(values: Any, name: str) -> Recipe:
    """Make a recipe of plain values. Raises RecipeError, which calls it `name`, as load_recipe does."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{name} cannot be followed. " + "; ".join(problems)) from None


def _set(values: dict[str, Any], field: str, text: str) -> None:
    """Put a value, as YAML, into a field of a recipe's plain values. Raises RecipeError if no recipe has the field."""
    check_field(field)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"--set {field}: {text!r} is not YAML; quote the value, or correct it.") from None
    *sections, name = field.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[name] = value


def check_field(field: str) -> None:
    """Raise RecipeError, with the fields that there are, if a recipe has no field of this dotted name."""
    known, place = Recipe.model_fields, "it"
    for name in field.split("."):
        if name not in known:
            fields = f"the fields {', '.join(known)}" if known else "no fields"
            raise RecipeError(f"A recipe has no field {field!r}; {place} has {fields}.")
        annotation = known[name].annotation
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        known = next((kind.model_fields for kind in kinds if issubclass(kind, _Section)), {})
        place = repr(name)

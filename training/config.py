"""The fields of a recipe: everything that decides a training run, read from YAML and checked once."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from handler.transforms import Preprocessing
from training import pretrained
from training.models import ARCHITECTURES, CNN_SIZE
from training.outcome import Stopped

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

RUN_FILES = ("last", "training_history")  # .pth, beside the checkpoint; compared in lower case


class RecipeError(Stopped, ValueError):
    """A recipe cannot be followed; the message says which field and why."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _known(architecture: str) -> str:
    if pretrained.is_timm(architecture):
        pretrained.check_name(architecture)
    elif architecture not in ARCHITECTURES:
        names = ", ".join(map(repr, ARCHITECTURES))
        raise ValueError(f"architecture must be {names}, or '{pretrained.PREFIX}' and the name of a model of timm")
    return architecture


Architecture = Annotated[str, AfterValidator(_known)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Input(_Section):
    """The network's view of an image; see handler.transforms.Preprocessing.

    For an architecture of timm the defaults are those that its weights were trained with, and `fit: crop`.
    """

    size: int = Field(32, ge=16, le=1024)  # pixels, of each side
    fit: Literal["squeeze", "crop", "pad"] = "squeeze"
    mean: tuple[Share, Share, Share] = (0.5, 0.5, 0.5)  # of red, green and blue, from 0 to 1
    std: tuple[Positive, Positive, Positive] = (0.5, 0.5, 0.5)


class ResizedCrop(_Section):
    """Show a random part of the image, resized to input.size (Szegedy et al. 2015)."""

    scale: tuple[Share, Share] = (0.35, 1.0)  # least and largest share of the area
    ratio: tuple[Positive, Positive] = (0.75, 1.333)  # least and largest width divided by height

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, (least, largest) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < least <= largest:
                raise ValueError(f"augment.resized_crop.{name} needs two numbers above 0, the smaller one first")
        return self


class Augment(_Section):
    """How far each random change goes; 0 turns it off.

    With `flip: alternating`, every other epoch shows the mirror image (Jordan 2024).
    `policy` names an automatic augmentation of torchvision, which comes before all other changes.
    `mixup` blends every image with another one of its batch (Zhang et al. 2018). `cutmix` pastes a square of it instead
    (Yun et al. 2019). The loss counts both labels by their shares. If both are on, each image gets one of the two.
    """

    policy: Literal["none", "autoaugment", "randaugment", "trivialaugment"] = "none"
    operations: int = Field(2, ge=1, le=14)  # on each image; randaugment only
    magnitude: int = Field(9, ge=0, le=30)  # of each operation; randaugment only
    resized_crop: ResizedCrop | None = None
    crop_padding: int = Field(0, ge=0)  # pixels that an image may move, in each direction
    border: Literal["zeros", "reflection"] = "zeros"  # fills the pixels that a shift or rotation uncovers
    flip: Literal["never", "random", "alternating"] = "never"
    rotation: float = Field(0.0, ge=0, le=180)  # degrees
    brightness: float = Field(0.0, ge=0, lt=1)
    contrast: float = Field(0.0, ge=0, lt=1)
    saturation: float = Field(0.0, ge=0, lt=1)
    hue: float = Field(0.0, ge=0, le=0.5)  # share of a full turn of the colour circle
    noise: float = Field(0.0, ge=0)  # standard deviation, added after normalisation
    erasing: float = Field(0.0, ge=0, le=1)  # probability that a rectangle of the image is erased
    mixup: float = Field(0.0, ge=0)  # a of the distribution Beta(a, a) of the shares; 1 makes all equally likely
    cutmix: float = Field(0.0, ge=0)  # the same

    @property
    def moves(self) -> bool:
        """Whether an image may move so that pixels outside it show."""
        return bool(self.crop_padding or self.rotation)

    @property
    def mixes(self) -> bool:
        return bool(self.mixup or self.cutmix)


class Optimizer(_Section):
    """With muon, `lr` is for filters and hidden matrices; `other_lr` is for the head, biases and norms.

    With `layer_decay` the head learns at `lr`, and every layer at that share of the rate of the one above it.
    """

    name: Literal["adam", "adamw", "sgd", "muon"]
    lr: float = Field(gt=0)
    other_lr: float = Field(0.05, gt=0)  # muon only
    layer_decay: float = Field(1.0, gt=0, le=1)  # not with muon
    weight_decay: float = Field(0.0, ge=0)  # not with muon; adamw spares biases and norms
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd and muon; both use Nesterov's


class Schedule(_Section):
    name: Literal["step", "one_cycle", "triangular"]
    step_size: int = Field(15, gt=0)  # epochs; step only
    gamma: float = Field(0.5, gt=0, le=1)  # step only
    warmup: float = Field(0.2, ge=0, lt=1)  # share of the run; one_cycle and triangular


class SmallerImages(_Section):
    """Shrink the images of the first `epochs` to `size` pixels; that takes (size / input.size)² of the time."""

    epochs: int = Field(gt=0)
    size: int = Field(ge=12)  # less than input.size


class HeadFirst(_Section):
    """Fit the head first, to the features of the initial network for the images and their mirror images.

    The fit starts from the classes that the initial network saw in the images; see training.head.
    """

    weight_decay: float = Field(0.001, gt=0)  # holds the head near its start, for features of unit variance


class Distillation(_Section):
    """Learn from the probabilities of a better network, the teacher (Hinton et al. 2015).

    With `view: student` the teacher predicts every image as the student sees it. With `view: original` it predicts
    every unchanged image and its mirror image once, before training starts.
    """

    teacher: str  # path of its checkpoint
    temperature: float = Field(4.0, gt=0)
    weight: float = Field(0.9, gt=0, le=1)  # of the teacher's probabilities; the labels get the rest
    view: Literal["student", "original"] = "student"


class Recipe(_Section):
    """One training run as data. The checkpoint gets its `name`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    architecture: Architecture  # one of training.models, or timm/<name>
    # The weights to start from; for other classes the head starts new. It is the path of a checkpoint or, with an
    # architecture of timm, `imagenet` for its published weights, or a folder with a file of them.
    initial: str | None = None
    input: Input = Input()
    dropout: float = Field(0.0, ge=0, lt=1)
    augment: Augment = Augment()
    optimizer: Optimizer
    schedule: Schedule
    smaller_images: list[SmallerImages] = []
    head_first: HeadFirst | None = None
    freeze_norms: bool = False  # keep the statistics of the initial network's batch norms
    distillation: Distillation | None = None
    ema_decay: float = Field(0.0, ge=0, lt=1)  # per step, of the moving average of the weights; 0 turns it off
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Share = 0.0  # in the loss: 0 counts every image the same, 1 every class
    batch_size: int = Field(64, gt=1)
    epochs: int = Field(100, gt=0)
    best_by: Literal["loss", "accuracy"] = "loss"  # on the validation images; the best epoch's weights are kept
    patience: int = Field(10, gt=0)  # epochs without improvement before training stops
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    num_workers: int = Field(0, ge=0)
    # bfloat16 on a GPU, where a long run is compiled as well. `anywhere` means on a CPU that has it too: that pays for
    # plain convolutions, but not for those by channel.
    mixed_precision: Literal[False, True, "anywhere"] = False
    seed: int = Field(0, ge=0)
    split_seed: int = Field(42, ge=0)  # picks the validation images; compare or join only runs with the same one

    @model_validator(mode="wrap")
    @classmethod
    def _with_defaults_of_timm(cls, values: Any, make: ModelWrapValidatorHandler[Self]) -> Self:
        """Fill in the input fields that the recipe leaves out; they do not count as set."""
        given = values.get("input", {}) if isinstance(values, dict) else None
        architecture = values.get("architecture") if isinstance(values, dict) else None
        if not isinstance(given, dict) or not isinstance(architecture, str) or not pretrained.is_timm(architecture):
            return make(values)
        _known(architecture)
        recipe = make({**values, "input": pretrained.default_input(architecture) | given})
        recipe.input.model_fields_set.intersection_update(given)
        return recipe

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.name.lower() in RUN_FILES:
            raise ValueError(f"a run writes a file {self.name.lower()}.pth besides its checkpoint; choose another name")
        if self.architecture == "cnn" and self.input.size != CNN_SIZE:
            raise ValueError(f"cnn takes images of {CNN_SIZE} pixels only; set input.size to that, or name another")
        if self.initial == pretrained.IMAGENET and not pretrained.is_timm(self.architecture):
            raise ValueError(f"initial: imagenet needs an architecture {pretrained.PREFIX}<name>; name one")
        if self.initial is None and (self.head_first or self.freeze_norms):
            raise ValueError("head_first and freeze_norms need a trained network; set initial, or remove them")
        if any(stage.size >= self.input.size for stage in self.smaller_images):
            raise ValueError(f"smaller_images are not smaller than input.size, {self.input.size}; make them so")
        if self.smaller_images and (self.architecture == "cnn" or pretrained.takes_one_size(self.architecture)):
            raise ValueError(f"{self.architecture} takes images of one size only; remove smaller_images")
        if self.augment.crop_padding >= self.input.size:
            raise ValueError(f"augment.crop_padding moves images out of sight; make it less than {self.input.size}")
        if self.augment.mixes and self.distillation and self.distillation.view == "original":
            raise ValueError("a teacher cannot see mixed images with distillation.view original; set it to student")
        if sum(stage.epochs for stage in self.smaller_images) >= self.epochs:
            raise ValueError("smaller_images leaves no epoch for images of full size; give it fewer epochs")
        return self

    def image_size(self, epoch: int) -> int:
        """Return the side, in pixels, of the images of an epoch; epochs count from 1."""
        for stage in self.smaller_images:
            if epoch <= stage.epochs:
                return stage.size
            epoch -= stage.epochs
        return self.input.size

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(**self.input.model_dump())

    def without_effect(self) -> dict[str, str]:
        """Return the fields that change nothing in this run, set or not: the dotted name, and the reason."""
        optimizer, schedule = f"with optimizer {self.optimizer.name}", f"with schedule {self.schedule.name}"
        policy = f"with augment.policy {self.augment.policy}"
        taught_only = self.distillation is not None and self.distillation.weight == 1
        rules = (
            ("optimizer.other_lr", self.optimizer.name != "muon", optimizer),
            ("optimizer.layer_decay", self.optimizer.name == "muon", optimizer),
            ("optimizer.weight_decay", self.optimizer.name == "muon", optimizer),
            ("optimizer.momentum", self.optimizer.name in ("adam", "adamw"), optimizer),
            ("schedule.step_size", self.schedule.name != "step", schedule),
            ("schedule.gamma", self.schedule.name != "step", schedule),
            ("schedule.warmup", self.schedule.name == "step", schedule),
            ("augment.operations", self.augment.policy != "randaugment", policy),
            ("augment.magnitude", self.augment.policy != "randaugment", policy),
            ("augment.border", not self.augment.moves, "without augment.crop_padding or augment.rotation"),
            ("label_smoothing", taught_only, "with distillation.weight 1, which ignores the labels"),
            ("class_weights", taught_only, "with distillation.weight 1, which ignores the labels"),
        )
        return {field: reason for field, idle, reason in rules if idle}

    def plain(self) -> dict[str, Any]:
        """Return the recipe as plain values that `make_recipe` accepts: all fields that have an effect."""
        values = self.model_dump(exclude_none=True)
        for field in self.without_effect():
            _remove(values, field)
        return values


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file. Raises RecipeError, which names each wrong field and each without effect."""
    return make_recipe(read_yaml(path, "recipe", "training/recipes"), str(path))


def read_yaml(path: Path, kind: str, folder: str) -> Any:
    """Return the contents of a YAML file, a `kind` of which `folder` has examples. Raises RecipeError."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"There is no {kind} {path}; {folder} has some to start from.") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror}); name a file with a {kind}.") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not text in UTF-8; save it as that, or name a file with a {kind}.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None


def make_recipe(values: Any, name: str) -> Recipe:
    """Make a recipe of plain values. Raises RecipeError as `load_recipe` does, and calls the recipe `name`."""
    return _made(values, f"{name} cannot be followed.")


def stored_recipe(values: Any, name: str) -> Recipe:
    """Make the recipe that a card or a run has kept. Raises RecipeError if fields are wrong, and calls it `name`.

    Fields that are younger get their defaults, and those without effect stay, because earlier versions kept them.
    """
    return _validated(values, f"{name} cannot be followed.")


def _made(values: Any, beginning: str) -> Recipe:
    """Make a recipe of plain values. Raises RecipeError, whose message starts with `beginning`."""
    recipe = _validated(values, beginning)
    _refuse({field: reason for field, reason in recipe.without_effect().items() if _is_set(recipe, field)}, beginning)
    return recipe


def changed(recipe: Recipe, values: dict[str, Any], drop: bool = False) -> Recipe:
    """Return the recipe with other values in some fields, which have dotted names such as `optimizer.lr`.

    Fields of the recipe that lose their effect by the change return to their defaults. With `drop`, so do those of
    `values` that have no effect, also within a section; otherwise they raise RecipeError, as wrong fields do.
    """
    beginning = " ".join(f"--set {field}={value}" for field, value in values.items()) + ":"
    plain = recipe.plain()
    if "architecture" in values:  # which has its own defaults of the input
        plain["input"] = recipe.input.model_dump(exclude_unset=True)
    for field, value in values.items():
        *sections, last = field.split(".")
        section: Any = plain
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise RecipeError(f"The recipe has no field '{field}'.")
        section[last] = value
    inside = {f"{field}.{name}" for field, value in values.items() if isinstance(value, dict) for name in value}
    for field in _validated(plain, beginning).without_effect():
        if drop or field not in values.keys() | inside:
            _remove(plain, field)
    return _made(plain, beginning)


def _validated(values: Any, beginning: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{beginning} {'; '.join(map(_problem, error.errors()))}.") from None


def _problem(detail: "ErrorDetails") -> str:
    """Say in plain words what pydantic found wrong."""
    field = ".".join(map(str, detail["loc"])) or "the recipe"
    match detail["type"]:
        case "value_error":
            return str(detail["ctx"]["error"])
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden":
            return f"{field} is no field of a recipe; remove it"
        case "string_pattern_mismatch":
            return f"{field} must consist of the letters A to Z and a to z, digits, '_' and '-'"
        case "model_type":
            return f"{field} must have fields, one a line"
    return f"{field} {re.sub('^[A-Z][a-z]+ should', 'must', detail['msg']).partition(', unable')[0]}"


def with_settings(recipe: Recipe, settings: Iterable[tuple[str, str]]) -> Recipe:
    """Return the recipe with other values, as YAML, in fields of dotted names. Raises RecipeError as `changed` does."""
    values = {}
    for field, text in settings:
        check_field(field)
        try:
            values[field] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise RecipeError(f"--set {field}: {text!r} is not YAML; quote the value, or correct it.") from None
    return changed(recipe, values) if values else recipe


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


def _refuse(without_effect: dict[str, str], beginning: str) -> None:
    """Raise RecipeError if there are fields without effect."""
    if without_effect:
        problems = (f"{field} has no effect {reason}; remove it." for field, reason in without_effect.items())
        raise RecipeError(f"{beginning} {' '.join(problems)}")


def _is_set(recipe: Recipe, field: str) -> bool:
    section: Any = recipe
    *sections, last = field.split(".")
    for part in sections:
        section = getattr(section, part)
    return last in section.model_fields_set


def _remove(values: dict[str, Any], field: str) -> None:
    section = values
    *sections, last = field.split(".")
    for part in sections:
        section = section.get(part, {})
    section.pop(last, None)

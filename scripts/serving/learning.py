"""From a checkpoint and photos with accepted feedback to the next version, which is served if it is no worse."""

import contextlib
import json
import sys
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.backend import BackendError
from scripts.serving import served
from scripts.serving.defaults import SUFFIXES
from scripts.serving.deployment import Limits
from scripts.serving.versions import manage
from training.archive import next_version, pack, version_of
from training.checkpoint import Checkpoint, load_checkpoint
from training.config import Recipe, stored_recipe
from training.data import read_files
from training.files import sha256
from training.folders import from_feedback
from training.metrics import predict
from training.outcome import Outcome, Stopped, say
from training.photos import photos_of
from training.split import raise_any
from training.train import train

HEAD_FIRST = {"weight_decay": 0.1}  # for new classes, as training/recipes/photos.yaml has it
STDERR = 2  # for lines that are only notes here


@dataclass(frozen=True)
class Options:
    """The options of `classifier learn`."""

    checkpoint: Path
    photos: Path
    output: Path | None
    epochs: int
    tolerance: float
    roll: bool
    dry_run: bool
    config: Path
    run: Path


@dataclass(frozen=True)
class Plan:
    """All that will be done: train by `recipe` into `output`, measure on both kinds of test photos, serve `version`.

    `old` and `new` have the test photos with their classes; the new ones come from feedback.
    """

    recipe: Recipe
    output: Path
    version: str
    to_train_on: int
    of_feedback: int
    old: list[tuple[Path, str]]
    new: list[tuple[Path, str]]
    new_classes: list[str]


def learn(options: Options) -> Outcome:
    """Learn, compare and roll. Raises Stopped if the new checkpoint is worse on the old test photos."""
    before = load_checkpoint(options.checkpoint)
    plan = make_plan(options, before)
    if options.dry_run:
        return Outcome(0, "\n".join(in_words(plan, options)), {"version": plan.version, "output": str(plan.output)})
    say("\n".join(in_words(plan, options)))
    with contextlib.redirect_stdout(sys.stderr):  # whose lines are notes here
        path = train(plan.recipe, options.photos, plan.output, resume=True)
    after = load_checkpoint(path)
    figures = {kind: compare(before, after, photos) for kind, photos in (("old", plan.old), ("new", plan.new))}
    compared = [line(kind, figures[kind]) for kind in figures if figures[kind]["photos"]]
    old = figures["old"]
    if old["after"] < old["before"] - options.tolerance * old["photos"]:
        raise Stopped(f"Nothing was served: {compared[0]}. Look at the feedback again, or allow more with --tolerance.")
    text = [*compared, f"wrote {path}"]
    if options.roll:
        text += [_roll(plan, path, options), f"To learn from more feedback later, name --checkpoint {path}."]
    return Outcome(0, "\n".join(text), {"checkpoint": str(path), "version": plan.version, **figures})


def make_plan(options: Options, before: Checkpoint) -> Plan:
    """Look at the photos and the served versions. Raises Stopped if nothing can be learned."""
    card = before.card
    before.check_trained()
    train_photos, test_photos = (photos_of(options.photos, split) for split in ("train", "test"))
    raise_any([*train_photos.problems, *test_photos.problems])
    classes = train_photos.classes
    if missing := [name for name in card["classes"] if name not in classes]:
        raise Stopped(
            f"{options.photos} lacks the class {missing[0]!r}; add photos of it, so that it is not forgotten."
        )
    if train_photos.classes != test_photos.classes:
        new = next(iter({*train_photos.classes} ^ {*test_photos.classes}))
        raise Stopped(
            f"Of train and test in {options.photos}, only one has the class {new!r}. Put photos of it into the other, "
            "so that it is learned and tested."
        )
    accepted = from_feedback(options.photos)
    if not accepted:
        raise Stopped(
            f"{options.photos} has no accepted feedback; first run 'classifier feedback accept FOLDER CSV "
            f"--to {options.photos}'."
        )
    new_classes = [name for name in classes if name not in card["classes"]]
    version = _next_version(options) if options.roll else next_version([])
    values = {
        **{field: value for field, value in card["recipe"].items() if field not in ("distillation", "smaller_images")},
        "initial": str(options.checkpoint),
        "epochs": options.epochs,
        "head_first": HEAD_FIRST if new_classes else None,
    }
    tests = [(path, classes[label]) for path, label in zip(test_photos.paths, test_photos.labels, strict=True)]
    old = [(path, name) for path, name in tests if path.name not in accepted and name in card["classes"]]
    if not old:
        raise Stopped(f"{options.photos} has no test photos but those from feedback; add the photos of {card['name']}.")
    names = sorted(f"{path.parent.name}/{path.name}" for path in [*train_photos.paths, *test_photos.paths])
    subject = zlib.crc32(json.dumps([sha256(options.checkpoint), values, names], default=str).encode())
    return Plan(
        recipe=stored_recipe(values, f"The recipe of {card['name']}"),
        output=options.output or Path("runs") / f"{card['name']}-{version}-{subject:08x}",
        version=version,
        to_train_on=len(train_photos.paths),
        of_feedback=sum(path.name in accepted for path in train_photos.paths),
        old=old,
        new=[(path, name) for path, name in tests if path.name in accepted],
        new_classes=new_classes,
    )


def _next_version(options: Options) -> str:
    """Return the number after that of all served versions. Raises Stopped if none is served."""
    try:
        known = manage("list", options.config, options.run).document
    except (Stopped, BackendError) as error:
        raise Stopped(f"{error} Start the server first, or add --no-roll.") from None
    return next_version(each["version"] for each in known)


def in_words(plan: Plan, options: Options) -> list[str]:
    """Return what will be done, a line for each step."""
    times = "once" if plan.recipe.epochs == 1 else f"for {plan.recipe.epochs} epochs"
    lines = [
        f"Train {options.checkpoint} {times} on {plan.to_train_on:,} photos, "
        f"{plan.of_feedback:,} of them from feedback, into {plan.output}."
    ]
    if plan.new_classes:
        lines.append(f"Add the classes: {', '.join(plan.new_classes)}.")
    lines.append(f"Compare both on {len(plan.old):,} old test photos and {len(plan.new):,} from feedback.")
    if options.roll:
        lines.append(f"Serve the new one as version {plan.version}, if it is no worse on the old ones.")
    return lines


def compare(before: Checkpoint, after: Checkpoint, photos: list[tuple[Path, str]]) -> dict[str, int]:
    """Return how many of the photos there are, and how many each checkpoint has right."""
    return {"photos": len(photos), "before": _right(before, photos), "after": _right(after, photos)}


def line(kind: str, figures: dict[str, int]) -> str:
    return (
        f"{figures['after']:,} of {figures['photos']:,} {kind} test photos are right after learning, "
        f"{figures['before']:,} before"
    )


def _right(checkpoint: Checkpoint, photos: list[tuple[Path, str]]) -> int:
    if not photos:
        return 0
    logits, _ = predict(checkpoint.classifier(), read_files([path for path, _ in photos], checkpoint.inputs))
    predicted = [checkpoint.card["classes"][index] for index in logits.argmax(1).tolist()]
    return sum(name == right for name, (_, right) in zip(predicted, photos, strict=True))


def _roll(plan: Plan, checkpoint: Path, options: Options) -> str:
    """Pack the checkpoint into the model store, and roll it in; returns a sentence. Raises Stopped if it is refused."""
    store, suffix = (options.run / served.STORE).resolve(), SUFFIXES[served.backend(options.run)]
    stored = place_for(plan.version, store, plan.output.name, suffix)
    pack(checkpoint, stored, plan.version, STDERR)
    limits = asdict(Limits(tolerance=options.tolerance, new_classes=bool(plan.new_classes)))
    return manage("roll", options.config, options.run, archive=str(stored), sample=options.photos, **limits).text


def place_for(version: str, store: Path, name: str, suffix: str) -> Path:
    """Return where to pack a version: not over an archive of another one, which may be served or rolled back to."""
    archive = store / f"{name}{suffix}"
    return archive if version_of(archive) in (None, version) else store / f"{name}-{version}{suffix}"

"""Search for a better recipe. Each trial trains for a few epochs; its validation accuracy counts.

    classifier tune --recipe cnn --epochs 3 --trials 20
    classifier tune --recipe cnn --set batch_size=32 --space my-space.yaml

The space names fields of the recipe: `optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}`, or a list of choices;
--grid tries all combinations of these. The recipe itself is the first trial.

If you stop the command, run it again and it continues, because a storage keeps the trials. Several processes may work
on one study, and several machines too, if they share a data base or a file system. If the storage is a data base and a
process dies, another one tries its trial again. The output folder gets the best trial as recipe.yaml, and report.md
with its plots.
"""

import json
import logging
import math
import warnings
from collections.abc import Callable, Collection
from operator import attrgetter
from pathlib import Path
from typing import Any

import click
import optuna
import yaml
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, GridSampler, TPESampler
from optuna.storages import (
    BaseStorage,
    JournalStorage,
    RDBStorage,
    RetryHeartbeatStaleTrialCallback,
    fail_stale_trials,
)
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from optuna.visualization import matplotlib as plots
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from training import commands
from training.config import Recipe, RecipeError, changed, load_recipe, read_yaml, with_settings
from training.data import Images, load_images, stratified_split
from training.distillation import inputs_of_teacher, with_teacher
from training.files import save_figure, write_whole
from training.outcome import Stopped
from training.run import Run

Space = dict[str, list[Any] | dict[str, int | float | bool]]
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
INTERRUPTED = "interrupted"  # an attribute of a trial whose work another one does
HEARTBEAT_SECONDS = 60  # between a trial's signs of life in a data base; after two missed ones it is tried again
MAX_TRIES = 3  # of a trial whose process dies, because the trial itself may be the reason


def load_space(path: Path, recipe: Recipe) -> Space:
    """Read a search space, which must contain the recipe.

    Raises RecipeError if the file is no search space, or if it varies a field that no trial could use.
    """
    try:
        space = TypeAdapter(Space).validate_python(read_yaml(path, "search space", "training/spaces"))
    except ValidationError:
        raise RecipeError(f"{path} is no search space; give each field a list of choices, or low and high.") from None
    for field, values in space.items():
        value = _read(recipe, field)
        if isinstance(values, list):
            inside = value in values
        else:
            try:
                _distribution(values)
                inside = values["low"] <= value <= values["high"]
            except (KeyError, TypeError, ValueError) as error:
                raise RecipeError(
                    f"{path}: '{field}' has a range that cannot be used ({error}); give it a list of choices, or low "
                    "and high, and perhaps step or log."
                ) from None
        if not inside:
            raise RecipeError(f"The recipe's {field} of {value} is not in {path}; add it there.")
    _refuse_useless(path, space, recipe)
    return space


def _refuse_useless(path: Path, space: Space, recipe: Recipe) -> None:
    """Raise RecipeError for a field that changes nothing, whatever the other fields are, or that needs other images.

    Changing one field at a time is enough, because one other field decides whether a field has an effect.
    """
    bounds = {
        field: values if isinstance(values, list) else [values["low"], values["high"]]
        for field, values in space.items()
    }
    variants = [(field, changed(recipe, {field: bound}, drop=True)) for field in space for bound in bounds[field]]
    for field, variant in variants:
        if any(of(variant) != of(recipe) for of in (inputs_of_teacher, attrgetter("preprocessing"))):
            raise RecipeError(f"{path}: all trials share the images that the recipe needs; remove {field}.")
    for field, reason in recipe.without_effect().items():
        if field in space and all(field in variant.without_effect() for _, variant in variants):
            raise RecipeError(f"{path}: {field} has no effect {reason}; remove it from the space.")


def suggest(trial: Trial, space: Space, recipe: Recipe) -> Recipe:
    """Return the recipe with the trial's values for the fields of the space, but for those without effect in it."""
    return changed(recipe, {field: _value(trial, field, values) for field, values in space.items()}, drop=True)


def objective(trial: Trial, recipe: Recipe, training: Images, validation: Images) -> float:
    """Train a recipe and return the validation accuracy of its last epoch, unless the trial is pruned before."""
    run = Run(recipe, training, validation)
    while not run.finished:
        row = run.train_epoch()
        trial.report(row["validation_accuracy"], int(row["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned
    return row["validation_accuracy"]


def open_study(
    name: str, storage: BaseStorage, space: Space, recipe: Recipe, fingerprint: list[int], grid: bool
) -> Study:
    """Open the study, or begin it with the recipe itself as its first trial.

    Raises RecipeError if the study has another recipe, another space, or images of another fingerprint.
    """
    sampler: BaseSampler = TPESampler(n_startup_trials=5, constant_liar=True)
    if grid:
        sampler = GridSampler({field: _choices(field, values) for field, values in space.items()})
    pruner = MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    study = optuna.create_study(
        study_name=name, storage=storage, sampler=sampler, pruner=pruner, direction="maximize", load_if_exists=True
    )
    plain = {"recipe": recipe.model_dump(), "space": space, "grid": grid, "images": fingerprint}
    subject = json.loads(json.dumps(plain))
    begun = study.user_attrs.get("subject")
    # A study of older code does not know its images, and takes the present ones.
    if begun and {"images": fingerprint} | begun != subject:
        raise RecipeError(
            f"Study '{name}' is about another recipe, space or number of epochs, or other images; "
            "choose another --output."
        )
    study.set_user_attr("subject", subject)
    if not begun and not grid:
        study.enqueue_trial({field: _read(recipe, field) for field in space}, user_attrs={"reference": True})
    return study


def open_storage(place: str) -> BaseStorage:
    """Open a data base by its URL, or a journal file, which machines with a common file system can share.

    Only a data base shows which trials have lost their process. Raises SQLAlchemyError if the data base cannot be used,
    and StorageInternalError if its driver is not installed or the file cannot be written.
    """
    try:
        if "://" in place:
            again = RetryHeartbeatStaleTrialCallback(max_retry=MAX_TRIES - 1)
            return RDBStorage(place, heartbeat_interval=HEARTBEAT_SECONDS, heartbeat_stale_trial_callback=again)
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(place))
    except ImportError:
        kind = place.partition("://")[0]  # the rest may hold a password
        raise StorageInternalError(f"Python has no driver for '{kind}'; install its package.") from None
    except OSError as error:
        raise StorageInternalError(str(error)) from None


def write_report(study: Study, recipe: Recipe, original: Recipe, output: Path) -> None:
    """Write the best trial as a recipe with the epochs of the `original`, and a page with all trials and plots."""
    best = changed(original, study.best_trial.params, drop=True)
    heading = (
        f"# Trial {study.best_trial.number} of study {study.study_name}: validation accuracy {study.best_value:.2%}"
    )
    body = yaml.safe_dump(best.plain(), sort_keys=False)
    write_whole(output / "recipe.yaml", f"{heading} after {recipe.epochs} epochs.\n{body}")
    pictures: dict[str, Callable[[Study], Any]] = {
        "history": plots.plot_optimization_history,
        "epochs": plots.plot_intermediate_values,
        "slices": plots.plot_slice,
    }
    if sum(trial.state == TrialState.COMPLETE for trial in study.trials) > 1 and len(study.best_trial.params) > 1:
        pictures["importance"] = plots.plot_param_importances
    for name, plot in pictures.items():
        drawn = plot(study)
        axes = drawn.flat[0] if hasattr(drawn, "flat") else drawn
        save_figure(axes.figure, output / f"{name}.png", dpi=100, bbox_inches="tight")
    write_whole(output / "report.md", _page(study, recipe, list(pictures)))


def _page(study: Study, recipe: Recipe, pictures: list[str]) -> str:
    fields = sorted({field for trial in study.trials for field in trial.params})
    ended = counted(study, ENDED)
    rows = "\n".join(
        f"| {trial.number} | {_outcome(trial)} | "
        + " | ".join(_short(trial.params.get(field)) for field in fields)
        + " |"
        for trial in ended
    )
    reference = [trial for trial in ended if trial.user_attrs.get("reference")]
    compared = f" The recipe it set out from reached {_outcome(reference[0])}." if reference else ""
    return (
        f"""# Study {study.study_name}

{len(ended)} trials of at most {recipe.epochs} epochs each; the best, number {study.best_trial.number}, reached
{study.best_value:.2%} of the validation images.{compared}

| trial | validation accuracy | {" | ".join(fields)} |
|---|---|{"---|" * len(fields)}
{rows}

"""
        + "\n\n".join(f"![{name}]({name}.png)" for name in pictures)
        + "\n"
    )


def _outcome(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return f"{trial.value:.2%}"
    if trial.state == TrialState.FAIL:
        return "failed"
    return f"pruned after epoch {trial.last_step} at {trial.intermediate_values[trial.last_step or 0]:.2%}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read(recipe: Recipe, field: str) -> Any:
    """Return the recipe's value of a field with a dotted name. Raises RecipeError if it has no such field."""
    value: Any = recipe.model_dump()
    for part in field.split("."):
        if not isinstance(value, dict) or part not in value:
            raise RecipeError(f"The recipe has no field '{field}'.")
        value = value[part]
    return value


def _value(trial: Trial, field: str, values: list[Any] | dict[str, Any]) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(field, values)
    suggest = trial.suggest_int if isinstance(_distribution(values), IntDistribution) else trial.suggest_float
    return suggest(field, **values)


def _distribution(values: dict[str, Any]) -> IntDistribution | FloatDistribution:
    """Make a range of numbers. Raises KeyError, TypeError or ValueError if it is none."""
    integers = isinstance(values["low"], int) and isinstance(values["high"], int)
    return (IntDistribution if integers else FloatDistribution)(**values)


def _choices(field: str, values: list[Any] | dict[str, Any]) -> list[Any]:
    if not isinstance(values, list):
        raise RecipeError(f"A grid needs a list of choices for '{field}'.")
    return values


@commands.command("tune", help=__doc__, interrupted="\nInterrupted; the same command continues.")
@commands.recipe("cnn", "cnn")
@commands.settings
@click.option(
    "--space",
    type=commands.SPACE,
    default="cnn",
    metavar="NAME|FILE",
    help="a search space of training/spaces by its name, or a file (default: cnn)",
)
@commands.data(commands.LAYOUTS)
@commands.output("folder for the report (default: runs/tune)", "FOLDER", default="runs/tune")
@click.option("--trials", type=commands.COUNT, default=20, metavar="N", help="trials of the study in all (default: 20)")
@click.option("--epochs", type=commands.COUNT, default=3, metavar="N", help="epochs of a trial (default: 3)")
@click.option("--grid", is_flag=True, help="try all combinations instead of searching")
@click.option("--study", metavar="NAME", help="name of the study (default: the recipe's)")
@click.option(
    "--storage",
    metavar="URL|FILE",
    help="a data base, or a journal file (default: <output>/study.log). Leave a password to PGPASSWORD or ~/.pgpass, "
    "because others see a command line",
)
def main(recipe: Path, settings: tuple[tuple[str, str], ...], storage: str | None, output: Path, **given: Any) -> None:
    # Optuna's own lines would tear the progress bar apart.
    optuna.logging.set_verbosity(logging.WARNING)
    warnings.simplefilter(
        "ignore", ExperimentalWarning
    )  # of heartbeats, for which the lock file holds Optuna's version
    try:
        tune(
            with_settings(load_recipe(recipe), settings),
            storage=storage or str(output / "study.log"),
            output=output,
            **given,
        )
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error).splitlines()[0]
        raise Stopped(
            f"The data base or file of --storage cannot be used; run the same command again when it can. {reason}"
        ) from None


def tune(
    full_recipe: Recipe,
    *,
    space: Path,
    data: Path | None,
    output: Path,
    trials: int,
    epochs: int,
    grid: bool,
    study: str | None,
    storage: str,
) -> None:
    """Search around a recipe and write the report. Raises Stopped, and what `open_storage` raises."""
    recipe = changed(full_recipe, {"epochs": epochs, "smaller_images": []})
    fields = load_space(space, recipe)
    opened = open_storage(storage)
    images = with_teacher(load_images(data, "train", [recipe.preprocessing]), recipe, data)
    fingerprint = images.of([recipe.preprocessing]).fingerprint()
    searched = open_study(study or recipe.name, opened, fields, recipe, fingerprint, grid)
    parts = stratified_split(images, recipe.validation_fraction, recipe.split_seed)
    count = math.prod(len(values) for values in fields.values()) if grid else trials
    # A journal does not tell whether a trial still runs or has lost its process.
    begun = (*ENDED, TrialState.RUNNING) if isinstance(opened, RDBStorage) else ENDED
    search(searched, lambda trial: objective(trial, suggest(trial, fields, recipe), *parts), count, begun)
    if not searched.get_trials(states=(TrialState.COMPLETE,), deepcopy=False):
        raise Stopped("No trial came to its end; try a space of lower learning rates.")
    write_report(searched, recipe, full_recipe, output)
    print(f"best validation accuracy {searched.best_value:.2%}; wrote {output}/recipe.yaml and report.md")


class _TrialTaken(BaseException):
    """Another process has the trial. It is no Exception, because Optuna would mark the trial as failed then."""


def search(study: Study, run: Callable[[Trial], float], trials: int, begun: Collection[TrialState]) -> None:
    """Run trials until the study has `trials` in the states `begun`, including those of other processes."""

    def run_unless_one_too_many(trial: Trial) -> float:
        if sum(other.number < trial.number for other in counted(study, begun)) >= trials:
            raise optuna.TrialPruned  # another process took the last one first
        try:
            return run(trial)
        except UpdateFinishedTrialError:
            raise _TrialTaken from None
        except KeyboardInterrupt:  # Optuna takes the trial as failed then, so another one does its work
            _again(study, trial)
            trial.set_user_attr(INTERRUPTED, True)
            raise

    def tell(study: Study, trial: FrozenTrial) -> None:
        bar.update(len(counted(study, ENDED)) - bar.n)
        if _counts(trial):
            tqdm.write(f"trial {trial.number}: {_outcome(trial)}; best {_best(study)}; {trial.params}")

    fail_stale_trials(study)
    with tqdm(total=trials, initial=len(counted(study, ENDED)), desc="trials", disable=None) as bar:
        while len(counted(study, begun)) < trials:
            try:
                study.optimize(
                    run_unless_one_too_many,
                    n_trials=1,
                    callbacks=[tell],
                    catch=(RecipeError,),  # a loss that became infinite fails a trial, not the study
                )
            except _TrialTaken:
                raise Stopped(
                    "This trial was silent for too long, and another process has it; "
                    "run the same command again to continue with the next."
                ) from None


def _again(study: Study, trial: Trial) -> None:
    """Have the parameters of a trial tried once more, in its place of a grid; `enqueue_trial` would forget that."""
    kept = study.trials[trial.number].system_attrs | {"fixed_params": trial.params}
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=trial.user_attrs, system_attrs=kept))


def counted(study: Study, states: Collection[TrialState]) -> list[FrozenTrial]:
    """Return the trials in these states, except those that were tried again or were one too many."""
    trials = study.get_trials(deepcopy=False)
    again = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    return [trial for trial in trials if trial.state in states and trial.number not in again and _counts(trial)]


def _counts(trial: FrozenTrial) -> bool:
    """Return whether a trial counts; not if it was interrupted, or given up before its first epoch as one too many."""
    return INTERRUPTED not in trial.user_attrs and (trial.state != TrialState.PRUNED or trial.last_step is not None)


def _best(study: Study) -> str:
    return f"{study.best_value:.2%}" if study.get_trials(states=(TrialState.COMPLETE,), deepcopy=False) else "none yet"


if __name__ == "__main__":
    main()

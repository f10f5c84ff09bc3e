"""The logs of a run for programs that show many runs together: TensorBoard and MLflow."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from training.card import describe_in_words
from training.checkpoint import LAST, Checkpoint
from training.config import Recipe
from training.history import Row
from training.outcome import Stopped, say

EXPERIMENT = "classifier"  # of all runs, so that MLflow compares them
STORE, FILES = "mlflow.db", "mlflow"  # beside the folders of the runs, unless MLFLOW_TRACKING_URI names a server
MAX_REASON = 200  # characters
FOLDER = "classifier.output"  # the tag by which a run that is resumed is found


class Log(Protocol):
    """Gets the history of a run after each epoch, and its checkpoint in the end."""

    def add(self, history: list[Row]) -> None: ...

    def end(self, path: Path, checkpoint: Checkpoint) -> None: ...


Open = Callable[[Recipe, Path], Log]  # has the recipe and the output folder of a run


class TensorBoard:
    """The folder `tensorboard` in the output folder."""

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self._folder = output / "tensorboard"

    def add(self, history: list[Row]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self._folder) as writer:
            for name, value in history[-1].items():
                writer.add_scalar(name, value, len(history))

    def end(self, path: Path, checkpoint: Checkpoint) -> None:
        """Do nothing: it shows curves alone."""


class MLflow:
    """A run of the server that MLFLOW_TRACKING_URI names, or else of a database beside the output folder.

    Raises Stopped if the package is not installed, or if the server does not answer.
    """

    def __init__(self, recipe: Recipe, output: Path) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # training waits for a server that is away
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # or it tells its makers about each run
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError:
            raise Stopped("MLflow is not installed; run 'pip install mlflow-skinny sqlparse'.") from None
        named = os.environ.get("MLFLOW_TRACKING_URI")
        beside = output.absolute().parent
        beside.mkdir(parents=True, exist_ok=True)
        store = named or f"sqlite:///{beside / STORE}"
        say(f"MLflow: this run is logged in {store}.")
        try:
            self._client = MlflowClient(store)
            known = self._client.get_experiment_by_name(EXPERIMENT)
            place = None if named else str(beside / FILES)
            experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT, place)
            self._run = self._resumed(experiment, output) or self._begun(experiment, recipe, output)
        except MlflowException as error:
            reason = str(error).strip().partition("\n")[0][:MAX_REASON]
            raise Stopped(
                f"MLflow cannot be used at {store} ({reason}); start it there, or leave out --mlflow."
            ) from None

    def add(self, history: list[Row]) -> None:
        """Log the rows that are not there yet: a killed run may have saved more epochs, or fewer, than it logged."""
        last = list(history[0])[-1]  # of a row, so that one that was logged in part is logged again
        logged = {metric.step for metric in self._client.get_metric_history(self._run, last)}
        for row in history:
            if row["epoch"] not in logged:
                for name, value in row.items():
                    self._client.log_metric(self._run, name, value, step=int(row["epoch"]))

    def end(self, path: Path, checkpoint: Checkpoint) -> None:
        for split in ("validation", "test"):
            for name, value in _flat(checkpoint.card["metrics"][split], f"best.{split}"):
                if isinstance(value, int | float):
                    self._client.log_metric(self._run, name, value)
        self._client.log_artifact(self._run, str(path))
        self._client.log_text(self._run, describe_in_words(checkpoint), f"{path.stem}.md")
        self._client.set_terminated(self._run)

    def _resumed(self, experiment: str, output: Path) -> str | None:
        runs = self._client.search_runs([experiment]) if (output / LAST).exists() else []
        for run in runs:  # the latest first
            if run.data.tags.get(FOLDER) == str(output.absolute()):
                self._client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
        return None

    def _begun(self, experiment: str, recipe: Recipe, output: Path) -> str:
        tags = {FOLDER: str(output.absolute())}
        run: str = self._client.create_run(experiment, tags=tags, run_name=output.absolute().name).info.run_id
        for name, value in _flat(recipe.plain()):
            self._client.log_param(run, name, value)
        return run


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dictionaries, with names such as `optimizer.lr`."""
    if not isinstance(values, dict):
        yield name, values
        return
    for key, value in values.items():
        yield from _flat(value, f"{name}.{key}" if name else str(key))

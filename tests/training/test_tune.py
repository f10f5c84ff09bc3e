import importlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from optuna import Study, create_study, load_study
from optuna.storages import InMemoryStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy import create_engine, inspect

from tests.commands import FORKS
from tests.conftest import QUICK_RECIPE, CommandFailed, run_module
from tests.drawing import THREE, draw_dataset
from tests.stack import HOWTO, ROOT, documented, free_ports, wait_until
from training.config import Recipe, RecipeError, changed, load_recipe
from training.outcome import Stopped
from training.tune import ENDED, Space, counted, load_space, open_study, search, suggest

SPACE = {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "batch_size": [16, 32]}


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(SPACE))
    return path


def arguments(recipe: Path, space: Path, dataset: Path, output: Path, trials: int) -> list[str]:
    options = {"--recipe": recipe, "--space": space, "--data": dataset, "--output": output, "--trials": trials}
    return [str(part) for option in {**options, "--epochs": 1}.items() for part in option]


@pytest.mark.slow
def test_goes_on_where_it_stopped_and_writes_the_best_as_a_recipe(
    recipe: Path, space: Path, dataset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "study"
    first = run_module("training.tune", *arguments(recipe, space, dataset, output, 2))
    assert re.findall(r"^trial (\d+):", first, re.MULTILINE) == ["0", "1"]
    assert re.search(r"^trial 0: .*'optimizer\.lr': 0\.001[,}]", first, re.MULTILINE)  # the recipe's own
    second = run_module("training.tune", *arguments(recipe, space, dataset, output, 4))
    assert re.findall(r"^trial (\d+):", second, re.MULTILINE) == ["2", "3"]

    best = load_recipe(output / "recipe.yaml")
    assert best.batch_size in SPACE["batch_size"]
    assert best.epochs == QUICK_RECIPE["epochs"]
    page = (output / "report.md").read_text()
    assert "4 trials of at most 1 epochs each" in page
    assert "The recipe it set out from reached" in page
    for picture in re.findall(r"\((\w+\.png)\)", page):
        assert (output / picture).exists()


def test_a_trial_that_fails_is_no_end(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    space = tmp_path / "wild.yaml"
    space.write_text(yaml.safe_dump({"optimizer.lr": [0.001, 1e30], "batch_size": [16]}))
    grid = [*arguments(recipe, space, dataset, tmp_path / "study", 2), "--grid"]
    printed = run_module("training.tune", *grid)
    assert re.search(r"^trial \d: failed; ", printed, re.MULTILINE)
    assert "best validation accuracy" in printed


def test_a_study_stays_with_its_subject(recipe: Path, space: Path, dataset: Path, tmp_path: Path) -> None:
    command = arguments(recipe, space, dataset, tmp_path / "study", 1)
    run_module("training.tune", *command)
    with pytest.raises(CommandFailed, match="is about another recipe, space or number of epochs"):
        run_module("training.tune", *command, "--epochs", "2")
    others = draw_dataset(tmp_path / "others", THREE, train=2, test=0)
    with pytest.raises(CommandFailed, match="or other images; choose another --output"):
        run_module("training.tune", *arguments(recipe, space, others, tmp_path / "study", 2))


def test_a_study_of_older_code_takes_the_images_it_is_given(recipe: Path, space: Path) -> None:
    settings, storage = load_recipe(recipe), InMemoryStorage()
    plain, subject = (
        load_space(space, settings),
        json.loads(json.dumps({"recipe": settings.model_dump(), "grid": False})),
    )
    older = create_study(study_name="older", storage=storage, direction="maximize")
    older.set_user_attr("subject", subject | {"space": plain})
    open_study("older", storage, plain, settings, [1, 2], grid=False)
    with pytest.raises(RecipeError, match="other images"):
        open_study("older", storage, plain, settings, [3, 4], grid=False)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a PostgreSQL of its own; the password is where libpq looks for it, in the environment."""
    places = [os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    binaries = Path(shutil.which("initdb", path=os.pathsep.join(places)) or "PostgreSQL is not installed").parent
    (port,) = free_ports(1)
    monkeypatch.setenv("PGPASSWORD", "of the test")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "password").write_text("of the test")
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if user:  # PostgreSQL refuses to run as root
            for path in (folder, f"{folder}/password"):
                shutil.chown(path, "postgres")
        cluster = ["--pgdata", f"{folder}/data", "--username=tuner", f"--pwfile={folder}/password", "--no-sync"]
        subprocess.run([*user, f"{binaries}/initdb", *cluster, "--auth=scram-sha-256"], cwd=folder, check=True)
        options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        control = [*user, f"{binaries}/pg_ctl", "--pgdata", f"{folder}/data", "--wait", "--log", f"{folder}/log"]
        subprocess.run([*control, "--options", options, "start"], cwd=folder, check=True)
        yield f"postgresql+psycopg://tuner@127.0.0.1:{port}/postgres"
        subprocess.run([*control, "--mode=immediate", "stop"], cwd=folder, check=True)


def tune(command: list[str], environment: dict[str, str]) -> None:
    """Be one process of a study whose dead are noticed after two seconds."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    with patch("training.tune.HEARTBEAT_SECONDS", 1):
        run_module("training.tune", *command)


def test_machines_share_a_study_and_one_that_dies_loses_no_trial(
    recipe: Path, space: Path, dataset: Path, tmp_path: Path, database: str
) -> None:
    def begin(name: str) -> BaseProcess:
        places = {
            "--recipe cnn": f"--recipe {recipe} --space {space}",
            "my-images": dataset,
            "--trials 20 --epochs 3": "--trials 6 --epochs 1",
            "postgresql+psycopg://tuner@db.example/studies": database,
            "runs/tune": tmp_path / name,
        }
        command = documented(HOWTO, "classifier tune", places)[2:]
        process = FORKS.Process(target=tune, args=(command, {"PGPASSWORD": os.environ["PGPASSWORD"]}))
        process.start()
        return process

    @cache  # each would keep a connection for itself, and PostgreSQL takes a hundred
    def study() -> Study:
        return load_study(study_name="drawn", storage=database)

    def running() -> list[FrozenTrial]:
        return [trial for trial in study().get_trials(states=(TrialState.RUNNING,)) if trial.params]

    engine = create_engine(database)

    def has_begun() -> bool:
        """Look without Optuna, which would make the tables at the same time as the first process does."""
        with engine.connect() as connection:
            studies = "SELECT count(*) FROM studies"
            return inspect(engine).has_table("studies") and bool(connection.exec_driver_sql(studies).scalar())

    first = begin("first")
    wait_until(lambda: has_begun() and running())
    second = begin("second")
    wait_until(lambda: len(running()) == 2)
    second.kill()
    second.join()
    time.sleep(3)  # however quick the first one is, the third finds that the second is silent
    third = begin("third")
    for process in (first, third):
        process.join()
        assert process.exitcode == 0

    ended = counted(study(), ENDED)
    (died,) = study().get_trials(states=(TrialState.FAIL,))
    (again,) = (trial for trial in ended if RetryHeartbeatStaleTrialCallback.retry_history(trial) == [died.number])
    assert died.params.items() <= again.params.items()  # it may have died before it had them all
    assert len(ended) == 6
    assert {trial.state for trial in ended} <= {TrialState.COMPLETE, TrialState.PRUNED}
    pages = [(tmp_path / name / "report.md").read_text() for name in ("first", "third")]
    assert any(page.count("6 trials of at most 1 epochs each") for page in pages)


def test_says_why_a_data_base_cannot_be_used(
    recipe: Path, space: Path, dataset: Path, tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "another")
    command = arguments(recipe, space, dataset, tmp_path / "study", 1)
    with pytest.raises(
        CommandFailed, match=r"data base or file of --storage cannot be used.*password authentication failed"
    ):
        run_module("training.tune", *command, "--storage", database)


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("mysql+pymysql://tuner:secret@db.example/studies", r"no driver for 'mysql\+pymysql'; install its package"),
        ("nothing://db.example", "plugin: sqlalchemy.dialects:nothing"),
        ("{folder}/space.yaml/study.log", "File exists"),
    ],
)
def test_says_why_a_storage_cannot_be_opened(
    storage: str, reason: str, recipe: Path, space: Path, dataset: Path, tmp_path: Path
) -> None:
    command = [*arguments(recipe, space, dataset, tmp_path / "study", 1), "--storage", storage.format(folder=tmp_path)]
    with pytest.raises(CommandFailed, match=f"--storage cannot be used.*{reason}") as end:
        run_module("training.tune", *command)
    assert "secret" not in str(end.value)


def test_a_package_that_is_missing_is_not_the_fault_of_the_storage(
    recipe: Path, space: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.tune.objective", lambda *_: importlib.import_module("there_is_no_such_package"))
    with pytest.raises(CommandFailed, match="This needs the package there_is_no_such_package"):
        run_module("training.tune", *arguments(recipe, space, dataset, tmp_path / "study", 1))


def test_gives_up_a_trial_that_is_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    study, begun = create_study(), (*ENDED, TrialState.RUNNING)
    optimize = study.optimize

    def second(*arguments: Any, **options: Any) -> None:
        study.add_trial(create_trial(value=0.5))  # another process, between the look at the study and the trial
        optimize(*arguments, **options)

    monkeypatch.setattr(study, "optimize", second)
    search(study, lambda trial: 0.9, 1, begun)
    assert [trial.value for trial in counted(study, begun)] == [0.5]


def test_a_machine_that_slept_says_that_its_trial_is_gone() -> None:
    study = create_study()

    def run(trial: Trial) -> float:
        study.tell(trial, state=TrialState.FAIL)  # another process, which has heard nothing of it
        trial.report(0.5, 1)
        return 0.5

    with pytest.raises(Stopped, match="another process has it"):
        search(study, run, 1, ENDED)


@pytest.mark.parametrize("grid", [False, True])
def test_ctrl_c_costs_no_trial(space: Path, grid: bool) -> None:
    recipe = Recipe.model_validate(QUICK_RECIPE)
    fields: Space = {"batch_size": [16, 32]}
    study = open_study("cut", InMemoryStorage(), fields, recipe, [1], grid)
    tried: list[dict[str, Any]] = []

    def run(trial: Trial) -> float:
        suggest(trial, fields, recipe)
        tried.append(trial.params)
        if len(tried) == 1:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        search(study, run, 2, ENDED)
    search(study, run, 2, ENDED)
    assert tried[1] == tried[0]
    ended = counted(study, ENDED)
    assert [trial.state for trial in ended] == [TrialState.COMPLETE] * 2
    assert bool(ended[0].user_attrs.get("reference")) != grid
    assert not grid or {trial.params["batch_size"] for trial in ended} == {16, 32}


@pytest.mark.slow
def test_a_grid_tries_every_combination(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    space = tmp_path / "grid.yaml"
    space.write_text(yaml.safe_dump({"optimizer.lr": [0.001, 0.002], "batch_size": [16, 32]}))
    printed = run_module("training.tune", *arguments(recipe, space, dataset, tmp_path / "study", 20), "--grid")
    tried = set(re.findall(r"(\{'.*\})", printed))
    assert len(tried) == 4


def test_names_the_field_that_is_not_there(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(QUICK_RECIPE)
    path = tmp_path / "space.yaml"
    path.write_text("optimizer.rate: [1]")
    with pytest.raises(RecipeError, match=r"no field 'optimizer\.rate'"):
        load_space(path, recipe)
    for content in ("batch_size: 3", "batch_size: {low: 1}", "", "[1, 2]"):
        path.write_text(content)
        with pytest.raises(RecipeError, match="a list of choices, or low and high"):
            load_space(path, recipe)
    for content in (
        "dropout: {low: 0.0, high: 0.5, log: true}",
        "dropout: {low: 0.0, high: 0.5, steps: 0.1}",
        "optimizer.name: {low: 1, high: 2}",
    ):
        path.write_text(content)
        with pytest.raises(RecipeError, match="has a range that cannot be used"):
            load_space(path, recipe)
    path.write_text("a: b: c")
    with pytest.raises(RecipeError, match="is not YAML"):
        load_space(path, recipe)
    path.write_text("dropout: {low: 0.0, high: 1.5}")
    with pytest.raises(RecipeError, match=r"dropout.*less than 1"):
        load_space(path, recipe)
    path.write_text("batch_size: [64]")
    with pytest.raises(RecipeError, match="batch_size of 16 is not in"):
        load_space(path, recipe)


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (
            {"optimizer.momentum": [0.5, 0.9]},
            "optimizer.momentum has no effect with optimizer adam; remove it from the",
        ),
        ({"schedule.warmup": {"low": 0.1, "high": 0.5}}, "schedule.warmup has no effect with schedule step; remove it"),
        ({"optimizer.name": ["adam", "sgd"], "optimizer.other_lr": [0.05, 0.1]}, "optimizer.other_lr has no effect"),
        ({"distillation.temperature": [2.0, 4.0]}, "The recipe has no field 'distillation.temperature'"),
        ({"input.fit": ["squeeze", "crop"]}, "all trials share the images that the recipe needs; remove input.fit."),
    ],
)
def test_refuses_a_space_that_varies_what_no_trial_could_use(tmp_path: Path, space: dict, sentence: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(space))
    with pytest.raises(RecipeError, match=sentence.replace(".", "[.]")):
        load_space(path, Recipe.model_validate(QUICK_RECIPE))


def test_a_trial_leaves_out_the_fields_that_its_other_choices_do_not_use() -> None:
    recipe = load_recipe(ROOT / "training" / "recipes" / "cnn.yaml")
    space = load_space(ROOT / "training" / "spaces" / "cnn.yaml", recipe)
    values = {"optimizer.name": "sgd", "optimizer.weight_decay": 1e-3, "schedule.name": "one_cycle", "batch_size": 64}
    others = {"optimizer.lr": 0.1, "optimizer.other_lr": 0.1, "dropout": 0.5, "label_smoothing": 0.1}
    trial = FixedTrial(values | others | {"augment.rotation": 0.0, "augment.noise": 0.0})
    tried = suggest(trial, space, recipe)  # type: ignore[arg-type]
    assert tried.optimizer.model_fields_set == {"name", "lr", "weight_decay", "layer_decay"}
    assert (tried.optimizer.lr, tried.optimizer.weight_decay, tried.schedule.name) == (0.1, 1e-3, "one_cycle")


def test_changes_fields_within_sections() -> None:
    recipe = changed(Recipe.model_validate(QUICK_RECIPE), {"optimizer.lr": 0.5, "epochs": 9})
    assert (recipe.optimizer.lr, recipe.epochs, recipe.batch_size) == (0.5, 9, 16)


@pytest.mark.parametrize("space", ["cnn", "photos", "policies"])
def test_spaces_that_come_along_fit_the_reference_recipe(space: str) -> None:
    recipe = load_recipe(ROOT / "training" / "recipes" / "cnn.yaml")
    assert load_space(ROOT / "training" / "spaces" / f"{space}.yaml", recipe)


@pytest.mark.parametrize("option", ["--trials", "--epochs"])
@pytest.mark.parametrize("number", ["0", "-3"])
def test_refuses_a_number_below_1(option: str, number: str) -> None:
    with pytest.raises(CommandFailed, match=f"{option}': {number} is no number of 1 or more"):
        run_module("training.tune", option, number)

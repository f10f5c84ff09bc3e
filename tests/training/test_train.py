import itertools
import json
import os
import pty
import random
import select
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
import yaml
from filelock import FileLock
from mlflow import MlflowClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.archives import numbered, rebuild
from tests.commands import FORKS
from tests.conftest import QUICK_RECIPE, CommandFailed, run_module
from tests.drawing import THREE, add_photos, draw, draw_dataset
from tests.stack import ROOT, free_ports, times, wait_until
from training.checkpoint import load, load_checkpoint
from training.config import Recipe, RecipeError
from training.data import DataError, load_images, stratified_split
from training.ensemble import join
from training.inputs import Inputs
from training.logs import MLflow
from training.outcome import Stopped
from training.train import Saver, main, next_commands, train

RECIPES = ROOT / "training" / "recipes"


@pytest.fixture(scope="module")
def few(workspace: Path) -> Path:
    """Images of three classes, for trainings of which the course counts, not the end."""
    return draw_dataset(workspace / "few_to_train_on", THREE, train=30, test=2)


def test_writes_what_it_promises_and_says_how_it_went(trained: Path) -> None:
    written = {path.name for path in trained.iterdir()}
    histories = {"training_history.pth", "training_history.csv", "training_history.png"}
    assert written == {"drawn.pth", "last.pth", "printed.txt", ".lock"} | histories
    lines = (trained / "printed.txt").read_text().splitlines()
    assert lines[0] == "drawn: 360 images to train on, 40 for validation"
    assert lines[1].startswith("epoch 1/2: train loss ")
    assert lines[2].endswith("at most 0 min left")
    assert "test accuracy" in lines[3]
    assert lines[4].startswith("wrote ")
    assert lines[5] == "Look at its mistakes, pack it, and serve it:"
    assert len(lines) == 10


def test_learns_what_it_is_shown(trained: Path) -> None:
    metrics = load_checkpoint(trained / "drawn.pth").card["metrics"]
    assert metrics["test"]["accuracy"] > 0.7
    first, last = load(trained / "training_history.pth")
    assert last["train_loss"] < first["train_loss"]


@pytest.mark.parametrize("layout", ["classes", "splits", "csv"])
def test_says_how_to_go_on_with_the_checkpoint(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"classes": "my photos", "splits": "my-images", "csv": "list.csv"}[layout]
    places = {"classes": ["my photos/train", "my photos/mug"], "splits": ["my-images/train", "my-images/test"]}
    for place in places.get(layout, []):
        (tmp_path / place / "inside").mkdir(parents=True)
    (tmp_path / "list.csv").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.train.CHECKPOINTS", tmp_path / "store")
    sample = {"classes": "--sample 'my photos' ", "splits": "--sample my-images/test ", "csv": ""}[layout]
    _, evaluate, pack, roll, _ = next_commands(Path("runs/mine/photos.pth"), Path(data)).splitlines()
    report = "--output runs/mine/report"
    assert evaluate == f"    classifier evaluate runs/mine/photos.pth --data {shlex.quote(data)} {report}"
    assert pack == "    classifier archive runs/mine/photos.pth --version 2.0 --output store/mine.mar"
    assert roll == f"    classifier models roll mine.mar {sample}".rstrip()


def test_says_the_next_version_and_a_name_that_is_free(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.train.CHECKPOINTS", tmp_path)
    rebuild(archive, tmp_path / "mine.mar", numbered("2.0"))
    said = next_commands(Path("runs/mine/photos.pth"), Path("list.csv"))
    assert f"--version 3.0 --output {tmp_path / 'mine-3.0.mar'}\n" in said
    assert "classifier models roll mine-3.0.mar\n" in said


@pytest.mark.parametrize("begins", ["anew", "trained"])
def test_warns_of_few_steps_unless_it_begins_from_a_trained_network(
    begins: str, checkpoint: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    initial = {"initial": str(checkpoint)} if begins == "trained" else {}
    recipe = Recipe.model_validate(QUICK_RECIPE | {"batch_size": 180, "epochs": 1} | initial)
    train(recipe, dataset, tmp_path, resume=False)
    assert ("These are 2 steps in all" in capsys.readouterr().out) is (begins == "anew")


def train_on(terminal: str, recipe: Path, data: Path, output: Path) -> None:
    """Be the command on a terminal, in a process that has PyTorch already."""
    device = os.open(terminal, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(device, stream)
    os.close(device)
    arguments = ["--recipe", recipe, "--data", data, "--output", output]
    main([*map(str, arguments)])


def test_shows_a_progress_bar_on_a_terminal(tmp_path: Path, few: Path, recipe: Path) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 120))
    process = FORKS.Process(target=train_on, args=(os.ttyname(follower), recipe, few, tmp_path))
    process.start()
    wait_until(lambda: select.select([leader], [], [], 0)[0])  # it has the terminal open
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    process.join()
    assert process.exitcode == 0
    assert b"epoch 1/2:" in shown
    assert b"%|" in shown
    assert b", accuracy " in shown
    assert b"reading train: " in shown
    os.close(leader)


@pytest.mark.slow
def test_stops_early_and_restores_the_best_weights(dataset: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(QUICK_RECIPE | {"epochs": 30, "patience": 2})
    path = train(recipe, dataset, tmp_path, resume=False)

    history = load(tmp_path / "training_history.pth")
    losses = [row["validation_loss"] for row in history]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(history) < 30
    assert len(history) == best + 1 + 2
    validation = load_checkpoint(path).card["metrics"]["validation"]
    assert validation["loss"] == pytest.approx(losses[best], rel=0.01)  # of rounded weights


def finals(folder: Path) -> dict[str, Any]:
    """Return every tensor that a finished run leaves."""
    state = load(folder / "last.pth")
    kept = {name: state[name] for name in ("model", "average", "optimizer", "best", "schedule")}
    return dict(flatten(kept)) | dict(flatten({"released": load_checkpoint(folder / "drawn.pth").weights}))


def flatten(value: object, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from flatten(part, f"{name}.{key}")
    else:
        yield name, value


def train_until_killed(saves: int, within: bool, options: list[object]) -> None:
    """Be a run that signal 9 ends in its save of that number, when the new file is not yet in place, or behind it."""
    save, count = Saver.save, itertools.count(1)

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def save_or_die(saver: Saver) -> None:
        last = next(count) == saves
        with patch("os.fsync", die if last and within else os.fsync):
            save(saver)
        if last:
            die()

    with patch.object(Saver, "save", save_or_die):
        run_module("training.train", *options)


@pytest.mark.slow
def test_killed_again_and_again_equals_uninterrupted(few: Path, tmp_path: Path) -> None:
    changes = {
        "epochs": 3,
        "batch_size": 8,
        "schedule": {"name": "triangular"},
        "dropout": 0.5,
        "optimizer": {"name": "muon", "lr": 0.05, "momentum": 0.6},
        "ema_decay": 0.9,
        "augment": {"flip": "alternating", "policy": "trivialaugment", "noise": 0.1, "mixup": 0.2, "cutmix": 1.0},
    }
    recipe = Recipe.model_validate(QUICK_RECIPE | changes)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.plain()))
    run_module("training.train", "--recipe", path, "--data", few, "--output", tmp_path / "whole")

    killed = tmp_path / "killed"
    options = ["--recipe", path, "--data", few, "--output", killed, "--save-seconds", "0", "--resume"]
    last, generator = killed / "last.pth", random.Random(7)
    kills = times(2, 10)
    for kill in range(kills):
        saves = generator.randint(2, 28 // kills)  # of 33: one after each step and each epoch
        process = FORKS.Process(target=train_until_killed, args=(saves, kill % 2 == 1, options))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(list(killed.glob(".last.pth.*.part"))) == kill % 2
        assert {"model", "progress"} <= load(last).keys()
    assert not (killed / "drawn.pth").exists()
    run_module("training.train", *options)

    whole, resumed = finals(tmp_path / "whole"), finals(killed)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        same = torch.equal(value, resumed[name]) if isinstance(value, torch.Tensor) else value == resumed[name]
        assert same, name
    histories = [load(folder / "training_history.pth") for folder in (tmp_path / "whole", killed)]
    for one, other in zip(*histories, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_killed_after_its_last_save_a_run_has_its_whole_history(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Saver):
        def save(self) -> None:
            super().save()
            if self.run.finished:
                raise KeyboardInterrupt

    recipe = Recipe.model_validate(QUICK_RECIPE)
    with monkeypatch.context() as patch:
        patch.setattr("training.train.Saver", Killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, few, tmp_path, resume=False)
    train(recipe, few, tmp_path, resume=True)
    assert len(load(tmp_path / "training_history.pth")) == recipe.epochs


def test_logs_for_tensorboard_where_asked(few: Path, recipe: Path, tmp_path: Path) -> None:
    run_module("training.train", "--recipe", recipe, "--data", few, "--output", tmp_path, "--tensorboard")
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = [event.value for event in log.Scalars("validation_accuracy")]
    assert logged == pytest.approx([row["validation_accuracy"] for row in load(tmp_path / "training_history.pth")])


@pytest.fixture
def of_mlflow(tmp_path: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_logs_for_mlflow_where_asked_also_when_resumed(
    few: Path, tmp_path: Path, of_mlflow: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    class Killed(Saver):
        def save(self) -> None:
            super().save()
            raise KeyboardInterrupt

    recipe = Recipe.model_validate(QUICK_RECIPE)
    output = tmp_path / "mine"
    with monkeypatch.context() as patch:
        patch.setattr("training.train.Saver", Killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, few, output, resume=False, logs=[MLflow])
    train(recipe, few, output, resume=True, logs=[MLflow])
    experiment = of_mlflow.get_experiment_by_name("classifier")
    assert experiment
    (run,) = of_mlflow.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params["optimizer.lr"] == "0.001"
    logged = [metric.value for metric in of_mlflow.get_metric_history(run.info.run_id, "validation_accuracy")]
    assert logged == pytest.approx([row["validation_accuracy"] for row in load(output / "training_history.pth")])
    card = load_checkpoint(output / "drawn.pth").card
    assert run.data.metrics["best.test.accuracy"] == card["metrics"]["test"]["accuracy"]
    kept = {file.path for file in of_mlflow.list_artifacts(run.info.run_id)}
    assert kept == {"drawn.pth", "drawn.md"}
    assert (tmp_path / "mlflow").is_dir()


def test_mlflow_tells_its_makers_nothing(tmp_path: Path) -> None:
    code = """if True:
        import json, sys
        from pathlib import Path
        from training.config import Recipe
        from training.logs import MLflow
        MLflow(Recipe.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]))
        from mlflow.telemetry.utils import is_telemetry_disabled
        print(is_telemetry_disabled())"""
    environment = {"HOME": str(tmp_path)}  # and no CI, which silences it
    command = [sys.executable, "-c", code, json.dumps(QUICK_RECIPE), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True"


def test_an_mlflow_server_that_is_away_is_named(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Stopped, match=r"MLflow cannot be used at http.*; start it there, or leave out --mlflow\.$"):
        train(Recipe.model_validate(QUICK_RECIPE), few, tmp_path, resume=False, logs=[MLflow])


def test_a_class_that_comes_while_it_trains_ends_it_with_a_sentence(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.model_validate(QUICK_RECIPE | {"epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(
            "training.data.load_images",
            lambda *arguments: (images := load_images(*arguments))._replace(classes=["ant", *images.classes]),
        )
        with pytest.raises(DataError, match="The class 'ant' came or went while this was computed"):
            train(recipe, few, tmp_path, resume=False)
    train(recipe, few, tmp_path, resume=True)
    assert (tmp_path / "drawn.pth").exists()


def test_a_log_that_fails_ends_no_training(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Mock(**{"add.side_effect": OSError("no server"), "end.side_effect": OSError("no server")})
    recipe = Recipe.model_validate({**QUICK_RECIPE, "epochs": 1})
    assert train(recipe, few, tmp_path / "mine", resume=False, logs=[lambda *_: broken]).exists()
    assert capsys.readouterr().err.count("training goes on. no server") == 2


def test_says_that_there_is_nothing_to_resume(few: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(QUICK_RECIPE | {"epochs": 1}))
    options = ["--recipe", tmp_path / "recipe.yaml", "--data", few, "--output", tmp_path / "mine", "--resume"]
    said = run_module("training.train", *options)
    assert f"{tmp_path / 'mine'} holds no run to resume, so training starts" in said


def test_an_output_among_the_classes_is_refused(tmp_path: Path) -> None:
    add_photos(tmp_path, "red", range(3))
    with pytest.raises(RecipeError, match="whose folders are classes; name another --output"):
        train(Recipe.model_validate(QUICK_RECIPE), tmp_path, tmp_path / "runs" / "mine", resume=False)
    assert not (tmp_path / "runs").exists()


def test_an_output_that_cannot_be_written_is_named_before_an_image_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Stopped, match=r"file/runs cannot be written \(Not a directory\)"):
        train(Recipe.model_validate(QUICK_RECIPE), tmp_path / "no-images", tmp_path / "file" / "runs", resume=False)


def test_two_runs_in_one_folder_are_refused(few: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(RecipeError, match="Another process trains into"):
        train(Recipe.model_validate(QUICK_RECIPE), few, tmp_path, resume=True)
    assert not list(tmp_path.glob("*.*th"))


def test_does_not_overwrite_or_mix_runs(trained: Path, dataset: Path) -> None:
    recipe = Recipe.model_validate(QUICK_RECIPE)
    with pytest.raises(RecipeError, match="already holds a run"):
        train(recipe, dataset, trained, resume=False)
    with pytest.raises(RecipeError, match="another recipe"):
        train(recipe.model_copy(update={"epochs": 5}), dataset, trained, resume=True)


@pytest.mark.parametrize("part", ["training", "validation"])
def test_does_not_resume_with_other_images(
    part: str, trained: Path, recipe: Path, dataset: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    settings = Recipe.model_validate(QUICK_RECIPE)
    images = load_images(data, "train", [settings.preprocessing])
    numbers = images._replace(inputs=Inputs([settings.preprocessing], [torch.arange(len(images.labels))]))
    parts = stratified_split(numbers, settings.validation_fraction, settings.split_seed)
    number = int(parts[part == "validation"].pixels[0])
    Image.new("RGB", (32, 32)).save(sorted((data / "train").glob("*/*"))[number], format="PNG")
    with pytest.raises(CommandFailed) as end:
        run_module("training.train", "--recipe", recipe, "--data", data, "--output", trained, "--resume")
    assert str(end.value) == (
        f"The {part} images changed after the run to resume began; "
        "restore the earlier ones, or choose another --output.\n"
    )


def test_says_in_a_sentence_what_is_missing(tmp_path: Path) -> None:
    data = tmp_path / "photos"
    data.mkdir()
    with pytest.raises(CommandFailed) as end:
        run_module("training.train", "--recipe", RECIPES / "cnn.yaml", "--data", data, "--output", tmp_path / "out")
    assert str(end.value) == f"{data} has no folders of classes; put images into {data}/<class>/.\n"


def test_looks_at_the_classes_of_the_test_images_first(tmp_path: Path) -> None:
    for folder in ("train/cat", "train/dog", "test/cat", "test/cow"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "a.png")
    with pytest.raises(DataError, match="different classes"):
        train(Recipe.model_validate(QUICK_RECIPE), tmp_path, tmp_path / "out", resume=False)


def test_a_folder_of_classes_is_enough_and_more_photos_resume_as_another_run(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    for name in ("red", "blue"):
        (photos / name).mkdir(parents=True)
        for number in range(10):
            draw(name, number).save(photos / name / f"{number}.png")
    recipe = Recipe.model_validate(QUICK_RECIPE | {"epochs": 1, "validation_fraction": 0.2, "class_weights": 0.5})
    trained = load_checkpoint(train(recipe, photos, output, resume=False))
    metrics = trained.card["metrics"]
    assert [metrics[split]["images"] for split in ("validation", "test")] == [4, 4]
    assert 0 <= metrics["test"]["balanced_accuracy"] <= 1
    assert load_images(photos, "test", trained.inputs).inputs.count == 4
    assert join([trained, trained], photos, "both").card["data"] == trained.card["data"]
    draw("red", 10).save(photos / "red" / "10.png")
    with pytest.raises(RecipeError, match="images changed after the run to resume began"):
        train(recipe, photos, output, resume=True)

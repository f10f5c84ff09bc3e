"""What all commands share: files by name from any folder, one sentence and status 2, and fields of a recipe."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from scripts import cli
from tests.conftest import CommandFailed, run_module
from tests.stack import ROOT
from training.commands import CHECKPOINT, RECIPE, Command, Count, Group, Model, as_json, command
from training.outcome import Outcome

CLASSIFIER = Path(sys.executable).with_name("classifier")


@pytest.mark.parametrize(("module", "place"), [("training.ensemble", "folder"), ("training.evaluate", "file")])
def test_an_output_of_the_wrong_kind_is_refused_at_once(module: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    names = ["cifar10_cnn"] * (2 if module == "training.ensemble" else 1)
    with pytest.raises(CommandFailed, match=f"'{tmp_path / place}' is a (directory|file)"):
        run_module(module, *names, "--output", tmp_path / place)


@pytest.mark.parametrize(
    ("kind", "named", "path"),
    [
        (RECIPE, "cnn", ROOT / "training" / "recipes" / "cnn.yaml"),
        (CHECKPOINT, "cifar10_cnn", ROOT / "model_store" / "cifar10_cnn.pth"),
        (RECIPE, "mine", Path("mine")),
        (RECIPE, "cnn.yaml", Path("cnn.yaml")),
        (CHECKPOINT, "runs/mine", Path("runs/mine")),
    ],
)
def test_a_name_means_the_project_s_file_and_a_path_the_users_own(
    kind: click.ParamType, named: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").touch()
    (tmp_path / "cnn").mkdir()  # the folder of a run, say
    assert kind.convert(named, None, None) == path


def test_an_unknown_name_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    done = subprocess.run(
        [CLASSIFIER, "archive", "cifar10_cnm"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("There is no checkpoint 'cifar10_cnm'; name a file, or one of: cifar10_cnn, ")
    assert done.stderr.count("\n") == 1


def test_an_unknown_name_is_reported_to_machines_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "nosuch", "x", "--json"], standalone_mode=False) == 2
    printed = capsys.readouterr()
    reason = json.loads(printed.out)["error"]
    assert reason.startswith("There is no checkpoint 'nosuch'; name a file, or one of: cifar10_cnn, ")
    assert printed.err == f"{reason}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["verify", "--json"], "Missing argument 'CHECKPOINT'."),
        (["predict", "--json", "x", "-o", "x.csv", "--speed", "2"], "No such option '--speed'."),
        (["predict", "x", "-o", "x.csv", "--connections", "0", "--json"], "0 is no number of 1 or more."),
        (["models", "--json", "unregistre"], "No such command 'unregistre'."),
    ],
)
def test_a_wrong_call_is_reported_to_machines_too(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words, standalone_mode=False) == 2
    printed = capsys.readouterr()
    reason = json.loads(printed.out)["error"]
    assert sentence in reason
    assert printed.err == f"{reason}\n"


def test_an_archive_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "known.mar").touch()
    monkeypatch.chdir(tmp_path)
    model = Model("checkpoint", tmp_path / "store", ".pth")
    assert model.convert("known.mar", None, None) == tmp_path / "store" / "known.mar"
    assert model.convert("other.mar", None, None) == Path("other.mar")
    (tmp_path / "known.mar").touch()
    assert model.convert("known.mar", None, None) == Path("known.mar")


def works() -> Outcome:
    return Outcome(0, "text", {"it": "works"})


def called(*words: str) -> tuple[int, list[int]]:
    """Call a command with options of several kinds; returns its status and the numbers that it got."""
    got: list[int] = []

    @command("count")
    @click.argument("name")
    @click.option("--numbers", type=Count(), multiple=True)
    @click.option("--seconds", type=float)
    def main(name: str, numbers: tuple[int, ...], seconds: float) -> None:
        got.extend(numbers)

    return main([*words], "count", standalone_mode=False), got


def test_an_option_takes_several_values_at_once_or_one_by_one() -> None:
    assert called("x", "--numbers", "1", "2", "3") == (0, [1, 2, 3])
    assert called("x", "--numbers", "1", "--seconds", "4", "--numbers", "2") == (0, [1, 2])
    assert called("--numbers=1", "x") == (0, [1])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "Missing argument 'NAME'. See 'count --help'."),
        (("x", "--second", "1"), "No such option '--second'. Did you mean '--seconds'? See 'count --help'."),
        (("x", "--numbers", "0"), "Invalid value for '--numbers': 0 is no number of 1 or more. See 'count --help'."),
        (("x", "--seconds", "soon"), "Invalid value for '--seconds': 'soon' is not a valid float. See 'count --help'."),
    ],
)
def test_a_wrong_call_ends_with_one_sentence_and_status_2(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(*words)[0] == 2
    assert capsys.readouterr() == ("", f"{sentence}\n")


def test_json_may_be_asked_for_before_and_after_a_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    main = as_json(Group("main", callback=lambda: None))
    main.add_command(as_json(Command("sub", callback=works)))
    for words in (["--json", "sub"], ["sub", "--json"]):
        assert main(words, standalone_mode=False) == 0
        assert capsys.readouterr().out == '{\n  "it": "works"\n}\n'
    assert main(["sub"], standalone_mode=False) == 0
    assert capsys.readouterr().out == "text\n"


def test_ctrl_c_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert Command("main", callback=interrupted, interrupted="Call it again.")([], standalone_mode=False) == 2
    assert capsys.readouterr().err == "Call it again.\n"


@pytest.mark.slow
def test_works_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "cifar10_cnn", "--output", "here.pt"], standalone_mode=False) == 0
    assert capsys.readouterr().out.startswith("wrote here.pt, equal to the classifier within ")
    assert [path.name for path in tmp_path.iterdir()] == ["here.pt"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("optimizer.momentun=0.9", r"no field 'optimizer.momentun'; 'optimizer' has the fields name, lr, other_lr, "),
        ("learning_rate=0.1", r"no field 'learning_rate'; it has the fields name, architecture, "),
        ("seed.first=1", r"no field 'seed.first'; 'seed' has no fields"),
        ("optimizer.lr=-1", r"^--set optimizer.lr=-1: optimizer.lr must be greater than 0\."),
        ("epochs=[", r"--set epochs: '\[' is not YAML"),
        ("epochs", r"'epochs' must be FIELD=VALUE"),
    ],
)
@pytest.mark.parametrize("module", ["training.train", "training.tune"])
def test_a_field_that_cannot_be_set_is_refused(module: str, setting: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=sentence):
        run_module(module, "--recipe", "cnn", "--set", setting, "--output", tmp_path / "out")
    assert not list(tmp_path.iterdir())

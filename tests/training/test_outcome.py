"""How every command ends: with one JSON document or text, or with one sentence where it stops."""

import json
from pathlib import Path

import pytest

from training.files import written_whole
from training.outcome import Outcome, Stopped, end


def test_json_is_all_there_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(lambda: Outcome(1, "one is wrong", {"wrong": 1}), as_json=True) == 1
    assert json.loads(capsys.readouterr().out) == {"wrong": 1}


@pytest.mark.parametrize(
    ("error", "sentence"), [(Stopped("There is no model."), "There is no model."), (KeyboardInterrupt, "Interrupted.")]
)
def test_says_in_a_sentence_why_it_stops(
    error: BaseException, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def stops() -> Outcome:
        raise error

    for as_json in (False, True):
        assert end(stops, as_json) == 2
        printed = capsys.readouterr()
        assert printed.err == f"{sentence}\n"
        assert (json.loads(printed.out) if as_json else printed.out) == ({"error": sentence} if as_json else "")


def test_a_command_that_has_printed_its_result_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(lambda: print("accuracy 93 %")) == 0
    assert capsys.readouterr().out == "accuracy 93 %\n"


def test_a_mistake_of_ours_shows_where_it_is() -> None:
    with pytest.raises(FileNotFoundError):
        end(lambda: Path("missing").unlink())


def test_names_the_file_for_which_there_is_no_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> None:
        with written_whole(tmp_path / "report.md") as file, Path("/dev/full").open("w") as full:
            file.touch()
            full.write("figures")

    assert end(fill) == 2
    reason = f"{tmp_path}/report.md cannot be used (No space left on device); make room, allow it, or name another.\n"
    assert capsys.readouterr().err == reason
    assert not list(tmp_path.iterdir())

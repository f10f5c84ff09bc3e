"""`classifier feedback`: from what the gateway keeps, by a person's decisions on a page, to photos to train on."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from gateway import feedback as kept_by_the_gateway
from tests.conftest import CommandFailed, run_module
from tests.drawing import draw, encode
from tests.gateway.test_feedback import gateway, predict, send
from training.curation import feedback
from training.folders import FEEDBACK_FILE, from_feedback
from training.outcome import Stopped

IMAGES = {name: encode(draw(name, 1), "JPEG") for name in ("red", "blue", "lime", "pink")}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that the gateway has filled: two classes, a nonsense one, and an image that nobody has labelled."""
    folder = tmp_path / "feedback"
    client = gateway(monkeypatch, folder)
    send(client, IMAGES["red"], id=predict(client, IMAGES["red"]), name="red", note="as <b>red</b> as can be")
    send(client, IMAGES["blue"], name="blue")
    send(client, IMAGES["lime"], name="you're all wrong")
    store: kept_by_the_gateway.Feedback = client.application.extensions["feedback"]
    store.keep(
        IMAGES["pink"], kept_by_the_gateway.UNLABELLED, {"predicted_class": "cat", "confidence": 0.2, "version": "1.0"}
    )
    return folder


def run(*arguments: object) -> dict[str, Any]:
    return json.loads(run_module("training.feedback", *arguments, "--json"))


def test_both_rooms_mean_the_same_folder() -> None:
    assert feedback.UNLABELLED == kept_by_the_gateway.UNLABELLED


def test_nothing_is_learned_that_nobody_accepted(folder: Path, page: Page, tmp_path: Path) -> None:
    html, photos = tmp_path / "feedback.html", tmp_path / "photos"
    assert run("review", folder, "-o", html) == {"waiting": 4}
    page.goto(html.as_uri())
    cards = page.locator(".cards li")
    expect(cards).to_have_count(4)
    red = cards.filter(has_text="Somebody: it is red")
    expect(red).to_contain_text("Predicted as cat (100%, version 1.0). Somebody: it is red. “as <b>red</b> as can be”")
    red.locator("select").select_option("It is red")
    cards.filter(has_text="Somebody: it is blue").locator("select").select_option("Decide later")
    cards.filter(has_text="Somebody: it is you're").locator("select").select_option("Discard")
    cards.filter(has_text="Predicted as cat (20%").locator("select").select_option("It is blue")
    expect(page.locator("#count")).to_have_text("3 moves confirmed")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the confirmed moves").click()
    download.value.save_as(tmp_path / "moves.csv")
    assert run("accept", folder, tmp_path / "moves.csv", "--to", photos) == {
        "accepted": 2,
        "discarded": 1,
        "copies": 0,
        "gone": 0,
    }
    accepted = {path.relative_to(photos).parts[0]: path.read_bytes() for path in photos.rglob("*.jpg")}
    assert accepted == {"red": IMAGES["red"], "blue": IMAGES["pink"]}
    assert [path.read_bytes() for path in folder.rglob("*.jpg")] == [IMAGES["blue"]]
    record = [json.loads(line) for line in (photos / FEEDBACK_FILE).read_text().splitlines()]
    assert {line["class"] for line in record} == {"red", "blue"}
    assert run("review", folder, "-o", html) == {"waiting": 1}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("red/nothing.jpg,red", "has no image"),
        ("{red},red\n{red},blue", "stands in two rows"),
        ("../feedback.html,red", "has no image"),
        ("{red},../up", "cannot be a class"),
        ("{red},.hidden", "cannot be a class"),
        ("{red},a/b", "cannot be a class"),
        ("../photos-of-mine/red/1.jpg,", "has no image"),
        ("feedback/{red},", "has no image"),
        ("red/1.jpg,", "has no image"),  # as in the moves of 'classifier check'
        ("{twin},lime", "goes to two classes"),
    ],
)
def test_decisions_are_carried_out_all_or_none(folder: Path, tmp_path: Path, row: str, words: str) -> None:
    red, blue = (next((folder / name).glob("*.jpg")).relative_to(folder) for name in ("red", "blue"))
    mine = tmp_path / "photos-of-mine" / "red" / "1.jpg"
    mine.parent.mkdir(parents=True)
    mine.touch()
    row = row.format(red=red, twin=f"lime/{blue.name}")
    (tmp_path / "moves.csv").write_text(f"file,to\n{blue},blue\n{row}\n")
    with pytest.raises(CommandFailed, match=words):
        run("accept", folder, tmp_path / "moves.csv", "--to", tmp_path / "photos")
    assert len([*folder.rglob("*.jpg")]) == 4
    assert mine.exists()
    assert not (tmp_path / "photos").exists()


@pytest.mark.parametrize("to", [".", "red", ".."])
def test_photos_and_feedback_are_two_folders(folder: Path, tmp_path: Path, to: str) -> None:
    red = next((folder / "red").glob("*.jpg")).relative_to(folder)
    (tmp_path / "moves.csv").write_text(f"file,to\n{red},red\n")
    with pytest.raises(CommandFailed, match="lie in each other, so nothing was moved"):
        run("accept", folder, tmp_path / "moves.csv", "--to", folder / to)
    assert (folder / red).exists()


def test_a_hidden_folder_of_feedback_may_lie_among_the_photos(folder: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "photos" / ".feedback"
    hidden.parent.mkdir()
    folder.rename(hidden)
    red = next((hidden / "red").glob("*.jpg")).relative_to(hidden)
    (tmp_path / "moves.csv").write_text(f"file,to\n{red},red\n")
    assert run("accept", hidden, tmp_path / "moves.csv", "--to", tmp_path / "photos")["accepted"] == 1


def test_a_file_that_somebody_put_there_is_accepted_but_not_discarded(folder: Path, tmp_path: Path) -> None:
    mine = folder / "red" / "IMG_1.jpg"
    mine.write_bytes(IMAGES["red"])
    assert run("review", folder, "-o", tmp_path / "feedback.html") == {"waiting": 5}
    (tmp_path / "moves.csv").write_text("file,to\nred/IMG_1.jpg,\n")
    with pytest.raises(CommandFailed, match=r"red/IMG_1\.jpg is not the gateway's, so nothing was deleted"):
        run("accept", folder, tmp_path / "moves.csv", "--to", tmp_path / "photos")
    assert mine.exists()
    (tmp_path / "moves.csv").write_text("file,to\nred/IMG_1.jpg,red\n")
    assert run("accept", folder, tmp_path / "moves.csv", "--to", tmp_path / "photos")["accepted"] == 1


def test_what_has_gone_meanwhile_stops_nothing(folder: Path, tmp_path: Path) -> None:
    red, blue = (next((folder / name).glob("*.jpg")).relative_to(folder) for name in ("red", "blue"))
    (tmp_path / "moves.csv").write_text(f"file,to\n{blue},blue\n{red},\n")
    (folder / red).unlink()  # it was too old
    expected = [
        {"accepted": 1, "discarded": 0, "copies": 0, "gone": 1},
        {"accepted": 0, "discarded": 0, "copies": 0, "gone": 2},
    ]
    assert [run("accept", folder, tmp_path / "moves.csv", "--to", tmp_path / "photos") for _ in range(2)] == expected


def test_a_photo_may_lie_in_a_folder_of_its_class(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "photos" / "red" / "2024" / "mine.jpg"
    place.parent.mkdir(parents=True)
    place.write_bytes(IMAGES["red"])
    red = next((folder / "red").glob("*.jpg")).relative_to(folder)
    (tmp_path / "moves.csv").write_text(f"file,to\n{red},red\n")
    assert run("accept", folder, tmp_path / "moves.csv", "--to", tmp_path / "photos")["copies"] == 1


def test_a_line_that_a_full_disk_has_torn_hides_no_other(folder: Path, page: Page, tmp_path: Path) -> None:
    said = next((folder / "red").glob("*.jsonl"))
    said.write_text('{"class": "re' + "\n" + said.read_text())
    run("review", folder, "-o", tmp_path / "feedback.html")
    page.goto((tmp_path / "feedback.html").as_uri())
    expect(page.locator(".cards li").filter(has_text="Somebody: it is red")).to_have_count(1)


def test_a_heic_photo_waits_though_it_cannot_be_shown(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.folders.READS_HEIC", False)
    monkeypatch.setattr(feedback, "READS_HEIC", False)
    (folder / "red" / f"{'0' * 64}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert run("review", folder, "-o", tmp_path / "feedback.html") == {"waiting": 5}
    assert "pip install pillow-heif" in (tmp_path / "feedback.html").read_text()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / FEEDBACK_FILE).write_text('{"file": "a.jpg"}\n{"fi')
    with pytest.raises(Stopped, match="is damaged"):
        from_feedback(tmp_path)


def test_photos_that_are_split_get_more_to_train_on(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("red", "blue"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
    red = next((folder / "red").glob("*.jpg")).relative_to(folder)
    (tmp_path / "moves.csv").write_text(f"file,to\n{red},blue\n")
    run("accept", folder, tmp_path / "moves.csv", "--to", tmp_path / "photos")
    assert [path.parent.relative_to(tmp_path).as_posix() for path in (tmp_path / "photos").rglob("*.jpg")] == [
        "photos/train/blue"
    ]


def test_a_photo_that_is_there_already_is_not_learned(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "photos" / "test" / "red" / "mine.jpg"
    for split in ("train", "test"):
        (tmp_path / "photos" / split / "red").mkdir(parents=True)
    place.write_bytes(IMAGES["red"])
    red, blue = (next((folder / name).glob("*.jpg")).relative_to(folder) for name in ("red", "blue"))
    (tmp_path / "moves.csv").write_text(f"file,to\n{red},blue\n{blue},blue\n")
    with pytest.raises(CommandFailed, match=f"{red} is {place} too, which is no 'blue', so nothing was moved"):
        run("accept", folder, tmp_path / "moves.csv", "--to", tmp_path / "photos")
    assert len([*folder.rglob("*.jpg")]) == 4
    (tmp_path / "moves.csv").write_text(f"file,to\n{red},red\n{blue},blue\n")
    said = run("accept", folder, tmp_path / "moves.csv", "--to", tmp_path / "photos")
    assert said == {"accepted": 1, "discarded": 0, "copies": 1, "gone": 0}
    assert {path.relative_to(tmp_path / "photos") for path in (tmp_path / "photos").rglob("*.jpg")} == {
        Path("test/red/mine.jpg"),
        Path("train/blue") / blue.name,
    }
    assert not (folder / red).exists()


def test_a_folder_without_feedback(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="There is no folder"):
        run("review", tmp_path / "nowhere")
    (tmp_path / "feedback").mkdir()
    assert run("review", tmp_path / "feedback", "-o", tmp_path / "page.html") == {"waiting": 0}

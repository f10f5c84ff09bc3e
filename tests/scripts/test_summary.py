"""What a user reads at the end: accuracy, and a table of what is confused."""

import pytest

from scripts.predictions import Row
from scripts.summary import UNCERTAIN, as_document, as_text, summarise

CLASSES = ["airplane", "automobile", "bird"]


def row(file: str, predicted: str | None, confidence: float = 0.5) -> Row:
    return [file, predicted, confidence, True, None if predicted else "It cannot be read."]


ROWS = [
    *[row(f"airplane/{number}.png", "airplane") for number in range(1000)],
    row("airplane/x.png", "bird"),
    row("bird/1.png", "automobile"),
    row("bird/2.png", None),
    row("holiday/1.png", "bird"),
]


def test_the_table_has_true_classes_down_and_predicted_ones_across(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert as_text(summarise(ROWS, CLASSES), CLASSES) == [
        "accuracy 99.70% (1,000 of 1,003 in folders named as classes)",
        "rows: true class, columns: predicted class",
        "             airplane automobile       bird",
        "airplane         1000          .          1",
        "bird                .          1          .",
    ]


def test_ten_classes_fit_a_terminal_and_a_thousand_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for count, lines in ((10, 13), (1000, 2)):
        classes = [f"number {index}" for index in range(count)]
        text = as_text(summarise([row(f"{name}/1.png", name) for name in classes], classes), classes)
        assert len(text) == lines
        assert count > 10 or max(map(len, text)) <= 80
    assert text[1].startswith("1000 classes make too wide a table")


@pytest.mark.parametrize("files", [["holiday/1.png"], []])
def test_without_labels_there_is_nothing_to_be_right(files: list[str]) -> None:
    summary = summarise([row(file, "bird") for file in files], CLASSES)
    assert as_text(summary, CLASSES) == []
    document = as_document(summary, CLASSES)
    assert (document["images"], document["accuracy"], document["confusion"]) == (len(files), None, None)


def test_labels_of_files_that_all_failed() -> None:
    assert as_text(summarise([row("bird/1.png", None)], CLASSES), CLASSES)[0].startswith("accuracy 0.00% (0 of 1 ")


def test_machines_get_every_count() -> None:
    document = as_document(summarise(ROWS, CLASSES), CLASSES)
    assert {name: document[name] for name in ("images", "classified", "failed", "labelled", "right")} == {
        "images": 1004,
        "classified": 1003,
        "failed": 1,
        "labelled": 1003,
        "right": 1000,
    }
    assert document["confusion"]["airplane"] == {"airplane": 1000, "automobile": 0, "bird": 1}


def test_the_least_certain_are_kept_the_lowest_first() -> None:
    rows = [row(f"{number}.png", "bird", confidence=(number * 37 % 100) / 100) for number in range(100)]
    summary = summarise([*rows, row("broken.png", None)], CLASSES)
    assert [confidence for confidence, _, _ in summary.uncertain] == [number / 100 for number in range(UNCERTAIN)]

"""What a user reads at the end: accuracy, and a table of what is confused."""

from pathlib import Path

import pytest

from scripts.batch.rows import Row
from scripts.batch.summary import UNCERTAIN, as_document, as_text, summarise

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
        "accuracy 99.80% (1,000 of 1,002 in folders named as classes; 1 not predicted)",
        "not in accuracy: the folder holiday is no class of the model",
        "rows: true class, columns: predicted class",
        "           airplane automobile bird",
        "airplane       1000          .    1",
        "bird              .          1    .",
    ]


def test_names_that_do_not_fit_are_numbered_and_a_thousand_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "34")
    assert as_text(summarise(ROWS, CLASSES), CLASSES)[-4:] == [
        "                1    2    3",
        "1 airplane   1000    .    1",
        "2 automobile    .    .    .",
        "3 bird          .    1    .",
    ]
    classes = [f"number {index}" for index in range(1000)]
    assert as_text(summarise([row("number 7/1.png", "number 7")], classes), classes)[1].startswith(
        "1000 classes make the table of confused classes too wide"
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], []),
        (["one.png"], []),
        (["holiday/1.png", "holiday/2.png"], ["no accuracy: the folder holiday is no class of the model"]),
        (["a/1.png", "c/1.png", "b/1.png"], ["no accuracy: the folders a, b, c are no classes of the model"]),
        (
            [f"{number}/1.png" for number in range(1009)],
            ["no accuracy: the folders 0, 1, 10 and 1,006 more are no classes of the model"],
        ),
        (["caf\udce9/1.png"], ["no accuracy: the folder caf\\xe9 is no class of the model"]),
    ],
)
def test_without_labels_there_is_nothing_to_be_right(files: list[str], said: list[str]) -> None:
    summary = summarise([row(file, "bird") for file in files], CLASSES)
    assert as_text(summary, CLASSES) == said
    document = as_document(summary, CLASSES)
    assert (document["images"], document["accuracy"], document["confusion"]) == (len(files), None, None)
    assert document["folders_without_class"] == sorted({file.rpartition("/")[0] for file in files} - {""})


def test_labels_of_files_that_all_failed() -> None:
    summary = summarise([row("bird/1.png", None), row("bird/2.png", None)], CLASSES)
    assert as_text(summary, CLASSES) == ["no accuracy: 2 images in folders named as classes, none predicted"]
    document = as_document(summary, CLASSES)
    assert {document[name] for name in ("labelled", "labelled_failed")} == {2}
    assert (document["accuracy"], document["confusion"]) == (None, None)


def test_machines_get_every_count() -> None:
    document = as_document(summarise(ROWS, CLASSES), CLASSES)
    assert {
        name: document[name] for name in ("images", "classified", "failed", "labelled", "labelled_failed", "right")
    } == {
        "images": 1004,
        "classified": 1003,
        "failed": 1,
        "labelled": 1003,
        "labelled_failed": 1,
        "right": 1000,
    }
    assert document["confusion"]["airplane"] == {"airplane": 1000, "automobile": 0, "bird": 1}


def test_the_least_certain_are_kept_the_lowest_first() -> None:
    rows = [row(f"{number}.png", "bird", confidence=(number * 37 % 100) / 100) for number in range(100)]
    summary = summarise([*rows, row("broken.png", None)], CLASSES)
    assert [confidence for confidence, _, _ in summary.uncertain] == [number / 100 for number in range(UNCERTAIN)]


def test_the_label_is_the_first_folder_below_what_was_named() -> None:
    rows = [
        row("test/bird/2024/1.png", "bird"),
        row("test/bird/airplane/2.png", "bird"),
        row("test/2024/3.png", "bird"),
    ]
    summary = summarise(rows, CLASSES, [Path("test")])
    assert summary.confusion == {("bird", "bird"): 2}
    assert (summary.labelled, summary.strangers) == (2, {"2024"})

import csv
from pathlib import Path

from PIL import Image

from training.checkpoint import load


def test_csv_and_torch_file_hold_the_same(trained: Path) -> None:
    with (trained / "training_history.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == load(trained / "training_history.pth")
    assert list(rows[0]) == [
        "epoch",
        "lr",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "seconds",
    ]


def test_plot_is_a_picture(trained: Path) -> None:
    with Image.open(trained / "training_history.png") as plot:
        assert plot.size == (1200, 480)
        assert len(plot.convert("RGB").getcolors(1 << 20) or []) > 50

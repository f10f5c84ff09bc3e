"""The history of a run, one row for each epoch, as a torch file, as CSV and as a plot."""

import csv
from pathlib import Path

from matplotlib.figure import Figure

from training.checkpoint import save
from training.files import save_figure, written_whole

Row = dict[str, float]


def write_history(history: list[Row], folder: Path) -> None:
    """Write `training_history.pth`, `.csv` and `.png` into `folder`."""
    save(history, folder / "training_history.pth")
    with written_whole(folder / "training_history.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=history[0])
        writer.writeheader()
        writer.writerows(history)
    save_figure(_plot(history), folder / "training_history.png", dpi=120)


def _plot(history: list[Row]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for panel, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part in ("train", "validation"):
            panel.plot(epochs, [row[f"{part}_{quantity}"] for row in history], label=part)
        panel.set(xlabel="epoch", ylabel=quantity)
        panel.grid(alpha=0.3)
        panel.legend()
    return figure

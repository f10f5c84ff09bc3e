"""Join checkpoints into one that predicts their weighted mean. You export, archive and serve it like any other.

    classifier ensemble runs/a/a.pth runs/b/b.pth -o runs/both.pth

The weights are fitted on the validation images, which must be the same for all members.
"""

from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from training import commands
from training.checkpoint import (
    Checkpoint,
    CheckpointError,
    distinct_inputs,
    join_networks,
    load_checkpoint,
    save_checkpoint,
    was_trained_on,
)
from training.data import load_images, stratified_split
from training.finish import finish
from training.metrics import predict


def join(members: list[Checkpoint], data: Path | None, name: str) -> Checkpoint:
    """Make one checkpoint of several. Raises CheckpointError if their classes or training images differ."""
    for member in members:
        member.check_trained()
    cards = [member.card for member in members]
    recipe = cards[0]["recipe"]
    inputs = distinct_inputs({"members": [card["recipe"] for card in cards]})
    split = recipe["validation_fraction"], recipe["split_seed"]
    training, validation = stratified_split(load_images(data, "train", inputs), *split)
    for member in members:
        if member.card["classes"] != training.classes or not was_trained_on(member, training, data, split):
            raise CheckpointError(
                f"{member.card['name']} was not trained on these images, or on another split of them; "
                "join only checkpoints with the same training images."
            )
    classifiers = [member.single() for member in members]
    log_probabilities = torch.stack(
        [
            predict(classifier, validation.inputs.of(member.inputs))[0].log_softmax(dim=1)
            for classifier, member in zip(classifiers, members, strict=True)
        ]
    )
    joined = {
        "members": [card["recipe"] for card in cards],
        "temperatures": [member.temperature for member in classifiers],
        "weights": fit_weights(log_probabilities, validation.labels),
    }
    network = join_networks(joined, [classifier.network for classifier in classifiers])
    metrics = {"members": [{"name": card["name"], **card["metrics"]["test"]} for card in cards]}
    return finish(network.state_dict(), name, joined, training, validation, data, metrics)


def fit_weights(log_probabilities: Tensor, labels: Tensor) -> list[float]:
    """Return the weights, of sum 1, that mix the members' probabilities (M, N, C) to the least cross-entropy."""
    scores = torch.zeros(len(log_probabilities), 1, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.nll_loss((log_probabilities + scores.log_softmax(dim=0)).logsumexp(dim=0), labels)
        value.backward()
        return value

    optimizer.step(loss)
    return scores.flatten().softmax(dim=0).tolist()


@commands.command("ensemble", help=__doc__)
@click.argument("checkpoints", type=commands.CHECKPOINT, nargs=-1, required=True, help="the members, by name or file")
@commands.data("photos that the members were trained on")
@commands.output("the checkpoint to write", required=True)
def main(checkpoints: tuple[Path, ...], data: Path | None, output: Path) -> None:
    ensemble = join([load_checkpoint(path) for path in checkpoints], data, output.stem)
    save_checkpoint(ensemble, output)
    for member, weight in zip(ensemble.card["metrics"]["members"], ensemble.card["recipe"]["weights"], strict=True):
        print(f"{member['name']}: test accuracy {member['accuracy']:.2%}, weight {weight:.2f}")
    print(f"together: test accuracy {ensemble.card['metrics']['test']['accuracy']:.2%}; wrote {output}")


if __name__ == "__main__":
    main()

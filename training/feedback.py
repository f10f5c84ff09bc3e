"""Review what people told the gateway, and make photos to train on from it.

    classifier feedback review feedback
    classifier feedback accept feedback moves.csv --to my-photos

The gateway keeps feedback in the folder that GATEWAY_FEEDBACK_DIR names. `review` writes a page on which you decide for
each image, and save that as moves.csv. `accept` carries it out. Exit status: 0 done, 2 stopped before the end.
"""

from pathlib import Path

import click

from training.commands import CHECKPOINT, PATH, Group, as_json
from training.outcome import Outcome

PAGE = Path("feedback.html")

main = Group("feedback", help=__doc__)
folder = click.argument("folder", type=PATH, metavar="FOLDER", help="the folder that GATEWAY_FEEDBACK_DIR names")


@main.command("review")
@folder
@click.option("--checkpoint", type=CHECKPOINT, metavar="NAME|FILE", help="offer the classes of this checkpoint too")
@click.option("-o", "--output", type=PATH, default=PAGE, metavar="HTML", help=f"the page (default: {PAGE})")
@as_json
def review(folder: Path, checkpoint: Path | None, output: Path) -> Outcome:
    """Write a page to accept, correct or discard feedback.

    classifier feedback review feedback --checkpoint cifar10_pair
    """
    from training.checkpoint import load_checkpoint
    from training.curation.feedback import write_review
    from training.files import check_writable

    check_writable(output.parent)
    classes = load_checkpoint(checkpoint).card["classes"] if checkpoint else []
    waiting = write_review(folder, classes, output)
    next_step = (
        f"Open {output}, decide, save that, then run 'classifier feedback accept {folder} moves.csv --to PHOTOS'."
    )
    return Outcome(0, f"{waiting:,} images wait for a review. {next_step}", {"waiting": waiting})


@main.command("accept")
@folder
@click.argument("moves", type=PATH, metavar="CSV", help="the file that you saved on the page")
@click.option(
    "--to", "photos", type=PATH, required=True, metavar="PHOTOS", help="the folder of photos; made if need be"
)
@as_json
def accept(folder: Path, moves: Path, photos: Path) -> Outcome:
    """Move accepted images to your photos, and delete discarded ones.

    classifier feedback accept feedback moves.csv --to my-photos
    """
    from training.curation import feedback
    from training.curation.moves import read_moves

    done = feedback.accept(folder, read_moves(moves), photos)
    text = f"Moved {done.accepted:,} images to {photos}, and deleted {done.discarded:,}."
    if done.copies:
        text += f" {done.copies:,} were there already."
    if done.gone:
        text += f" {done.gone:,} had gone from {folder} before."
    return Outcome(0, text, done._asdict())


if __name__ == "__main__":
    main()

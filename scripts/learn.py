#!/usr/bin/env python3
"""Learn from accepted feedback, and serve the result if it is no worse.

    classifier learn my-photos --checkpoint runs/photos/photos.pth --dry-run
    classifier learn my-photos --checkpoint runs/photos/photos.pth

The folder has the photos that the checkpoint was trained on, and the feedback that 'classifier feedback accept' has
moved there. The checkpoint learns from all of them. It must not be worse on the test photos that were there before.
Then it is packed as the next version, and rolled in. Run the command again if it was stopped: it continues. Exit
status: 0 done, 2 stopped before the end.
"""

from typing import Any

import click

from scripts import options
from training.commands import CHECKPOINT, COUNT, PATH, as_json, command, output
from training.outcome import Outcome


@command("learn", help=__doc__)
@click.argument("photos", type=PATH, metavar="FOLDER", help="your photos, with accepted feedback among them")
@click.option("--checkpoint", type=CHECKPOINT, required=True, metavar="NAME|FILE", help="the served checkpoint")
@click.option("--epochs", type=COUNT, default=4, metavar="N", help="times to go through the photos (default: 4)")
@click.option("--tolerance", type=float, default=0.01, metavar="X", help="share of old photos to lose (default: 0.01)")
@click.option("--roll/--no-roll", default=True, help="serve the result (default), or only write the checkpoint")
@click.option("--dry-run", is_flag=True, help="only say what would be done (split.csv gets the new photos)")
@output("folder for the run (default: a new one in runs)", "FOLDER")
@options.product
@as_json
def main(**given: Any) -> Outcome:
    from scripts.serving.learning import Options, learn

    return learn(Options(**given))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Compare the predictions in the log with the validation images: does the model still know the images that come?

    classifier drift
    classifier drift .run/gateway.log.1 .run/gateway.log --json

The gateway has to keep predictions in its log, with GATEWAY_LOG_PREDICTIONS=1. The mean confidence is the accuracy to
expect, if the model is calibrated for such images. The distance of the class shares is half the sum of their
differences, from 0 to 1. Exit status: 0 as in validation, 1 drifted, 2 stopped before the end.
"""

from pathlib import Path
from typing import Any

import click

from scripts import options
from training.commands import PATH, as_json, command
from training.outcome import Outcome


@command("drift", help=__doc__)
@click.argument("logs", type=PATH, nargs=-1, metavar="LOG...", help="logs of the gateway (default: those of .run)")
@options.client
@as_json
def main(logs: tuple[Path, ...], **reach: Any) -> Outcome:
    from scripts.batch.drift import drift

    return drift(logs, **reach)


if __name__ == "__main__":
    main()

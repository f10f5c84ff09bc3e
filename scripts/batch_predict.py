#!/usr/bin/env python3
"""Predict many images and write one row each, in order, to a CSV, JSON Lines or Parquet file.

    classifier predict my-images/test -o predictions.csv
    classifier predict 'photos/**/*.jpg' -o all.parquet --contact-sheet a.png
    find photos -mtime -1 | classifier predict --list - -o new.jsonl --top-k 5
    classifier predict drop-folder --watch -o predictions.csv
    classifier predict s3://my/photos --engine ray --archive my.mar -o rows

Folders and globs are searched for JPEG, PNG, GIF and WebP files; other files are skipped, and counted. If the first
folders below the named ones are classes, the accuracy and the confused classes are printed. Rows are gathered in
<output>.part, which becomes the output at the end. If the command stops early, run it again: it continues, and repeats
images that failed or changed. With --watch rows are appended to the output itself, until Ctrl-C or SIGTERM.

With --engine ray an archive's own code predicts, on all cores of a Ray cluster or of this machine, without a gateway.
Images may then also lie below URLs of object stores, or in Parquet files with their names (`path` or `file`) and
contents (`bytes` or `image`). The output is a folder, or URL, of Parquet files with the same columns.

Exit status: 0 all predicted, 1 some not (see the column `error`), 2 stopped before the end.
"""

from typing import Any

import click

from scripts import options
from training.commands import PATH, Count, as_json, command
from training.outcome import Outcome


@command("predict", help=__doc__)
@options.images
@click.option("-o", "--output", required=True, metavar="FILE", help=".csv, .jsonl or .parquet; a folder for Ray")
@click.option("--watch", is_flag=True, help="continue with files that appear, until Ctrl-C")
@click.option("--contact-sheet", type=PATH, metavar="PNG", help="draw the least certain images")
@click.option("--top-k", type=Count(0), metavar="K", help="write the K likeliest classes, not all probabilities")
@options.client
@click.option("--engine", type=click.Choice(["gateway", "ray"]), default="gateway", help="engine (default: gateway)")
@click.option("--archive", type=PATH, metavar="MAR", help="the model, with --engine ray")
@click.option("--address", help="the cluster, with --engine ray (default: RAY_ADDRESS, or this machine)")
@as_json
def main(**given: Any) -> Outcome:
    from scripts.batch.predict import Options, predict

    return predict(Options(**given))


if __name__ == "__main__":
    main()

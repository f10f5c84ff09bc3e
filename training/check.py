"""Look at your photos before you train: files, copies, pictures that stand out, and likely wrong labels.

    classifier check my-photos
    classifier check my-photos --apply ~/Downloads/moves.csv
    classifier check my-photos --undo

The folder is one that `classifier train` takes. The command writes check.html, a page with pictures. There you confirm
moves, and save them as moves.csv. It also writes proposed.csv, with all moves that it proposes.

With --apply it makes the moves in a file: to the folder of another class, or out of the data to the folder .taken_out.
With --undo it takes the last moves back.

Exit status: 0 done, 2 stopped before the end.
"""

from pathlib import Path
from typing import Any

import click

from training.commands import PATH, as_json, command
from training.outcome import Outcome, Stopped

PAGE, PROPOSED = "check.html", "proposed.csv"


@command("check", help=__doc__)
@click.argument(
    "folder", type=PATH, metavar="FOLDER", help="a folder with <class>/*, or train/<class>/* and test/<class>/*"
)
@click.option("-o", "--output", type=PATH, default=Path(), metavar="FOLDER", help="for the page (default: this folder)")
@click.option("--apply", "moves", type=PATH, metavar="CSV", help="make the moves in a file")
@click.option("--undo", is_flag=True, help="take back the moves that were made last")
@as_json
def main(folder: Path, output: Path, moves: Path | None, undo: bool) -> Outcome:
    if moves and undo:
        raise Stopped("--apply makes moves and --undo takes them back; name one of them.")
    if undo:
        return _undo(folder)
    return _apply(folder, moves) if moves else _check(folder, output)


def _check(folder: Path, output: Path) -> Outcome:
    from training.curation.copies import copies
    from training.curation.examine import examine
    from training.curation.labels import wrong_labels
    from training.curation.moves import write_moves
    from training.curation.outstanding import outstanding
    from training.curation.report import Findings, proposed, summary, write_report
    from training.files import check_writable

    check_writable(output)
    examined = examine(folder)
    findings = Findings(
        examined,
        copies(examined.photos),
        outstanding(examined.photos),
        wrong_labels(examined.features, examined.labels, len(examined.classes), examined.head),
    )
    write_report(findings, output / PAGE)
    write_moves(output / PROPOSED, proposed(findings))
    next_step = (
        f"Open {output / PAGE}, confirm moves, save them, then run 'classifier check {folder} --apply moves.csv'."
    )
    document: dict[str, Any] = {
        "photos": len(examined.photos),
        "unreadable": examined.unreadable,
        "skipped": examined.skipped,
        "copies": [
            {
                "first": str(examined.photos[pair.first].path),
                "second": str(examined.photos[pair.second].path),
                "exact": pair.exact,
            }
            for pair in findings.copies
        ],
        "outstanding": {str(examined.photos[at].path): why for at, why in findings.outstanding},
        "wrong_labels": [
            {
                "file": str(examined.photos[wrong.photo].path),
                "label": examined.photos[wrong.photo].label,
                "likely": examined.classes[wrong.likely],
            }
            for wrong in findings.wrong
        ],
    }
    return Outcome(0, "\n".join([*summary(findings), next_step]), document)


def _apply(folder: Path, moves: Path) -> Outcome:
    from training.class_folders import classes_of, has_splits
    from training.curation.moves import make, read_moves

    wanted = read_moves(moves)
    make(folder, classes_of(folder), wanted, has_splits(folder))
    text = f"Made {len(wanted):,} moves. 'classifier check {folder} --undo' takes them back."
    return Outcome(0, text, {"moves": len(wanted)})


def _undo(folder: Path) -> Outcome:
    from training.curation.moves import undo

    undone = undo(folder)
    return Outcome(0, f"Took back {undone:,} moves.", {"moves": undone})


if __name__ == "__main__":
    main()

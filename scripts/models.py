#!/usr/bin/env python3
"""Manage the versions of the model that are served.

    classifier models roll second.mar --sample my-images/test --json

`roll` registers an archive and compares its version with the served one. If it is no worse, it is
served instead, and no request is lost. Exit status: 0 done, 2 stopped before the end.
"""

import click

from scripts import options
from scripts.serving import deployment, versions
from training.commands import COUNT, PATH, Command, Group, as_json

main = as_json(options.product(Group("models", help=__doc__, callback=click.pass_context(options.keep))))
ARCHIVE = click.Argument(["archive"], help="its file; one from elsewhere is copied into the model store")
VERSION = click.Argument(["version"], help="a version, as `classifier models list` shows it")
WORKERS = click.Argument(["workers"], type=COUNT, help="how many workers the version gets")
ANY_VERSION = click.Argument(["version"], required=False, help="a version (default: the default version)")
SAMPLE = click.Option(["--sample"], type=PATH, metavar="FOLDER", help="compare accuracy on folders named as classes")
LEAVE_NONE = click.Option(["--leave-none"], is_flag=True, help="allow that no version is left")
NEW_CLASSES = click.Option(["--new-classes"], is_flag=True, help="allow different classes (accuracy is not compared)")


def add(name: str, words: str, example: str, *parameters: click.Parameter) -> None:
    call = click.pass_obj(lambda product, **given: versions.manage(name, **product, **given))
    words += f"\n\n    classifier models {name} {example}".rstrip()
    main.add_command(as_json(Command(name, params=[*parameters], help=words, callback=call)))


def limit(name: str, field: str, words: str) -> click.Option:
    default = getattr(deployment.Limits, field)
    words += f" (default: {default:g})" if default else ""
    return click.Option([name, field], type=float, default=default, metavar="X", help=words)


add("list", "Show all versions.", "--json")
add("register", "Load an archive.", "second.mar", ARCHIVE)
add("describe", "Print all that is known of a version.", "2.0", ANY_VERSION)
add("scale", "Change the number of workers.", "2", WORKERS, ANY_VERSION)
add("set-default", "Serve a version to requests that name none.", "2.0", VERSION)
add("unregister", "Stop and forget a version.", "1.0", VERSION, LEAVE_NONE)
TOLERANCE = limit("--tolerance", "tolerance", "share of accuracy, or of live answers, that may be lost")
SLOWER = limit("--slower", "slower", f"times the old median (default: {deployment.SLOWER:g}; any with new classes)")
ROLL = (ARCHIVE, SAMPLE, NEW_CLASSES, TOLERANCE, SLOWER, limit("--limit", "seconds", "seconds for any image"))
add("roll", "Serve an archive, if it is no worse.", "second.mar --sample my-images/test", *ROLL, *options.LIVE)
add("rollback", "Serve the version again that the last roll replaced.", "")
if __name__ == "__main__":
    main()

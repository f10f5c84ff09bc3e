#!/usr/bin/env python3
"""Make an API key for a client of the gateway.

    classifier key ann --file keys
    classifier key ann --file keys --rate 20 --json

Adds a line with the name and the SHA-256 of the key to the file, and prints the key, which is kept nowhere else. Start
the gateway with the file as GATEWAY_API_KEYS_FILE; it follows each change. A client with two lines has two keys, so add
the new one, which keeps the rate, before you delete the old. Exit status: 0 done, 2 stopped before the end.
"""

from pathlib import Path

import click

from training.commands import PATH, as_json, command
from training.outcome import Outcome, Stopped


@command("key", help=__doc__)
@click.argument("name", help="the client's name, for the log and the metrics")
@click.option("--file", type=PATH, required=True, metavar="FILE", help="the file of keys; made if it is not there")
@click.option("--rate", type=click.FloatRange(0.001, 1e6), metavar="X", help="requests a second at most")
@as_json
def main(name: str, file: Path, rate: float | None) -> Outcome:
    from gateway.keys import BadKeys, add_client, read_clients

    try:
        key = add_client(file, name, rate)
        rate = read_clients(file)[-1].rate
    except (BadKeys, OSError) as error:
        raise Stopped(str(error)) from None
    return Outcome(0, key, {"name": name, "key": key, "rate": rate})


if __name__ == "__main__":
    main()

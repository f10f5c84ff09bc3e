"""Options that several commands of this room share: the images, the gateway, and the product on this machine."""

import re
from typing import Any

import click

from scripts.serving.defaults import CONFIG, KEY_VARIABLE, LIVE_MINUTES, RELEASED, RUN, served_url
from training.commands import COUNT, FC, MODEL, PATH

MOST_PERCENT = 50  # of the traffic for a new version; the rest is what it is compared with
UNITS = {"s": 1, "m": 60, "h": 3600}


class Share(click.ParamType):
    """A share such as `10%`, as a number; half of something at most."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        number = re.fullmatch(r"(\d{1,2}(?:\.\d+)?)%", value)
        if not number or not 0 < float(number[1]) <= MOST_PERCENT:
            self.fail(f"{value!r} must be a share above 0% and up to {MOST_PERCENT}%, such as 10%.", param, ctx)
        return float(number[1]) / 100


class Duration(click.ParamType):
    """A time such as `90s`, `10m` or `1h`, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number = re.fullmatch(r"([1-9]\d{0,4})([smh])", value)
        if not number:
            self.fail(f"{value!r} must be a time, such as 90s, 10m or 1h.", param, ctx)
        return int(number[1]) * UNITS[number[2]]


LIVE = (
    click.Option(
        ["--shadow"], type=Share(), metavar="10%", help="first send it this share of live images too (at most 50%)"
    ),
    click.Option(
        ["--canary"], type=Share(), metavar="10%", help="first let it answer this share of requests (at most 50%)"
    ),
    click.Option(
        ["--for", "time"], type=Duration(), metavar="1h", help=f"how long it does so (default: {LIVE_MINUTES}m)"
    ),
)


def images(function: FC) -> FC:
    """Add the images to send: `paths` and `listed`, as `scripts.batch.images.names_of` takes them."""
    function = click.option(
        "--list",
        "listed",
        metavar="FILE",
        help="a file with more of these, one a line; - is the standard input",
    )(function)
    words = "images, folders of images, or patterns such as 'photos/**/*.jpg'"
    return click.argument("paths", nargs=-1, metavar="FOLDER|GLOB|FILE...", help=words)(function)


def _without_slash(ctx: click.Context, param: click.Parameter, url: str) -> str:
    return url.rstrip("/")


url = click.option(
    "--url",
    default=served_url,
    callback=_without_slash,
    help="the gateway (default: the last one started with the run folder .run, or port 5001 of this machine)",
)


def client(function: FC) -> FC:
    """Add how to reach the gateway: `url`, `key_file`, `token_file` and `connections`."""
    function = click.option(
        "--connections", type=COUNT, default=4, metavar="N", help="requests under way at once (default: 4)"
    )(function)
    function = click.option("--token-file", type=PATH, metavar="FILE", help="a token to send, if a proxy asks for one")(
        function
    )
    words = f"a file with the API key that the gateway asks for (default: the key in {KEY_VARIABLE})"
    function = click.option("--key", "key_file", type=PATH, metavar="FILE", help=words)(function)
    return url(function)


model = click.argument(
    "model",
    type=MODEL,
    default=RELEASED,
    metavar="[CHECKPOINT|ARCHIVE]",
    help=f"a checkpoint, by its name in model_store or as a file, or an archive (default: {RELEASED.stem})",
)


def product(function: FC) -> FC:
    """Add where the product that runs on this machine has its files: `config`, `run`."""
    function = click.option(
        "--run", type=PATH, default=RUN, metavar="FOLDER", help="the server's folder for logs and keys (default: .run)"
    )(function)
    return click.option(
        "--config",
        type=PATH,
        default=CONFIG,
        metavar="FILE",
        help="TorchServe's configuration (default: config.properties)",
    )(function)


def keep(context: click.Context, **given: Any) -> None:
    """Keep the options of a group for its commands, as their object."""
    context.obj = given

#!/usr/bin/env python3
"""Serve a model with TorchServe and the gateway until you press Ctrl-C.

    classifier serve
    classifier serve runs/mine/mine.pth --port 5002
    classifier serve cifar10_cnn --backend embedded
    classifier serve model_store/cifar10_cnn.mar --host 0.0.0.0

A checkpoint is packed first, into an archive beside it; an archive that is current stays. When the server is ready it
prints the URLs of the page, of Swagger and of the health check. With --backend embedded the gateway runs the model
itself, by ONNX Runtime, without TorchServe and PyTorch.

Exit status: 0 if you stopped it, 2 if it could not start or had to stop.
"""

from pathlib import Path
from typing import Any

import click

from scripts import options
from scripts.serving.defaults import BACKENDS, EMBEDDED, HOST, LOCAL, PORT, TORCHSERVE
from training.commands import command


class Backend(click.Choice[str]):
    """One of BACKENDS, or the earlier name of one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(EMBEDDED if value == LOCAL else value, param, ctx)


@command("serve", help=__doc__)
@options.model
@click.option("--host", default=HOST, help=f"address of the gateway; 0.0.0.0 opens it to the network (default: {HOST})")
@click.option("--port", type=int, default=PORT, metavar="N", help=f"port of the gateway (default: {PORT})")
@click.option(
    "--backend", type=Backend(BACKENDS), default=TORCHSERVE, help=f"program that runs it (default: {TORCHSERVE})"
)
@click.option("--version", help="pack a checkpoint as this version (default: that of the archive in its place, or 1.0)")
@options.product
def main(model: Path, **given: Any) -> None:
    from scripts.serving.product import serve_until_stopped

    serve_until_stopped(model, **given)


if __name__ == "__main__":
    main()

"""The common parts of all commands: their end, their help, and options with one name and meaning everywhere.

It loads the standard library and click alone, so that help is there at once.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any, TypeVar

import click

from training.outcome import INTERRUPTED, Outcome, Stopped, end
from training.project import CHECKPOINTS, MAR, MERGES, ONNX_ZIP, RECIPES, ROOT, SPACES

AS_JSON = f"{__name__}.as_json"  # set in the context when you ask for JSON
LAYOUTS = "folder with <class>/*, or with train/<class>/* and test/<class>/*, or CSV file of file,label"
OURS = ("gateway", "handler", "scripts", "training")
FC = TypeVar("FC", bound=Callable[..., Any] | click.Command)  # as click's own decorators take and return it


class Named(click.ParamType):
    """A file, by its path from where you stand, or one of the project's by its name alone."""

    def __init__(self, kind: str, folder: Path, suffix: str) -> None:
        self.name, self.folder, self.suffix = kind, folder, suffix

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path, known = Path(value), self.folder / f"{value}{self.suffix}"
        if path.name == str(value) and known.is_file():
            return known
        if path.is_file() or path.suffix or path.name != str(value):
            return path
        names = ", ".join(sorted(file.stem for file in self.folder.glob(f"*{self.suffix}")))
        raise Stopped(f"There is no {self.name} {value!r}; name a file, or one of: {names}.")


class Model(Named):
    """A checkpoint, or an archive by its path, or by its file name in the project's folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path, known = Path(value), self.folder / value
        if path.name.endswith((MAR, ONNX_ZIP)) and path.name == str(value) and not path.is_file() and known.is_file():
            return known
        return super().convert(value, param, ctx)


class Count(click.ParamType):
    """A number of `least` or more."""

    name = "count"

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not str(value).isdecimal() or int(value) < self.least:
            self.fail(f"{value} is no number of {self.least} or more.", param, ctx)
        return int(value)


class Assignment(click.ParamType):
    """`FIELD=VALUE` as the pair of both."""

    name = "assignment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        field, equals, text = value.partition("=")
        if not field or not equals:
            self.fail(f"{value!r} must be FIELD=VALUE, such as optimizer.lr=0.01.", param, ctx)
        return field, text


PATH = click.Path(path_type=Path)
COUNT = Count()
RECIPE = Named("recipe", RECIPES, ".yaml")
SPACE = Named("search space", SPACES, ".yaml")
MERGE = Named("merge of classes", MERGES, ".yaml")
CHECKPOINT = Named("checkpoint", CHECKPOINTS, ".pth")
MODEL = Model("checkpoint", CHECKPOINTS, ".pth")


class _Ours(click.Command):
    """A command or group that says in one sentence, and with status 2, why you cannot call it so."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Carry out the command line and return its exit status, or end Python with it in `standalone_mode`."""
        words = sys.argv[1:] if args is None else args
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.Abort:
            status = _stopped(INTERRUPTED, "--json" in words)
        except click.ClickException as error:
            status = _stopped(_sentence(error), "--json" in words)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in OURS:  # a mistake of ours, or a damaged clone
                raise
            status = _stopped(_missing(error), "--json" in words)
        if standalone_mode:
            sys.exit(status)
        return status

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help: its paragraphs as wide as the terminal, and its examples, which are indented, as they are."""
        for paragraph in inspect.cleandoc(self.help or "").split("\n\n"):
            formatter.write_paragraph()
            with formatter.indentation():
                if paragraph.startswith(" "):
                    formatter.write(indent(f"{paragraph}\n", " " * formatter.current_indent))
                else:
                    formatter.write_text(paragraph)


def _stopped(reason: str, as_json: bool) -> int:
    """End a command before it begins, for a reason; returns the exit status."""

    def refuse() -> Outcome:
        raise Stopped(reason)

    return end(refuse, as_json)


def _missing(error: ModuleNotFoundError) -> str:
    return (
        f"This needs the package {error.name}, which is not installed. Run 'make install' in {ROOT}: it installs what "
        "training and TorchServe need."
    )


def _sentence(error: click.ClickException) -> str:
    message = error.format_message()
    if not isinstance(error, click.UsageError) or isinstance(error, click.exceptions.NoArgsIsHelpError):
        return message
    stop = "" if message.endswith((".", "?", ")")) else "."
    return f"{message}{stop} See '{error.ctx.command_path} --help'." if error.ctx else f"{message}{stop}"


class Command(_Ours):
    """A command whose function returns an Outcome, or None if it has printed its result; Stopped ends it.

    `interrupted` is the sentence for Ctrl-C. An option that you may repeat also takes several values at once.
    """

    def __init__(self, *arguments: Any, interrupted: str = INTERRUPTED, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.interrupted = interrupted

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        try:
            return super().parse_args(ctx, _repeated(args, several))
        except Stopped as error:
            ctx.exit(_stopped(str(error), ctx.meta.get(AS_JSON, False)))

    def invoke(self, ctx: click.Context) -> int:
        return end(lambda: super(Command, self).invoke(ctx), ctx.meta.get(AS_JSON, False), self.interrupted)


def _repeated(words: list[str], options: set[str]) -> list[str]:
    """Repeat an option before each of its values: `--workers 1 2` becomes `--workers 1 --workers 2`."""
    result: list[str] = []
    option = ""
    for word in words:
        if word.startswith("-"):
            option = word if word in options else ""
        elif option and result[-1] != option:
            result.append(option)
        result.append(word)
    return result


class Group(_Ours, click.Group):
    """Commands under one name, in the order in which they were added."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands]


def command(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    return click.command(name, cls=Command, **attributes)


def data(contents: str) -> Callable[[FC], FC]:
    return click.option("--data", type=PATH, metavar="FOLDER|CSV", help=f"{contents} (default: CIFAR-10)")


def output(words: str, metavar: str = "FILE", **attributes: Any) -> Callable[[FC], FC]:
    folder = metavar == "FOLDER"
    kind = click.Path(path_type=Path, file_okay=not folder, dir_okay=folder)
    return click.option("-o", "--output", type=kind, metavar=metavar, help=words, **attributes)


def recipe(words: str, default: str | None) -> Callable[[FC], FC]:
    """Add the option; `words` say which recipe it is by default."""
    words = f"a recipe of training/recipes by its name, or a file (default: {words})"
    return click.option("--recipe", type=RECIPE, default=default, metavar="NAME|FILE", help=words)


settings = click.option(
    "--set",
    "settings",
    type=Assignment(),
    multiple=True,
    metavar="FIELD=VALUE",
    help="change a field of the recipe, such as optimizer.lr=0.01; you may repeat it",
)
checkpoint = click.argument("checkpoint", type=CHECKPOINT, help="a checkpoint of model_store by its name, or a file")


model = click.argument(
    "model",
    type=MODEL,
    metavar="CHECKPOINT|ARCHIVE",
    help="a checkpoint, by its name in model_store or as a file, or an archive",
)


def _ask_for_json(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[AS_JSON] = True


as_json = click.option(
    "--json",
    is_flag=True,
    is_eager=True,  # so that a wrong name, wherever it stands, is reported so too
    expose_value=False,
    callback=_ask_for_json,
    help="print one JSON document, for machines",
)

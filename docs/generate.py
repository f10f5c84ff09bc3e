"""Pages that MkDocs makes of what stands elsewhere: the front page's files, the commands' help, the API, the models."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import mkdocs_gen_files
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import cli  # noqa: E402

REPOSITORY_FILES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "deploy/monitoring/README.md": "howto/monitoring.md",
}
DOCS = {
    path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")
}
PAGES = REPOSITORY_FILES | DOCS
MODULES = ["handler.transforms", "handler.explanation", "training.config", "training.checkpoint", "training.data"]
MODULES += ["training.models", "gateway.backend", "gateway.limits", "gateway.torchserve.management"]


def write(page: str, text: str) -> None:
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(text)


def of_the_site(file: str, page: str) -> str:
    """Let a file's links lead to the site's pages; a target that has no page is named without a link."""

    def link(found: re.Match[str]) -> str:
        words, target = found.groups()
        if target.startswith("https://"):
            return found[0]
        meant = os.path.normpath(Path(file).parent / target)
        folder, _, name = meant.rpartition("/")
        if meant in PAGES:
            place = PAGES[meant]
        elif folder == "training/recipes":
            place = f"reference/recipes.md#{name.replace('.', '')}"
        elif folder == "model_store":
            place = "reference/models.md"
        elif meant.startswith("docs/") and (ROOT / meant).is_file():
            place = meant.removeprefix("docs/")
        else:
            return words
        return f"[{words}]({os.path.relpath(place, Path(page).parent)})"

    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", link, (ROOT / file).read_text())


def help_of(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the help of a command and, if it is a group, of all its commands."""
    yield f"## {context.command_path}\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if below := command.get_command(context, name):
                yield from help_of(below, click.Context(below, context, name, terminal_width=80))


def api() -> str:
    document = yaml.safe_load((ROOT / "gateway" / "openapi.yaml").read_text())
    rows = [
        f"| `{method.upper()} {path}` | {operation['summary']} | {', '.join(operation['responses'])} |"
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    return "\n".join(
        [
            "# REST API",
            document["info"]["description"],
            "",
            "A running server shows it all at `/swagger/`, to try out, and its document as `/swagger.json`.",
            "",
            "| request | what it does | statuses |",
            "|---|---|---|",
            *rows,
        ]
    )


def recipes() -> str:
    texts = [
        f"## {path.name}\n\n```yaml\n{path.read_text()}```\n"
        for path in sorted((ROOT / "training/recipes").glob("*.yaml"))
    ]
    return (
        "# Recipes\n\nEvery training run as data; the fields are those of `Recipe` in [Python](python.md).\n\n"
        + "\n".join(texts)
    )


def models() -> str:
    cards = [
        path.read_text().partition("\n---\n")[2].lstrip()
        for path in sorted((ROOT / "model_store").glob("cifar10_*.md"))
    ]
    return "# Released models\n\n" + "\n".join(re.sub(r"^#", "##", card, flags=re.MULTILINE) for card in cards)


for file, page in PAGES.items():
    write(page, of_the_site(file, page))
helps = help_of(cli.main, click.Context(cli.main, info_name="classifier", terminal_width=80))
write("reference/commands.md", "# Commands\n\n" + "\n".join(helps))
write("reference/api.md", api())
write("reference/recipes.md", recipes())
write("reference/models.md", models())
write("reference/python.md", "# Python\n\n" + "\n".join(f"::: {module}\n" for module in MODULES))

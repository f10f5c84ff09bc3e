"""Pages that MkDocs makes of what stands elsewhere: the front page's files, the commands' help, the API, the models."""

import importlib
import io
import os
import re
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from unittest import mock

import mkdocs_gen_files
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
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
COMMANDS = ["scripts.serve", "scripts.batch_predict", "scripts.models", "scripts.verify", "scripts.doctor"]
COMMANDS += ["scripts.bench.benchmark", "scripts.bench.tune_serving", "scripts.bench.scaling"]
COMMANDS += [
    f"training.{step}" for step in ("data", "train", "evaluate", "export", "archive", "card", "tune", "ensemble")
]
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


def help_of(module: str) -> str:
    said = io.StringIO()
    called = [f"{module.replace('.', '/')}.py", "--help"]
    with mock.patch("sys.argv", called), redirect_stdout(said), suppress(SystemExit):
        importlib.import_module(module).main()
    return f"## {module}\n\n```\n{said.getvalue()}```\n"


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
    cards = [path.read_text() for path in sorted((ROOT / "model_store").glob("cifar10_*.md"))]
    return "# Released models\n\n" + "\n".join(re.sub(r"^#", "##", card, flags=re.MULTILINE) for card in cards)


for file, page in PAGES.items():
    write(page, of_the_site(file, page))
write("reference/commands.md", "# Commands\n\n" + "\n".join(map(help_of, COMMANDS)))
write("reference/api.md", api())
write("reference/recipes.md", recipes())
write("reference/models.md", models())
write("reference/python.md", "# Python\n\n" + "\n".join(f"::: {module}\n" for module in MODULES))

"""What people read is plain English: short sentences, one word for one thing, and none of the phrases that puzzle."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.prose import CODE, Sentence, of_help, of_openapi, of_python, sentences
from tests.stack import ROOT

AVERAGE_WORDS, MOST_WORDS = 17, 35
README_LINES = 120
YOU = (8, 45)  # "you" and "your" in 1,000 words of README
NEVER = re.compile(
    r"\b(?:anew|so many|of its own|goes on|go on|is told|are told|nothing of the kind|there is none|as ever"
    r"|familiar|unfamiliar|familiarity|unlike)\b",
    re.IGNORECASE,
)
NOUN_EXISTS = re.compile(r"\b(?:of|for|with|from|to|than|by|all|into|in|on|at|before|after|as) what\b|^What\b.*[^?]$")

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/README.md", "model_store/README.md")
    for path in ROOT.glob(pattern)
)
ROOMS = ("handler", "gateway", "training", "scripts")


def unreleased(text: str) -> str:
    """Return the part of the changelog that a release has not closed yet, on the lines where it stands."""
    before, heading, after = text.partition("## Unreleased\n")
    return "\n" * (before + heading).count("\n") + re.split(r"^## ", after, maxsplit=1, flags=re.MULTILINE)[0]


@cache
def page(name: str) -> list[Sentence]:
    text = (ROOT / name).read_text()
    return list(sentences(name, unreleased(text) if name == "CHANGELOG.md" else text))


@cache
def openapi() -> list[Sentence]:
    return list(of_openapi(ROOT / "gateway/openapi.yaml", "gateway/openapi.yaml"))


@cache
def source(room: str) -> list[Sentence]:
    paths = sorted((ROOT / room).rglob("*.py"))
    return [sentence for path in paths for sentence in of_python(path, path.relative_to(ROOT).as_posix())]


@cache
def help_of_commands() -> list[Sentence]:
    from scripts.cli import main

    return list(of_help(main, "classifier"))


READ: dict[str, Callable[[], list[Sentence]]] = {
    **{name: lambda name=name: page(name) for name in PAGES},  # type: ignore[misc]
    "gateway/openapi.yaml": openapi,
    "classifier --help": help_of_commands,
    **{room: lambda room=room: source(room) for room in ROOMS},  # type: ignore[misc]
}


def lines(found: list[Sentence]) -> str:
    return "\n" + "\n".join(map(str, found))


@pytest.mark.parametrize("name", READ)
def test_sentences_are_short(name: str) -> None:
    long = [sentence for sentence in READ[name]() if sentence.words > MOST_WORDS]
    assert not long, f"more than {MOST_WORDS} words; make two sentences of each:{lines(long)}"
    prose = [sentence for sentence in READ[name]() if sentence.prose]
    average = sum(sentence.words for sentence in prose) / len(prose)
    longest = sorted(prose, key=lambda sentence: -sentence.words)[:5]
    assert average <= AVERAGE_WORDS, f"{average:.1f} words a sentence; begin with the longest:{lines(longest)}"


@pytest.mark.parametrize("name", READ)
def test_no_puzzling_phrase(name: str) -> None:
    found = [sentence for sentence in READ[name]() if NEVER.search(CODE.sub("", sentence.text))]
    assert not found, f"say it in other words:{lines(found)}"


@pytest.mark.parametrize("name", READ)
def test_a_noun_instead_of_a_clause(name: str) -> None:
    found = [sentence for sentence in READ[name]() if NOUN_EXISTS.search(sentence.text)]
    assert not found, f'"the served model", not "what is served":{lines(found)}'


def test_readme_is_short_and_speaks_to_its_reader() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES
    words = re.findall(r"[\w']+", " ".join(sentence.text for sentence in page("README.md")).lower())
    you = 1000 * sum(word in {"you", "your", "yours", "yourself"} for word in words) / len(words)
    assert YOU[0] <= you <= YOU[1], f"'you' {you:.0f} times in 1,000 words"


MARKDOWN = """\
# A heading

First sentence, with `code of four words` and [a link](https://example.org/a.b). Second one
spans lines. Version 1.0 is e.g. fine.

- an item
- another; with two. Sentences
  in it

```sh
No prose. At all.
```

    indented code

| a cell | `a|b` |
|---|---|
| One. Two. | |

![picture. Of](x.png)
"""


def test_markdown_is_taken_apart() -> None:
    found = [(sentence.line, sentence.words, sentence.text) for sentence in sentences("x.md", MARKDOWN)]
    assert found == [
        (1, 2, "A heading"),
        (3, 7, "First sentence, with `code_of_four_words` and a link."),
        (3, 4, "Second one spans lines."),
        (4, 5, "Version 1.0 is e.g. fine."),
        (6, 2, "an item"),
        (7, 3, "another; with two."),
        (7, 3, "Sentences in it"),
        (16, 2, "a cell"),
        (16, 1, "`a_b`"),
        (18, 1, "One."),
        (18, 1, "Two."),
    ]


def test_source_is_read(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""A module. It has two sentences."""\n'
        "def f(x: int) -> None:\n"
        '    raise ValueError(f"{x} is too small; take" + " more.")\n'
        'parser.add_argument("--x", help="how many there are" if y else "how few")\n'
        'print("not read here")\n'
        'say(f"{x} is read here" " too.")\n'
        'COMPILED = re.compile("Not a sentence.")\n'
        'def g() -> None:\n    """Do it.\n\n    \\b\n    classifier it\n    classifier that\n\n    Or not."""\n'
    )
    assert [(sentence.line, sentence.text) for sentence in of_python(path, "module.py")] == [
        (1, "A module."),
        (1, "It has two sentences."),
        (3, "{value} is too small; take more."),
        (4, "how few"),
        (4, "how many there are"),
        (6, "{value} is read here too."),
        (9, "Do it."),
        (15, "Or not."),
    ]


def test_openapi_is_read(tmp_path: Path) -> None:
    path = tmp_path / "openapi.yaml"
    path.write_text(
        "info:\n  description: >-\n    Two lines\n    are one. And\n    another.\n  version: 1\nx:\n  summary: Short\n"
    )
    found = [(sentence.line, sentence.text) for sentence in of_openapi(path, "openapi.yaml")]
    assert found == [(3, "Two lines are one."), (4, "And another."), (8, "Short")]

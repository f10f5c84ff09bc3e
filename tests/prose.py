"""Sentences of Markdown, of the OpenAPI document and of Python source, each with the line it stands in."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import click

FENCE = re.compile(r"^ *(`{3,}|~{3,})")
ITEM = re.compile(r"^ *(?:[-*+]|\d+[.)]) +")
END = re.compile(r"""(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)["')*_]*\s+(?=["'(*_]*[A-Z0-9`{<])""")
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
VERBATIM = re.compile("\b\n.*?(?=\n\n|$(?!\n))", re.DOTALL)  # a paragraph that click leaves as it is
SPOKEN = {"help", "short_help", "description", "epilog"}  # arguments that a command line shows
SENTENCE = re.compile(r"\s*(?:[A-Z]|\{value\} ).*\s.*\.\s*", re.DOTALL)  # a literal that people read
PATTERNS = {"compile", "sub", "search", "match", "fullmatch", "findall", "split"}  # functions of `re`
ENDING = {"abort", "fail", "stop", "error", "exit"}  # functions whose words end a request or a command


@dataclass(frozen=True)
class Sentence:
    """A sentence, or a cell of a table or a heading, which count only by themselves and not in an average."""

    file: str
    line: int
    text: str
    prose: bool = True

    @property
    def words(self) -> int:
        return len([word for word in self.text.split() if re.search(r"\w", word)])

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class Block(NamedTuple):
    """A paragraph, an item of a list, a heading or a cell: its first line, its text, and whether it is prose."""

    line: int
    text: str
    prose: bool


def one_word(code: re.Match[str]) -> str:
    """Return inline code as one word, on as many lines."""
    return "`" + re.sub(r"[^A-Za-z0-9]+", "_", code[2]) + "`" + "\n" * code[2].count("\n")


def plain(text: str) -> str:
    """Return the words that a reader sees: of a link its text, of code one word, of an image nothing."""
    text = CODE.sub(one_word, text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\*\*|__|<(https?://[^>]*)>", r"\1", text)


def blocks(text: str) -> Iterator[Block]:
    """Take Markdown apart, without its code, comments and rules."""
    fence, start, gathered, blank = "", 0, list[str](), True

    def paragraph() -> Iterator[Block]:
        if gathered:
            yield Block(start, "\n".join(gathered), True)
            gathered.clear()

    for number, line in enumerate(text.splitlines(), 1):
        opened = FENCE.match(line)
        if fence or opened:
            yield from paragraph()
            if opened and (not fence or line.strip().startswith(fence)):
                fence = "" if fence else opened[1]
            continue
        stripped = line.strip()
        item = ITEM.match(line)
        indented_code = blank and not item and re.match(r" {4}|\t", line) and not gathered
        if not stripped or indented_code or re.fullmatch(r"[-|: ]+|<!--.*-->", stripped):
            yield from paragraph()
        elif stripped.startswith("|"):
            yield from paragraph()
            cells = re.split(r"(?<!\\)\|", re.sub(r"`[^`]*`", lambda code: code[0].replace("|", "_"), stripped))
            yield from (Block(number, cell.strip(), False) for cell in cells if cell.strip())
        elif stripped.startswith("#"):
            yield from paragraph()
            yield Block(number, stripped.lstrip("# "), False)
        else:
            if item:
                yield from paragraph()
            if not gathered:
                start = number
            gathered.append(line[item.end() :] if item else stripped)
        blank = not stripped or bool(indented_code)
    yield from paragraph()


def sentences(file: str, text: str, first_line: int = 1) -> Iterator[Sentence]:
    """Split Markdown into sentences; `first_line` is where it begins in the file."""
    for block in blocks(text):
        words = plain(block.text)
        begins = [0, *(end.end() for end in END.finditer(words)), len(words)]
        for begin, end in pairwise(begins):
            sentence = " ".join(words[begin:end].split())
            if re.search(r"\w", sentence):
                line = first_line + block.line - 1 + words.count("\n", 0, begin)
                yield Sentence(file, line, sentence, block.prose)


def of_openapi(path: Path, name: str) -> Iterator[Sentence]:
    """Read descriptions and summaries where they stand, so that a failure can name their line."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if not (found := re.match(r"( *)(?:- )?(?:description|summary): (.*)", line)):
            continue
        indent, text = len(found[1]), found[2]
        if text in (">-", "|", ">", "|-"):
            below = []
            for following in lines[number:]:
                if following.strip() and len(following) - len(following.lstrip()) <= indent:
                    break
                below.append(following[indent + 2 :])
            yield from sentences(name, "\n".join(below), number + 1)
        else:
            yield from sentences(name, text, number)


def written(node: ast.expr) -> Iterator[tuple[int, str]]:
    """Find the texts in an argument: whole f-strings, with a word for each value, and both arms of a condition."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    elif isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "{value}" for part in node.values)
        yield node.lineno, "".join(map(str, parts))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = list(written(node.left)), list(written(node.right))
        yield from [(left[0][0], left[0][1] + right[0][1])] if len(left) == len(right) == 1 else left + right
    elif isinstance(node, ast.IfExp):
        yield from written(node.body)
        yield from written(node.orelse)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id[0].isupper():
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            yield from written(argument)


def blank(paragraph: re.Match[str]) -> str:
    return "\n" * paragraph[0].count("\n")


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def of_python(path: Path, name: str) -> Iterator[Sentence]:
    """Read docstrings, the messages of exceptions, the help of options, and all literals that look like sentences."""
    found: list[tuple[int, str]] = []
    read: set[ast.AST] = set()  # parts of a literal, docstrings and regular expressions; a node comes before its parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) and node not in read:
            texts = list(written(node))
            found += [(line, text) for line, text in texts if SENTENCE.fullmatch(text)]
            read |= set(ast.walk(node)) if texts else set()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node):
                statement = node.body[0]
                read |= set(ast.walk(statement))
                found.append((statement.lineno, VERBATIM.sub(blank, ast.get_docstring(node) or "")))
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                found += written(argument)
        elif isinstance(node, ast.Call):
            read |= set(node.args[:1]) if called(node) in PATTERNS else set()
            arguments = [keyword.value for keyword in node.keywords if keyword.arg in SPOKEN]
            for argument in arguments + (node.args if called(node) in ENDING else []):
                found += written(argument)
    for line, text in sorted(dict.fromkeys(found)):
        if " " in text.strip():
            yield from sentences(name, text, line)


def of_help(command: click.Command, name: str) -> Iterator[Sentence]:
    """Read what `--help` of a command and of its subcommands says: of the command, its arguments and its options."""
    texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
    for text in filter(None, texts):
        yield from sentences(f"{name} --help", VERBATIM.sub(blank, inspect.cleandoc(text)))
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for below in command.list_commands(context):
            if found := command.get_command(context, below):
                yield from of_help(found, f"{name} {below}")

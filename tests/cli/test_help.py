"""The help of every command: complete, uncut at 80 columns, and in noun phrases."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deltacompose import cli
from deltacompose.cli import app
from deltacompose.cli.options import ANALYSES, CATALOGUE, DELTAS, EXCHANGE, STUDIES

LONGEST = 45
NOT_A_NOUN_PHRASE = {
    *("after", "all", "any", "at", "before", "by", "for", "from", "if", "in", "of", "on", "only", "to", "with"),
    *("how", "that", "what", "when", "where", "which", "who", "why", "is", "do", "does"),
    *("accept", "choose", "compare", "forget", "give", "keep", "list", "make", "print", "read", "really", "remove"),
    *("run", "say", "show", "take", "takes", "use", "write"),
}
"""First words of a help text that needs the name of its option to be read."""
OF_TYPER = {"help", "install_completion", "show_completion"}


def commands(command, path=()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every command and group below one, with its words."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))
PARAMETERS = {
    (*path, parameter.name): parameter
    for path, command in ALL.items()
    for parameter in command.params
    if parameter.name not in OF_TYPER
}


def faults_of(text: str | None) -> list[str]:
    """What is wrong with the help of an option or argument."""
    if not text or not text.strip():
        return ["is missing"]
    first = text.split()[0].strip(":,").lower()
    opening = [f"begins with {first!r}"] if first in NOT_A_NOUN_PHRASE else []
    return opening + ["does not end as a sentence"] * (text[-1] not in ".]")


def test_the_walk_reaches_commands_of_groups():
    assert {("run",), ("plugins", "new"), ("store", "migrate")} <= ALL.keys()
    assert ("plugins", "new", "name") in PARAMETERS


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "program")
def test_the_first_help_line_of_a_command_is_a_short_sentence(path):
    lines = (ALL[path].help or "").strip().splitlines()
    assert lines, "has no help"
    assert lines[1:2] in ([], [""]), "its first paragraph has more than one line"
    assert lines[0].endswith(".")
    assert lines[0].split()[0] not in ("Of", "What", "How", "Which", "Every", "The")
    assert path == () or len(lines[0]) <= LONGEST


@pytest.mark.parametrize("path", PARAMETERS, ids=" ".join)
def test_the_help_of_every_option_and_argument_is_a_noun_phrase(path):
    assert faults_of(PARAMETERS[path].help) == []


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "program")
def test_no_line_of_help_is_cut_or_wider_than_80_columns(path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, [*path, "--help"], terminal_width=80)
    assert shown.exit_code == 0
    _, _, rest = shown.stdout.partition("\n\n")
    assert [line for line in shown.stdout.splitlines() if len(line) > 80] == []
    assert not [line for line in rest.splitlines() if line.rstrip().endswith(("...", "…"))]
    words = " ".join(rest.split())
    for parameter in ALL[path].params:
        if parameter.name not in OF_TYPER:
            assert " ".join(parameter.help.split()) in words


def test_the_program_lists_every_command_once_in_its_group():
    shown = CliRunner().invoke(app, ["--help"], terminal_width=80).stdout
    headings = [line.rstrip(":") for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options", STUDIES, DELTAS, ANALYSES, CATALOGUE, EXCHANGE]
    _, *sections = shown[shown.index(f"{STUDIES}:") :].replace(":\n", ":\0").split("\0")
    rows = [line.split()[0] for section in sections for line in section.splitlines() if line.startswith("  ")]
    assert sorted(rows) == sorted(path[0] for path in ALL if len(path) == 1)


@pytest.mark.parametrize(
    "text", ["", None, "Of the weights.", "What to keep.", "Print JSON.", "A rank without its stop"]
)
def test_a_help_text_that_does_not_stand_by_itself_is_refused(text):
    assert faults_of(text)


SOURCES = sorted(Path(cli.__file__).parent.glob("*.py"))
RIDDLES = re.compile(r"(?<!there )\bis no [a-z]|\bWhat a\b|\bbeside\b|\bin force\b|\bis (said|told|had)\b|^(Of|What) ")
VAGUE = {"one", "found", "said", "given", "made"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_sentences_of_the_command_line_are_plain_and_locals_are_named_for_what_they_hold(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert [text for text in texts if RIDDLES.search(text)] == []
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert (stored | {node.arg for node in nodes if isinstance(node, ast.arg)}) & VAGUE == set()

"""Counts what stands between a newcomer and the code, and compares each count with its limit.

    python tests/house_counts.py                 # a line for each count: value, limit, name
    python tests/house_counts.py --where NAME    # the places that one count is made of

Only syntax trees and texts are read; no module is imported. `test_house_counts.py` keeps every count within its limit.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "deltacompose"
SOURCES = (PACKAGE, ROOT / "plugins")
PROSE = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "plugins/**/*.md", "studies/README.md")
SOURCE = re.compile(r"arxiv|doi\.org|doi:|et al\.?|https?://|\b(?:19|20)\d\d\b", re.I)
"""What counts as the source of a method, measure or metric: a work with its year, or an address."""
PHRASES = {
    "is no X": r"(?<![Tt]here )\b(?:is|are|was) no (?!longer\b|more than\b)[a-z]",
    "What a …": r"(?:\A|(?<=[.!:]\s))\W*What (?![^.]*\?)",
    "is said, told, had": r"\b(?:is|are|be|was|were|been) (?:said|told|had)\b",
    "beside": r"\bbeside\b",
    ", for … (because)": r", for (?:it|its|they|their|there|this|that|what|no|nothing|none|he|she|these|such)\b",
    "in force": r"\bin force\b",
    "Of …": r"\AOf (?:the|a|an|every|each|what|all)\b",
}
"""Riddles that `English` in the guide for contributors replaces, each as a pattern."""

Place = tuple[str, str]
"""Where something was counted (`path:line`), and what."""


@dataclass(frozen=True)
class Count:
    """A number with the places it is made of, and the range that it must stay in."""

    name: str
    places: Callable[[], list[Place]]
    most: int | None = None
    least: int | None = None

    @cached_property
    def value(self) -> int:
        """The number of places."""
        return len(self.places())

    @property
    def kept(self) -> bool:
        """Whether the number is within its limit."""
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    @property
    def limit(self) -> str:
        """The limit as text."""
        return f"at most {self.most}" if self.most is not None else f"at least {self.least}"


def modules(*folders: Path) -> list[Path]:
    """The Python files below some folders, tests of distributions left out."""
    paths = (path for folder in folders for path in folder.rglob("*.py"))
    return sorted(path for path in paths if "tests" not in path.relative_to(ROOT).parts)


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path, line: int) -> str:
    """A place as text."""
    return f"{path.relative_to(ROOT)}:{line}"


def top_level_modules() -> list[Place]:
    """Modules that lie directly in the package."""
    return [(place(path, 1), path.stem) for path in sorted(PACKAGE.glob("*.py")) if path.stem != "__init__"]


@cache
def imported_packages() -> dict[str, set[str]]:
    """For each package or module below `deltacompose`, those that its files import."""
    graph: dict[str, set[str]] = defaultdict(set)
    for path in modules(PACKAGE):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(tree(path)):
            for name in _imported(node):
                parts = name.split(".")
                if parts[0] == "deltacompose" and len(parts) > 1 and parts[1] != own and own != "__init__":
                    graph[own].add(parts[1])
    return {
        name: {other for other in others if (PACKAGE / other).exists() or (PACKAGE / f"{other}.py").exists()}
        for name, others in graph.items()
    }


def _imported(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module="deltacompose", names=names):
            yield from (f"deltacompose.{alias.name}" for alias in names)
        case ast.ImportFrom(module=str(module)):
            yield module


def import_levels() -> list[Place]:
    """The longest chain of packages in which each imports the next."""
    graph = imported_packages()

    @cache
    def chain(name: str) -> tuple[str, ...]:
        return (name, *max((chain(other) for other in sorted(graph.get(name, ()))), key=len, default=()))

    longest = max((chain(name) for name in sorted(graph)), key=len)
    return [(place(PACKAGE / name, 1), name) for name in longest]


def duplicate_names() -> list[Place]:
    """Files whose base name another file of the package has, `__init__` aside."""
    paths = [path for path in modules(PACKAGE) if path.stem != "__init__"]
    times = Counter(path.stem for path in paths)
    return [(place(path, 1), path.stem) for path in paths if times[path.stem] > 1]


def locals_named(*names: str) -> list[Place]:
    """Every occurrence of a local or argument of some names."""
    places = []
    for path in modules(*SOURCES):
        for node in ast.walk(tree(path)):
            name = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else ""
            if name in names:
                places.append((place(path, node.lineno), name))
    return places


@cache
def docstrings() -> list[tuple[Path, ast.AST, str]]:
    """Every docstring with its file and the node that it documents."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = ((path, node) for path in modules(*SOURCES) for node in ast.walk(tree(path)) if isinstance(node, kinds))
    return [(path, node, text) for path, node in nodes if (text := ast.get_docstring(node))]


def docstrings_with_a_source() -> list[Place]:
    """Docstrings that name a paper, an address or a year."""
    return [(place(path, getattr(node, "lineno", 1)), text) for path, node, text in docstrings() if SOURCE.search(text)]


def doctest_lines() -> list[Place]:
    """Lines of docstrings that begin with a prompt of Python."""
    return [
        (place(path, getattr(node, "lineno", 1)), line.strip())
        for path, node, text in docstrings()
        for line in text.splitlines()
        if line.strip().startswith((">>> ", "... "))
    ]


def undocumented_properties() -> list[Place]:
    """Public properties of public classes that have no docstring."""
    places = []
    for path in modules(*SOURCES):
        classes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
        for owner in (node for node in classes if not node.name.startswith("_")):
            for method in (node for node in owner.body if isinstance(node, ast.FunctionDef)):
                decorators = map(ast.unparse, method.decorator_list)
                is_property = any(name.rpartition(".")[2] in ("property", "cached_property") for name in decorators)
                if is_property and not method.name.startswith("_") and ast.get_docstring(method) is None:
                    places.append((place(path, method.lineno), f"{owner.name}.{method.name}"))
    return places


@cache
def texts() -> list[tuple[str, str]]:
    """Every sentence that somebody reads: docstrings, comments, other strings, paragraphs of pages."""
    pages = sorted({path for pattern in PROSE for path in ROOT.glob(pattern)})
    return [
        *(text for path in modules(*SOURCES) for text in _of_code(path)),
        *(text for path in pages for text in _of_page(path)),
    ]


def _of_code(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield place(path, node.lineno), node.value.strip()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield place(path, token.start[0]), token.string.lstrip("# ")


def _of_page(path: Path) -> Iterator[tuple[str, str]]:
    line, fenced = 1, False
    for paragraph in re.split(r"(\n\s*\n|\n(?=\s*[*#|-]))", path.read_text(encoding="utf-8")):
        fences = paragraph.count("```")
        if not fenced and not fences and paragraph.strip() and not paragraph.startswith("    "):
            yield place(path, line), paragraph.strip(" #*|-")
        fenced ^= bool(fences % 2)
        line += paragraph.count("\n")


def phrase(name: str) -> list[Place]:
    """Every occurrence of a riddle in what somebody reads."""
    pattern = re.compile(PHRASES[name])
    return [
        (where, " ".join(text[max(0, match.start() - 40) : match.end() + 40].split()))
        for where, text in texts()
        for match in pattern.finditer(re.sub(r"\s+", " ", text))
    ]


COUNTS = (
    Count("modules at the top level", top_level_modules, most=8),
    Count("levels of imports", import_levels, most=14),
    Count("files with the name of another", duplicate_names, most=0),
    Count("locals named one or found", lambda: locals_named("one", "found"), most=50),
    Count("locals named said, given or made", lambda: locals_named("said", "given", "made"), most=50),
    Count("public properties without a docstring", undocumented_properties, most=0),
    Count("docstrings with a source", docstrings_with_a_source, least=100),
    Count("lines of doctests", doctest_lines, least=300),
    *(Count(f"phrase: {name}", lambda name=name: phrase(name), most=5) for name in PHRASES),  # type: ignore[misc]
)


def main(arguments: list[str] | None = None) -> int:
    """Prints the counts; the exit status is 1 where one is outside its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", metavar="NAME", help="the places of the counts whose names contain this")
    where = parser.parse_args(arguments).where
    for count in COUNTS:
        if where is None:
            print(f"{count.value:>6}  {count.limit:<13}{'' if count.kept else ' *'}  {count.name}")
        elif where in count.name:
            for at, text in count.places():
                print(f"{at}: {text.splitlines()[0]}")
    return 0 if all(count.kept for count in COUNTS) else 1


if __name__ == "__main__":
    sys.exit(main())

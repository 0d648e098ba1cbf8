"""How commands print: JSON for programs, text and tables for people, and files in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from deltacompose.cli.stdout import write_document
from deltacompose.errors import BadInput

Answer = dict[str, Any]
_SHOWN = 10


def answer_each(inputs: Mapping[str, Any], analyse: Callable[[str, Any], Answer]) -> Answer:
    """The answer for a single composition; for several, `compositions` with the answer of each.

    Args:
        inputs: what is analysed, by composition.

    Raises:
        BadInput: no composition can be analysed. If only some fail, their answers hold the reason under `error`.
    """
    if len(inputs) == 1:
        [(text, value)] = inputs.items()
        return analyse(text, value)
    compositions: dict[str, Answer] = {}
    reasons = []
    for text, value in inputs.items():
        try:
            compositions[text] = analyse(text, value)
        except BadInput as reason:
            compositions[text] = {"error": str(reason)}
            reasons.append(f"{text}: {reason}")
    if len(reasons) == len(inputs):
        raise BadInput("; ".join(reasons))
    return {"compositions": compositions}


def by_composition(answer: Answer) -> dict[str, Answer]:
    """The answers by composition, without those that are errors."""
    return {text: part for text, part in _parts(answer).items() if "error" not in part}


def _parts(answer: Answer) -> dict[str, Answer]:
    compositions: dict[str, Answer] = answer.get("compositions", {str(answer.get("composition", "")): answer})
    return compositions


def write_answer(
    name: str, answer: Answer, as_json: bool, out: Path | None, print_answer: Callable[[str, Answer], None]
) -> None:
    """Prints the answer and writes `<name>.json` if a folder is given.

    Args:
        print_answer: prints the answer of one composition as text.
    """
    if out is not None:
        from deltacompose.figures.figure_files import write_text

        write_text(out / f"{name}.json", json.dumps(answer, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if as_json:
        return write_json(answer)
    for text, part in _parts(answer).items():
        if text:
            typer.echo(f"== {text}")
        if "error" in part:
            typer.echo(f"cannot analyse: {part['error']}")
        else:
            print_answer(text, part)
            for sentence in part.get("limitations", ()):
                typer.echo(f"- {sentence}")
    if out is not None:
        typer.echo(f"files in {out}")
    return None


def stems(answer: Answer) -> dict[str, str]:
    """The prefix of the file names of each composition: empty for a single one, otherwise its slug and a dot."""
    from deltacompose.figures.figure_files import slugs

    texts = by_composition(answer)
    return {next(iter(texts)): ""} if len(texts) == 1 else {t: f"{s}." for t, s in slugs(texts).items()}


def write_figure(draw: Callable[[], Any], out: Path, name: str) -> str:
    """Draws a figure and writes it as `<name>.pdf` and `<name>.png`.

    Args:
        draw: returns axes or a figure.

    Returns:
        The reason why it cannot be drawn; empty where it was.
    """
    from deltacompose.figures.style import save

    try:
        drawn = draw()
    except BadInput as reason:
        return f"no figure {name}: {reason}"
    figure = drawn.get_figure(root=True) if hasattr(drawn, "get_xlim") else drawn
    for kind in ("pdf", "png"):
        save(figure, out / f"{name}.{kind}")
    return ""


def write_figures(drawings: Mapping[str, Callable[[], Any]], out: Path) -> list[str]:
    """Draws figures by name with a sign of life, and gives the reasons of those that cannot be drawn."""
    from deltacompose.cli.waiting import waiting

    with waiting("drawing figures"):
        return [reason for name, draw in drawings.items() if (reason := write_figure(draw, out, name))]


def number(value: object, form: str = ".3f") -> str:
    """A number as text; a dash for None."""
    return "–" if value is None else format(value, form) if isinstance(value, float) else str(value)


def estimated(estimate: Mapping[str, Any] | None) -> str:
    """A mean with its 95 % interval if it has one; a dash if there is no mean."""
    if not estimate or estimate["value"] is None:
        return "–"
    interval = "" if estimate.get("low") is None else f" [{estimate['low']:.3f}, {estimate['high']:.3f}]"
    return f"{estimate['value']:.3f}{interval}"


def write_json(data: object) -> None:
    """Writes one JSON document to stdout."""
    write_document(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def print_damaged(problems: Sequence[object]) -> None:
    """Lists on stderr the parts of a store that cannot be read and were left out: the first ten and the number left."""
    for problem in problems[:_SHOWN]:
        typer.echo(f"damaged: {problem}", err=True)
    if len(problems) > _SHOWN:
        typer.echo(f"damaged: {len(problems) - _SHOWN} more; `deltacompose verify` lists all", err=True)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Prints rows under headings; a column is as wide as its longest entry."""
    lines = [list(columns), *([text_of(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    for line in lines:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def text_of(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(text_of, value))
    return str(value)

"""How a command of analysis gives its answer: one JSON object, a text for people, and files in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from deltacompose.cli import show
from deltacompose.errors import BadInput

Answer = dict[str, Any]


def of_each(given: Mapping[str, Any], answer: Callable[[str, Any], Answer]) -> Answer:
    """The answer for the one composition that was given; for several, `compositions` with the answer of each.

    Among several, one of which nothing can be said keeps the reason under `error`; if it is all of them, that is an
    error.
    """
    if len(given) == 1:
        [(text, one)] = given.items()
        return answer(text, one)
    found: dict[str, Answer] = {}
    reasons = []
    for text, one in given.items():
        try:
            found[text] = answer(text, one)
        except BadInput as reason:
            found[text] = {"error": str(reason)}
            reasons.append(f"{text}: {reason}")
    if len(reasons) == len(given):
        raise BadInput("; ".join(reasons))
    return {"compositions": found}


def each(answer: Answer) -> dict[str, Answer]:
    """The answers by composition, those that are errors left out."""
    found = answer.get("compositions", {str(answer.get("composition", "")): answer})
    return {text: one for text, one in found.items() if "error" not in one}


def give(name: str, answer: Answer, as_json: bool, out: Path | None, say: Callable[[str, Answer], None]) -> None:
    """Prints the answer, and writes `<name>.json` where a folder is named."""
    if out is not None:
        from deltacompose.figures.files import write_text

        write_text(out / f"{name}.json", json.dumps(answer, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if as_json:
        return show.as_json(answer)
    for text, one in answer.get("compositions", {str(answer.get("composition", "")): answer}).items():
        if text:
            typer.echo(f"== {text}")
        if "error" in one:
            typer.echo(f"nothing can be said: {one['error']}")
        else:
            say(text, one)
            for sentence in one.get("limitations", ()):
                typer.echo(f"- {sentence}")
    if out is not None:
        typer.echo(f"files in {out}")
    return None


def stems(answer: Answer) -> dict[str, str]:
    """What the files of each composition begin with: nothing where there is one, else its slug and a dot."""
    from deltacompose.figures.files import slugs

    texts = each(answer)
    return {next(iter(texts)): ""} if len(texts) == 1 else {t: f"{s}." for t, s in slugs(texts).items()}


def number(value: object, form: str = ".3f") -> str:
    """A number for people; a dash where there is none."""
    return "–" if value is None else format(value, form) if isinstance(value, float) else str(value)


def estimated(one: Mapping[str, Any] | None) -> str:
    """A mean with its 95 % interval, where there is one."""
    if not one or one["value"] is None:
        return "–"
    return f"{one['value']:.3f}" + ("" if one.get("low") is None else f" [{one['low']:.3f}, {one['high']:.3f}]")

"""The report as one HTML page that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer.findings import Findings
from deltacompose.errors import BadInput
from deltacompose.figures.style import counted, rendered, styled
from deltacompose.report import figures as pictures
from deltacompose.report import statements as sentences
from deltacompose.report import tables as sections
from deltacompose.report import vega as interactive


@dataclass(frozen=True)
class Picture:
    """A figure inside the page: an image as a `data:` address, what it is, and how to read it."""

    source: str
    alternative: str
    caption: str


@dataclass(frozen=True)
class Part:
    """What the page shows of one composition; `absent` says why a figure could not be drawn."""

    composition: str
    pictures: Sequence[Picture]
    absent: Sequence[str]
    scores: sections.Table
    chart: Mapping[str, Any] | None


def html(found: Findings, title: str, lively: bool) -> str:
    """The page; `lively` makes heatmaps that can be pointed at. Every text of the study is escaped."""
    script = interactive.script() if lively and found.transfer else ""
    loader = jinja2.PackageLoader("deltacompose.report", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        title=title,
        summary=_summary(found),
        script=Markup(script),  # Vega's lines and our own, none of the study's
        policy=_policy(script),
        **_context(found, bool(script)),
    )


def _policy(script: str) -> str:
    """What the page may do: show itself, and run the one script whose hash stands here."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}' 'unsafe-eval'" if script else "'none'"  # Vega compiles its expressions
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


def _summary(found: Findings) -> list[str]:
    names = {task for matrix in found.matrices.values() for task in matrix.names}
    kinds = {category for matrix in found.matrices.values() for category in matrix.categories.values()}
    return [
        counted(len(found.matrices), "composition"),
        counted(len(names), "task") + (f" of {len(kinds)} categories" if kinds else ", no categories given"),
        f"{counted(len(found.seeds), 'seed')} ({', '.join(map(str, found.seeds)) or 'none'})",
        f"{found.split} split",
        f"backbone {', '.join(found.backbones) or 'unknown'}",
    ]


def _context(found: Findings, lively: bool) -> dict[str, Any]:
    """Everything that the template prints."""
    lifts, compared = pictures.lifts(found), pictures.compared(found)
    return {
        "known": sentences.known(lifts, compared, list(found.transfer.values())),
        "unknown": sentences.unknown(found),
        "tasks": sections.tasks(found),
        "compositions": sections.compositions(found),
        "results": sections.results(found),
        "lifts": sections.lifts(lifts) if lifts else None,
        "categories": sections.categories(compared) if compared else None,
        "overall": {one.name: _picture(one) for one in pictures.overall(found)},
        "parts": [_part(matrix, lively) for matrix in found.transfer.values()],
        "failures": sections.failures(found),
        "missing": sections.missing(found),
        "lively": lively,
    }


def _part(matrix: TransferMatrix, lively: bool) -> Part:
    """Heatmaps, graph and raw scores of one composition."""
    shown, absent = [_picture(one) for one in pictures.heatmaps(matrix)], []
    if not pictures.ratios(matrix):
        absent.append("No relative performance is shown, for the chance level of some target is unknown.")
    try:
        shown.append(_picture(pictures.network(matrix, pictures.nearest(matrix))))
    except BadInput as reason:
        absent.append(f"No task graph: {reason}.")
    chart = interactive.chart(matrix) if lively else None
    return Part(matrix.composition, shown, absent, sections.raw_scores(matrix), chart)


def _picture(one: pictures.Drawing) -> Picture:
    with styled():
        image = base64.b64encode(rendered(one.draw(), "png", dpi=200)).decode()
    return Picture(f"data:image/png;base64,{image}", one.name, one.caption)

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
from deltacompose.figures.style import Look, counted, rendered, styled
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


def html(findings: Findings, title: str, lively: bool) -> str:
    """The page; `lively` makes heatmaps that can be pointed at. Every text of the study is escaped."""
    script = interactive.script() if lively and findings.transfer else ""
    loader = jinja2.PackageLoader("deltacompose.report", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        title=title,
        summary=_summary(findings),
        script=Markup(script),  # Vega's lines and our own, none of the study's
        policy=_policy(script),
        **_context(findings, bool(script)),
    )


def _policy(script: str) -> str:
    """What the page may do: show itself, and run the one script whose hash stands here."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}' 'unsafe-eval'" if script else "'none'"  # Vega compiles its expressions
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


def _summary(findings: Findings) -> list[str]:
    names = {task for matrix in findings.matrices.values() for task in matrix.names}
    kinds = {category for matrix in findings.matrices.values() for category in matrix.categories.values()}
    return [
        counted(len(findings.matrices), "composition"),
        counted(len(names), "task") + (f" of {len(kinds)} categories" if kinds else ", no categories given"),
        f"{counted(len(findings.seeds), 'seed')} ({', '.join(map(str, findings.seeds)) or 'none'})",
        f"{findings.split} split",
        f"backbone {', '.join(findings.backbones) or 'unknown'}",
    ]


def _context(findings: Findings, lively: bool) -> dict[str, Any]:
    """Everything that the template prints."""
    lifts, compared = pictures.lifts(findings), pictures.compared(findings)
    return {
        "known": sentences.known(lifts, compared, list(findings.transfer.values())),
        "unknown": sentences.unknown(findings),
        "tasks": sections.tasks(findings),
        "compositions": sections.compositions(findings),
        "results": sections.results(findings),
        "lifts": sections.lifts(lifts) if lifts else None,
        "categories": sections.categories(compared) if compared else None,
        "overall": {drawing.name: _picture(drawing) for drawing in pictures.overall(findings)},
        "parts": [_part(matrix, pictures.look_of(findings), lively) for matrix in findings.transfer.values()],
        "failures": sections.failures(findings),
        "missing": sections.missing(findings),
        "lively": lively,
    }


def _part(matrix: TransferMatrix, look: Look, lively: bool) -> Part:
    """Heatmaps, graph and raw scores of one composition."""
    marked = pictures.tested(matrix)
    shown, absent = [_picture(drawing) for drawing in pictures.heatmaps(matrix, look, marked)], []
    if not pictures.ratios(matrix):
        absent.append("No relative performance is shown, because the chance level of some target is unknown.")
    try:
        shown.append(_picture(pictures.network(matrix, pictures.nearest(matrix), look)))
    except BadInput as reason:
        absent.append(f"No task graph: {reason}.")
    chart = interactive.chart(matrix, marked) if lively else None
    return Part(matrix.composition, shown, absent, sections.raw_scores(matrix), chart)


def _picture(drawing: pictures.Drawing) -> Picture:
    with styled():
        image = base64.b64encode(rendered(drawing.draw(), "png", dpi=200)).decode()
    return Picture(f"data:image/png;base64,{image}", drawing.name, drawing.caption)

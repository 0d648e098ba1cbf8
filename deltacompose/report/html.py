"""The report as one HTML page that needs no network: text and tables here, figures drawn by its own script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from deltacompose.analysis.transfer.findings import Findings
from deltacompose.figures.style import counted
from deltacompose.report import figures, page_data, statements, tables
from deltacompose.report.analysed import Analysed, advised
from deltacompose.report.headline import headline
from deltacompose.report.methods_text import methods
from deltacompose.report.scores import scores

SCRIPTS = (
    "dom.js",
    "export.js",
    "tables.js",
    "heatmap.js",
    "heatmap_cells.js",
    "heatmap_marks.js",
    "graph_layout.js",
    "graph.js",
    "lifts.js",
    "advice.js",
    "curves.js",
    "main.js",
)
"""The page's script in the order in which its files follow each other."""
SECTIONS = {
    "result": "Result",
    "scores": "Scores",
    "explore": "Transfer and training",
    "run": "Runs",
    "failed": "Failed and missing",
    "methods": "Methods",
    "limits": "Limits",
}


@dataclass(frozen=True)
class File:
    """A file in the page's folder: its name as it is shown, and its address relative to the page."""

    text: str
    address: str


@dataclass(frozen=True)
class FileGroup:
    """The files of one composition, or of the study."""

    title: str
    files: tuple[File, ...]


def html(
    study: Analysed,
    title: str,
    beside: Mapping[str, Sequence[str]] | None = None,
    step: Callable[[str], None] | None = None,
) -> str:
    """The page. Every text of the study is escaped, and no address in it leads to another place than its folder.

    Args:
        beside: names of the files in the page's folder, by composition and, under "", of the whole study.
        step: called with each composition whose data are in the page.
    """
    script, style = (
        '(function () {\n"use strict";\n' + "\n".join(map(_template, SCRIPTS)) + "})();\n",
        _template("report.css"),
    )
    files = beside or {}
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=title,
            summary=_summary(study.findings),
            script=Markup(script),  # our own lines, none of the study's
            style=Markup(style),
            policy=_policy(script, style),
            version=metadata.version("deltacompose"),
            sections=list((SECTIONS | ({"files": "Files"} if files else {})).items()),
            files=[
                FileGroup(text or "Whole study", tuple(File(name, quote(name)) for name in names))
                for text, names in files.items()
                if names
            ],
            embedded=_embedded(study, files, step),
            **_context(study),
        )
    )


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("deltacompose.report", "templates")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _template(name: str) -> str:
    return resources.files("deltacompose.report").joinpath("templates", name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    """Content-security policy of the page: it shows itself and uses the script and style sheet with these hashes."""
    script_digest, style_digest = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_digest}'; script-src 'sha256-{script_digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


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


def _context(study: Analysed) -> dict[str, Any]:
    """Everything that the template prints."""
    findings, compared = study.findings, study.compared
    return {
        "headline": headline(study),
        "known": [*statements.known(study.lifts, compared, list(findings.transfer.values())), *advised(study)],
        "unknown": statements.unknown(findings),
        "methods": methods(study),
        "scores": scores(findings),
        "tasks": tables.tasks(findings),
        "compositions": tables.compositions(findings),
        "costs": tables.costs(findings) if findings.costs else None,
        "lifts": bool(study.lifts),
        "categories": tables.categories(compared) if compared else None,
        "transfer": bool(study.parts),
        "advice": any(part.advice or part.unadvised for part in study.parts),
        "curves": bool(figures.curves(findings)),
        "failures": tables.failures(findings),
        "missing": tables.missing(findings),
    }


def _embedded(
    study: Analysed, files: Mapping[str, Sequence[str]], step: Callable[[str], None] | None
) -> list[tuple[str, Markup]]:
    """The data of the figures by the id of their element: shared, of each composition, and the curves."""
    names = page_data.Names.of(study)
    shown = {part.matrix.composition: page_data.cells_of(part) for part in study.parts}
    scale = page_data.scale_of(study)
    whole = _named(files.get("", ()), ("results", "lift", "convergence"))
    blocks = {"study-data": embedded(page_data.shared(study, names, shown, whole))}
    for part in study.parts:
        text = part.matrix.composition
        data = page_data.transfer(part, names, shown[text], scale, _of_part(files.get(text, ()), shown[text]))
        blocks[f"composition-data-{names.compositions.index(text)}"] = embedded(data)
        if step is not None:
            step(text)
    if rows := figures.curves(study.findings):
        blocks["curve-data"] = embedded(page_data.curves(rows, names))
    return list(blocks.items())


def _of_part(names: Sequence[str], units: Mapping[str, Any]) -> dict[str, Any]:
    """The files of one composition by figure: those of the heatmap by unit."""
    table = [pair for pairs in _named(names, ("transfer",)).values() for pair in pairs]
    heatmaps = _named(names, tuple(units))
    return {
        "heatmap": {unit: [*heatmaps.get(unit, ()), *table] for unit in units},
        "graph": _named(names, ("graph",)).get("graph", []),
        "advice": _named(names, ("recommend",)).get("recommend", []),
    }


def _named(names: Sequence[str], figures: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """(ending, address) of the files whose name before the last ending ends with that of a figure."""
    files_of: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        stem, _, ending = name.rpartition(".")
        figure = stem.rpartition(".")[2]
        if figure in figures:
            files_of.setdefault(figure, []).append((ending.upper(), quote(name)))
    return files_of


def embedded(data: object) -> Markup:
    """JSON that can stand inside a script element: no text of a study ends the element or opens another."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)

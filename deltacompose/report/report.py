"""A study as one page, and as figures, tables and graphs for a paper; both are pure functions of its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import networkx as nx

from deltacompose.analysis.graph import build as graph
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer import files as matrix_files
from deltacompose.analysis.transfer.findings import Findings, gather
from deltacompose.errors import BadInput
from deltacompose.figures.files import slugs, write_text
from deltacompose.figures.style import Look, save, styled
from deltacompose.report import figures as pictures
from deltacompose.report import html as page
from deltacompose.report import result_tables as tables
from deltacompose.report import statements as sentences
from deltacompose.report import vega as interactive
from deltacompose.study.queries import Record


def write(
    records: Sequence[Record],
    out: str | Path,
    title: str,
    categories: Mapping[str, str],
    compositions: Sequence[str] = (),
    order: Sequence[str] = (),
) -> Path:
    """Write the report of a study as one HTML file that works offline, and give its path.

    With the packages of the extra `report` the heatmaps can be pointed at; without them they are static, and the
    report says so. The same records give the same bytes.

    Args:
        records: cells of the study, finished and failed, as the store gives them.
        out: the file, or a folder for `report.html`.
        title: what the study is called.
        categories: category of each task; empty if there are none.
        compositions: those to report; every one if none is named.
        order: of the tasks, as that of the study; others follow in alphabetical order.

    Raises:
        BadInput: no records, an unknown composition, records that contradict each other, or a file that cannot be
            written.
    """
    out = Path(out)
    path = out / "report.html" if out.is_dir() or not out.suffix else out
    findings = gather(records, categories, compositions, order=order)
    return write_text(path, page.html(findings, title, interactive.available()))


def write_figures(
    records: Sequence[Record],
    out: str | Path,
    categories: Mapping[str, str],
    compositions: Sequence[str] = (),
    order: Sequence[str] = (),
) -> list[Path]:
    """Write every figure, table and graph of a study into a folder, and give their paths.

    Per composition, `<stem>` being its slug: `<stem>.transfer.csv` (tidy), `<stem>.relative` and `<stem>.corrected`
    (`<stem>.score` where chance is unknown) and `<stem>.graph` as PDF and PNG, `<stem>.graph.graphml`. For the study:
    `results.csv`, `.md` and `.tex`, `lift` and `convergence` as PDF and PNG, and `notes.md` with what is known, what
    is not, and why a figure is not there.

    Raises:
        BadInput: as `write`.
    """
    findings, folder = gather(records, categories, compositions, order=order), Path(out)
    stems = slugs(findings.matrices)
    written: list[Path] = []
    absent: list[str] = []
    for text, matrix in findings.transfer.items():
        try:
            tasks = pictures.nearest(matrix)
        except BadInput as reason:
            tasks = None
            absent.append(f"{text}, no task graph: {reason}.")
        written += _of_composition(matrix, tasks, pictures.look_of(findings), folder / stems[text])
    return [*written, *_of_study(findings, folder, absent)]


def _of_composition(matrix: TransferMatrix, tasks: nx.Graph | None, look: Look, stem: Path) -> Iterator[Path]:
    """Table, heatmaps and graph of one composition, in files whose names begin with the stem."""
    folder, name = stem.parent, stem.name
    yield matrix_files.write(matrix, folder / f"{name}.transfer.csv")
    for drawing in pictures.heatmaps(matrix, look, pictures.tested(matrix)):
        yield from _saved(drawing, folder, f"{name}.")
    if tasks is not None:
        graph.write(tasks, folder / f"{name}.graph.graphml")
        yield folder / f"{name}.graph.graphml"
        yield from _saved(pictures.network(matrix, tasks, look), folder, f"{name}.")


def _of_study(findings: Findings, folder: Path, absent: Sequence[str]) -> Iterator[Path]:
    """Tables and figures over all compositions, and the notes."""
    if findings.matrices:
        table = tables.own_task(findings.matrices)
        yield from (tables.write(table, folder / f"results{suffix}") for suffix in (".csv", ".md", ".tex"))
    for drawing in pictures.overall(findings):
        yield from _saved(drawing, folder)
    known = sentences.known(pictures.lifts(findings), pictures.compared(findings), list(findings.transfer.values()))
    parts = {"Known": known, "Not known": [*sentences.unknown(findings), *absent]}
    text = "\n".join(f"## {head}\n\n{_listed(lines)}" for head, lines in parts.items())
    yield write_text(folder / "notes.md", text)


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"- {tables.plain(line)}\n" for line in lines or ["Nothing yet: no evaluation is finished."])


def _saved(drawing: pictures.Drawing, folder: Path, prefix: str = "") -> list[Path]:
    """One figure as PDF and PNG."""
    with styled():
        figure = drawing.draw()
        return [save(figure, folder / f"{prefix}{drawing.name}.{kind}") for kind in ("pdf", "png")]

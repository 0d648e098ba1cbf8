"""A study as one page, and as figures, tables and graphs for a paper; both are pure functions of its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import networkx as nx

from deltacompose.analysis.graph import build as graph
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer import files as matrix_files
from deltacompose.analysis.transfer.findings import Findings, Record, gather
from deltacompose.errors import BadInput
from deltacompose.figures.files import slugs, write_text
from deltacompose.figures.style import save, styled
from deltacompose.report import figures as pictures
from deltacompose.report import html as page
from deltacompose.report import result_tables as tables
from deltacompose.report import statements as sentences
from deltacompose.report import vega as interactive


def write(
    records: Sequence[Record],
    out: str | Path,
    title: str,
    categories: Mapping[str, str],
    compositions: Sequence[str] = (),
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

    Raises:
        BadInput: no records, an unknown composition, records that contradict each other, or a file that cannot be
            written.
    """
    out = Path(out)
    path = out / "report.html" if out.is_dir() or not out.suffix else out
    return write_text(path, page.html(gather(records, categories, compositions), title, interactive.available()))


def write_figures(
    records: Sequence[Record], out: str | Path, categories: Mapping[str, str], compositions: Sequence[str] = ()
) -> list[Path]:
    """Write every figure, table and graph of a study into a folder, and give their paths.

    Per composition, `<stem>` being its slug: `<stem>.transfer.csv` (tidy), `<stem>.relative` and `<stem>.corrected`
    (`<stem>.score` where chance is unknown) and `<stem>.graph` as PDF and PNG, `<stem>.graph.graphml`. For the study:
    `results.csv`, `.md` and `.tex`, `lift` and `convergence` as PDF and PNG, and `notes.md` with what is known, what
    is not, and why a figure is not there.

    Raises:
        BadInput: as `write`.
    """
    found, folder = gather(records, categories, compositions), Path(out)
    stems = slugs(found.matrices)
    written: list[Path] = []
    absent: list[str] = []
    for text, matrix in found.transfer.items():
        try:
            tasks = pictures.nearest(matrix)
        except BadInput as reason:
            tasks = None
            absent.append(f"{text}, no task graph: {reason}.")
        written += _of_composition(matrix, tasks, folder, stems[text])
    return [*written, *_of_study(found, folder, absent)]


def _of_composition(matrix: TransferMatrix, tasks: nx.Graph | None, folder: Path, stem: str) -> Iterator[Path]:
    yield matrix_files.write(matrix, folder / f"{stem}.transfer.csv")
    for one in pictures.heatmaps(matrix):
        yield from _saved(one, folder, f"{stem}.")
    if tasks is not None:
        graph.write(tasks, folder / f"{stem}.graph.graphml")
        yield folder / f"{stem}.graph.graphml"
        yield from _saved(pictures.network(matrix, tasks), folder, f"{stem}.")


def _of_study(found: Findings, folder: Path, absent: Sequence[str]) -> Iterator[Path]:
    """Tables and figures over all compositions, and the notes."""
    if found.matrices:
        table = tables.own_task(found.matrices)
        yield from (tables.write(table, folder / f"results{suffix}") for suffix in (".csv", ".md", ".tex"))
    for one in pictures.overall(found):
        yield from _saved(one, folder)
    known = sentences.known(pictures.lifts(found), pictures.compared(found), list(found.transfer.values()))
    parts = {"Known": known, "Not known": [*sentences.unknown(found), *absent]}
    text = "\n".join(f"## {head}\n\n{_listed(lines)}" for head, lines in parts.items())
    yield write_text(folder / "notes.md", text)


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"- {tables.plain(line)}\n" for line in lines or ["Nothing yet: no evaluation is finished."])


def _saved(one: pictures.Drawing, folder: Path, prefix: str = "") -> list[Path]:
    """One figure as PDF and PNG."""
    with styled():
        figure = one.draw()
        return [save(figure, folder / f"{prefix}{one.name}.{kind}") for kind in ("pdf", "png")]

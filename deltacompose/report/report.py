"""A study as one page, and as figures, tables and graphs for a paper; both are pure functions of its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path

from deltacompose.analysis.graph import construction as graph
from deltacompose.analysis.transfer import tidy_tables as matrix_files
from deltacompose.analysis.transfer.findings import gather
from deltacompose.figures.figure_files import slugs, write_text
from deltacompose.figures.recommendations import write_table
from deltacompose.figures.style import save, styled
from deltacompose.report import figures as pictures
from deltacompose.report import html as page
from deltacompose.report import paper_tables
from deltacompose.report import result_tables as tables
from deltacompose.report import statements as sentences
from deltacompose.report.analysed import Analysed, AnalysedTransfer, Step, advised, analysed
from deltacompose.report.headline import headline
from deltacompose.study.queries import Record

FORMATS = ("pdf", "png")
"""The formats of the figures for print."""
TABLES = (".tex", ".md", ".csv")
"""The formats of the tables for print."""
LARGE = 20_000
"""Studies with more cells of transfer than this have their heatmaps and task graphs drawn where they are asked for."""


def write(
    records: Sequence[Record],
    out: str | Path,
    title: str,
    categories: Mapping[str, str],
    compositions: Sequence[str] = (),
    order: Sequence[str] = (),
) -> Path:
    """Write the report of a study as one HTML file that works offline, and give its path.

    The page holds the data of its figures and draws them itself. The same records give the same bytes.

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
    return write_page(analysed(gather(records, categories, compositions, order=order)), out, title)


def write_figures(
    records: Sequence[Record],
    out: str | Path,
    categories: Mapping[str, str],
    compositions: Sequence[str] = (),
    order: Sequence[str] = (),
) -> list[Path]:
    """Write every figure, table and graph of a study into a folder, and give their paths.

    Per composition, `<stem>` being its slug: `<stem>.transfer.csv` (tidy), `<stem>.sources` (sources by targets, as it
    is printed) as LaTeX, Markdown and CSV, `<stem>.relative` and `<stem>.corrected` (`<stem>.score` where chance is
    unknown), `<stem>.graph` and `<stem>.recommend` as PDF and PNG, `<stem>.graph.graphml`, `<stem>.recommend.csv`. For
    the study: `results`, `lift` and `categories` as LaTeX, Markdown and CSV, `lift` and `convergence` as PDF and PNG,
    and `notes.md` with the result, what is known, what is not, and why a figure is not there.

    Raises:
        BadInput: as `write`.
    """
    return list(write_files(analysed(gather(records, categories, compositions, order=order)), out))


def write_page(
    study: Analysed,
    out: str | Path,
    title: str,
    with_files: bool = False,
    step: Step | None = None,
    every_figure: bool = True,
) -> Path:
    """Write the page.

    Args:
        with_files: link the files that `write_files` writes into the same folder.
        step: called with each composition whose data are in the page.
        every_figure: as of `write_files`.

    Raises:
        BadInput: a file that cannot be written.
    """
    out = Path(out)
    path = out / "report.html" if out.is_dir() or not out.suffix else out
    files = names_of_files(study, every_figure) if with_files else None
    return write_text(path, page.html(study, title, files, step))


def is_large(study: Analysed) -> bool:
    """Whether the heatmaps, graphs and lifts of every composition would take minutes to draw."""
    return sum(len(part.matrix.sources) * len(part.matrix.targets) for part in study.parts) > LARGE


def names_of_files(study: Analysed, every_figure: bool = True) -> dict[str, list[str]]:
    """The names of the files that `write_files` writes, by composition and, under "", of the whole study."""
    names: dict[str, list[str]] = {}
    findings = study.findings
    whole = [f"{stem}{suffix}" for stem in _tables(study) for suffix in TABLES]
    whole += [f"{drawing.name}.{kind}" for drawing in _overall(study, every_figure) for kind in FORMATS]
    stems = slugs(findings.matrices)
    for part in study.parts:
        stem = stems[part.matrix.composition]
        drawings = _drawings(study, part) if every_figure else ()
        drawn = [f"{stem}.{drawing.name}.{kind}" for drawing in drawings for kind in FORMATS]
        printed = [f"{stem}.sources{suffix}" for suffix in TABLES]
        graphs = [] if part.tasks is None else [f"{stem}.graph.graphml"]
        advice = [] if part.advice is None else [f"{stem}.recommend.csv"]
        names[part.matrix.composition] = [f"{stem}.transfer.csv", *printed, *drawn, *graphs, *advice]
    return {"": [*whole, "notes.md"], **names}


def write_files(study: Analysed, out: str | Path, every_figure: bool = True) -> Iterator[Path]:
    """Write the files of `write_figures`, giving each path when it is written.

    Args:
        every_figure: also the heatmaps and the task graph of each composition, and the lifts with a row for each task.
    """
    folder, stems = Path(out), slugs(study.findings.matrices)
    for part in study.parts:
        stem = stems[part.matrix.composition]
        yield matrix_files.write(part.matrix, folder / f"{stem}.transfer.csv")
        printed = paper_tables.transfer(part.matrix, _unit(part))
        yield from (printed.write(folder / f"{stem}.sources{suffix}") for suffix in TABLES)
        if part.tasks is not None:
            graph.write(part.tasks, folder / f"{stem}.graph.graphml")
            yield folder / f"{stem}.graph.graphml"
        if part.advice is not None:
            yield write_table(part.advice, folder / f"{stem}.recommend.csv")
        for drawing in _drawings(study, part) if every_figure else ():
            yield from _saved(drawing, folder, f"{stem}.")
    for stem, write in _tables(study).items():
        yield from (write(folder / f"{stem}{suffix}") for suffix in TABLES)
    for drawing in _overall(study, every_figure):
        yield from _saved(drawing, folder)
    yield write_text(folder / "notes.md", _notes(study))


def _unit(part: AnalysedTransfer) -> str:
    """The unit of the table of sources by targets: relative performance where every chance level is known."""
    return "relative" if pictures.ratios(part.matrix) else "score"


def _tables(study: Analysed) -> dict[str, Callable[[Path], Path]]:
    """The tables of the whole study that have something to say, by name: how to write each to a path."""
    writers: dict[str, Callable[[Path], Path]] = {}
    if study.findings.matrices:
        own = tables.own_task(study.findings.matrices)
        writers["results"] = lambda path: tables.write(own, path)
    if known := [each for each in study.lifts if not isnan(each.value)]:
        writers["lift"] = paper_tables.lift(known).write
    if study.compared:
        writers["categories"] = paper_tables.categories(study.compared).write
    return writers


def _drawings(study: Analysed, part: AnalysedTransfer) -> Iterator[pictures.Drawing]:
    """The heatmaps, the graph and the quality of recommendations of one composition."""
    yield from pictures.heatmaps(part.matrix, study.look, part.marked)
    if part.tasks is not None:
        yield pictures.network(part.matrix, part.tasks, part.stability, study.look)
    if part.advice is not None:
        yield pictures.advice(part.matrix.composition, part.advice)


def _overall(study: Analysed, every_figure: bool) -> list[pictures.Drawing]:
    """The figures of the whole study."""
    drawings = pictures.overall(study.findings, study.lifts)
    return [drawing for drawing in drawings if every_figure or drawing.name != "lift"]


def _notes(study: Analysed) -> str:
    absent = [f"{part.matrix.composition}, no task graph: {part.ungraphed}." for part in study.parts if part.ungraphed]
    matrices = list(study.findings.transfer.values())
    parts = {
        "Result": headline(study),
        "Known": [*sentences.known(study.lifts, study.compared, matrices), *advised(study)],
        "Not known": [*sentences.unknown(study.findings), *absent],
    }
    return "\n".join(f"## {head}\n\n{_listed(lines)}" for head, lines in parts.items())


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"- {tables.plain(line)}\n" for line in lines or ["Nothing yet: no evaluation is finished."])


def _saved(drawing: pictures.Drawing, folder: Path, prefix: str = "") -> Iterator[Path]:
    """One figure in every format."""
    with styled():
        figure = drawing.draw()
        for kind in FORMATS:
            yield save(figure, folder / f"{prefix}{drawing.name}.{kind}")

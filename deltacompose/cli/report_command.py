"""The command `report`: an HTML page, figures and tables from a store."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from deltacompose.cli import output
from deltacompose.cli.options import STUDIES, AsJson, StudyOrStore, StudyStore
from deltacompose.cli.study import needed, prepared_for, store_of

if TYPE_CHECKING:
    from deltacompose.analysis.similarity.stored_arrays import StoredDeltas
    from deltacompose.analysis.transfer.findings import Findings
    from deltacompose.report.analysed import Analysed
    from deltacompose.store.store import Problem


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command(rich_help_panel=STUDIES)(report)


def report(
    study: StudyOrStore,
    store: StudyStore = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report.  [default: <store>/figures]")] = None,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="HTML page alone, without the figures and tables in files.")
    ] = False,
    all_figures: Annotated[
        bool,
        typer.Option("--all-figures", help="Heatmaps, task graphs and lifts of large studies too."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write figures, tables and an HTML report.

    The page is written first. It draws its figures itself, needs no network, and links the other files.
    """
    from deltacompose import api
    from deltacompose.analysis.similarity.stored_arrays import stored_deltas
    from deltacompose.analysis.transfer.findings import gather
    from deltacompose.report import report as pages
    from deltacompose.report.analysed import analysed
    from deltacompose.study.config import Study

    opened = needed(study, store)
    folder = out or opened.root / "figures"
    asked = None if study.is_dir() else Study.read(study)
    damaged: list[Problem] = []
    with _progress() as phase:
        phase("reading the store", None)
        cells = asked and prepared_for(asked, opened)
        records = api.of_transfer(api.records(opened, cells, damaged))
        categories, order = api.categories_of(records, opened, asked), asked.tasks if asked else ()
        findings = gather(records, categories, order=order)
        measures = _measures(findings, stored_deltas(records, opened.folder, order))
        results = analysed(findings, phase("analysing", len(findings.matrices)), measures)
        title = asked.name if asked else opened.root.name
        file = folder if folder.is_dir() else folder / "report.html"
        step = phase("writing the page", len(results.parts))
        every = all_figures or not pages.is_large(results)
        page = pages.write_page(results, file, title, not page_only, step, every)
        written: list[Path] = []
        if not page_only:
            step = phase("drawing figures", sum(map(len, pages.names_of_files(results, every).values())))
            for path in pages.write_files(results, folder, every):
                written.append(path)
                step(path.name)
    output.print_damaged(damaged)
    absent = _not_drawn(study, results) if not every and not page_only else ""
    if as_json:
        files = [str(path) for path in written]
        about = {"store": str(store_of(study, store)), "folder": str(folder), "report": str(page), "files": files}
        return output.write_json({**about, "not_drawn": absent})
    typer.echo("\n".join(filter(None, (f"{len(written)} figures and tables in {folder}", absent, f"report: {page}"))))
    return None


def _measures(findings: Findings, deltas: Mapping[str, StoredDeltas]) -> dict[str, dict[str, Any]]:
    """The similarities of the deltas of each composition whose tasks the report leaves out in turn.

    A composition of which nothing can be compared has none: recommendations then use the scores alone.
    """
    from deltacompose.cli.recommend_command import measures_of
    from deltacompose.errors import BadInput
    from deltacompose.report.advice import is_small

    measures = {}
    for text, matrix in findings.transfer.items():
        if text in deltas and is_small(matrix):
            try:
                measures[text] = measures_of(deltas[text], matrix)
            except BadInput:
                continue
    return measures


def _not_drawn(study: Path, results: Analysed) -> str:
    """A sentence on the figures of a large study that were left out, with the commands that draw them."""
    first = results.parts[0].matrix.composition
    return (
        f"the heatmaps, task graphs and lifts of {len(results.parts)} compositions are in the page and not in files: "
        f"--all-figures draws them, `deltacompose heatmap {study} heatmap.pdf --composition {first!r}` draws one"
    )


class _Phase(Protocol):
    """Begins a phase of so many steps, None if unknown, and returns what is called after each step."""

    def __call__(self, name: str, steps: int | None) -> _Step: ...


class _Step(Protocol):
    def __call__(self, text: str) -> None: ...


@contextmanager
def _progress() -> Iterator[_Phase]:
    """A bar on stderr where that is a terminal, which disappears at the end; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda name, steps: lambda text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bars:
        bar = bars.add_task("")

        def phase(name: str, steps: int | None) -> _Step:
            bars.reset(bar, total=steps, description=name)
            return lambda text: bars.advance(bar)

        yield phase

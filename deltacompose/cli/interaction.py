"""`deltacompose interaction`: interactions of methods, from a store or from a tidy CSV of any runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli.options import ANALYSES, AsJson, Out, StoreFolder
from deltacompose.cli.stdout import write_document
from deltacompose.cli.study import prepared_for
from deltacompose.errors import BadInput, unknown

if TYPE_CHECKING:
    from deltacompose.analysis.interaction.convergence import Training
    from deltacompose.analysis.interaction.runs import Run
    from deltacompose.store.store import Store

STUDIES = (".yaml", ".yml")
KINDS = ("train", "evaluate", "efficiency")


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command(rich_help_panel=ANALYSES)(interaction)


def interaction(
    source: Annotated[
        Path, typer.Argument(help="Store, YAML file of a study, or CSV file with one row per run (or per mean).")
    ],
    factors: Annotated[
        str, typer.Option(help="Methods, separated by commas: 0/1 columns, or methods in the text.")
    ] = "",
    composition: Annotated[str, typer.Option(help="Column of a CSV with the composition as text.")] = "",
    by: Annotated[str, typer.Option(help="Columns, separated by commas, whose values form groups.")] = "",
    unit: Annotated[str, typer.Option(help="Column to average over last, usually the task.")] = "",
    grid: Annotated[
        str, typer.Option(help="Column to select from per composition and unit, such as the learning rate.")
    ] = "",
    seed: Annotated[str, typer.Option(help="Column of the seed.  [default: seed, if present]")] = "",
    dev: Annotated[str, typer.Option(help="Column of the development score.")] = "",
    score: Annotated[str, typer.Option(help="Column of the reported score; higher is better.  [default: score]")] = "",
    train: Annotated[str, typer.Option(help="Column of the score on the training split.")] = "",
    chance: Annotated[str, typer.Option(help="Column of the score of a constant answer.")] = "",
    select: Annotated[
        str, typer.Option(help="Split to select from the grid on: dev, or test (optimistically biased).")
    ] = "dev",
    where: Annotated[str, typer.Option(help="Condition on the rows: COLUMN OP LITERAL, joined by `and`.")] = "",
    percent: Annotated[float, typer.Option(help="Percentage of the final score that counts as converged.")] = 90.0,
    store: StoreFolder = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Analyse how methods interact.

    Means, effects, Möbius terms, Shapley values and conditional marginals for each group, with intervals, the optimism
    of selection on test, trivial solutions, missing combinations, and effects of order.
    """
    from deltacompose.analysis.interaction import runs as tidy
    from deltacompose.analysis.interaction.analysis import analyse, histories
    from deltacompose.report.interaction_tables import summary

    if select not in ("dev", "test"):
        raise unknown("split to select on", select, ["dev", "test"])
    chosen: Any = select
    columns = {"unit": unit, "grid": grid, "seed": seed, "dev": dev, "score": score, "train": train, "chance": chance}
    options = {name: column for name, column in (columns | {"composition": composition}).items() if column}
    groups, methods = _listed(by), _listed(factors)
    if source.is_dir() or source.suffix in STUDIES:
        _refuse(options)
        runs, methods, trainings, remarks, measured = _from_store(source, store, methods, groups, where)
    else:
        runs, methods, remarks = _from_csv(source, options, methods, groups, where)
        trainings, measured = {}, []
    records = analyse(runs, methods, groups, chosen, trainings, percent)
    for record in records:
        record["notes"] = [*remarks, *record["notes"]]
        record |= {"costs": measured} if measured else {}
    titles = [", ".join(f"{name} {record[name]}" for name in groups) for record in records]
    text = json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    tables = "\n".join(summary(record, title) for record, title in zip(records, titles, strict=True))
    if as_json:
        write_document(text.rstrip())
    else:
        typer.echo(tables, nl=False)
    if out is not None:
        from deltacompose.figures.figure_files import write_text

        write_text(out / "interaction.json", text)
        write_text(out / "interaction.md", tables)
        write_text(out / "runs.csv", tidy.table(runs, groups))
        for record, title in zip(records, titles, strict=True):
            values = tuple(record[name] for name in groups)
            _draw(record, title, out, [row for row in histories(runs, trainings, chosen) if row["group"] == values])


def _from_csv(
    path: Path, options: dict[str, str], factors: list[str], by: list[str], where: str
) -> tuple[list[Run], list[str], list[str]]:
    from deltacompose.analysis.interaction import runs as tidy
    from deltacompose.analysis.interaction.composition_text import methods

    rows: list[Any] = tidy.read_csv(path)
    if "seed" not in options and "seed" in rows[0]:
        options = {**options, "seed": "seed"}
    columns = tidy.Columns(**{"score": "score", **options})
    if not factors and columns.composition is None:
        raise BadInput(
            "cannot tell the methods of a CSV; give --factors (0/1 columns) or --composition (the column of the text)"
        )
    rows, remarks = _kept(rows, where)
    if columns.composition in rows[0] and not factors:
        factors = methods([row[columns.composition] for row in rows])
    return tidy.runs(rows, columns, factors, by), factors, remarks


def _from_store(
    source: Path, folder: Path | None, factors: list[str], by: list[str], where: str
) -> tuple[list[Run], list[str], dict[str, Training], list[str], list[dict[str, Any]]]:
    from deltacompose.analysis.interaction import runs_of_store as stored
    from deltacompose.analysis.interaction.composition_text import methods
    from deltacompose.analysis.interaction.cost_scores import costs
    from deltacompose.analysis.interaction.row_filter import read_condition
    from deltacompose.analysis.interaction.runs import runs
    from deltacompose.cli.study import needed

    store = needed(source, folder)
    wanted = _asked_for(source, store)
    stored_records = (record for kind in KINDS for record in store.records(kind))
    records = [record for record in stored_records if wanted is None or record["key"] in wanted]
    shared = dict.fromkeys([*by, *(clause.column for clause in (read_condition(where) if where else ()))])
    rows, remarks = _kept(stored.rows(records, list(shared)), where)
    present = sorted(methods([row["composition"] for row in rows]))
    for factor in factors:
        if factor not in present:
            raise unknown("method of the store", factor, present)
    columns = stored.COLUMNS.without(by)
    trainings = stored.trainings(records, lambda key: _size(store.folder(key) / "delta.safetensors"))
    return runs(rows, columns, factors or present, by), factors or present, trainings, remarks, costs(records)


def _asked_for(source: Path, store: Store) -> set[str] | None:
    """The keys of a study's cells; None for a store, which is analysed whole."""
    if source.is_dir():
        return None
    from deltacompose.study.config import Study

    return set(prepared_for(Study.read(source), store).plan)


def _kept(rows: Sequence[Any], where: str) -> tuple[list[Any], list[str]]:
    from deltacompose.analysis.interaction.row_filter import absent, kept, read_condition

    if not where:
        return list(rows), []
    clauses = read_condition(where)
    result = kept(rows, clauses)
    if not result:
        raise BadInput(f"no row meets the condition {where!r} (found {len(rows)} rows)")
    return result, absent(rows, clauses)


def _draw(record: dict[str, Any], title: str, out: Path, curves: list[dict[str, Any]]) -> None:
    """Draws every figure whose numbers the record has; a note on stderr replaces the figure of effects."""
    from deltacompose import figures
    from deltacompose.figures.figure_files import slug
    from deltacompose.figures.style import save, styled

    stem = f"-{slug(title)}" if title else ""
    drawn = {}
    if any(value is not None for effects in record["marginals"].values() for value in effects.values()):
        drawn["effects"] = figures.factorial(record, title=title)
    else:
        typer.echo(
            f"note: no figure of effects{f' for {title}' if title else ''}, because too many means are missing",
            err=True,
        )
    for place, family in enumerate(record["orders"], start=1):
        drawn[f"orders-{place}" if len(record["orders"]) > 1 else "orders"] = figures.orders(family, title=title)
    if curves:
        drawn["convergence"] = figures.convergence(curves)
    drawn |= _costs(record.get("costs", ()), title)
    with styled():
        for name, figure in drawn.items():
            for kind in ("pdf", "svg", "png"):
                save(figure, out / f"{name}{stem}.{kind}")


def _costs(measured: Sequence[Mapping[str, Any]], title: str) -> dict[str, Any]:
    """Score against each cost that was measured: trainable parameters, peak memory, seconds of a step."""
    from deltacompose import figures

    columns = {"parameters": "parameters", "memory": "peak_memory", "seconds": "seconds_per_step"}
    drawn: dict[str, Any] = {}
    for against, column in columns.items():
        rows = [
            {"composition": row["composition"], "score": row["score"] / 100, against: row[column]}
            for row in measured
            if row["score"] is not None and row.get(column) is not None
        ]
        if rows:
            drawn[f"cost-{against}"] = figures.cost(rows, against=against, title=title).get_figure(root=True)
    return drawn


def _listed(text: str) -> list[str]:
    """Splits names at commas, except within parentheses, which hold the settings of a method."""
    return [name.strip() for name in re.split(r",(?![^(]*\))", text) if name.strip()]


def _refuse(options: dict[str, str]) -> None:
    if options:
        raise BadInput(f"--{min(options)} names a column of a CSV; the columns of a store are fixed, so omit it")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None

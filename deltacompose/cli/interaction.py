"""`deltacompose interaction`: what methods do together, from a store or from a tidy CSV of anybody's runs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli.options import StoreFolder
from deltacompose.cli.stdout import write_document
from deltacompose.errors import BadInput, unknown

if TYPE_CHECKING:
    from deltacompose.analysis.interaction.convergence import Training
    from deltacompose.analysis.interaction.runs import Run
    from deltacompose.store.store import Store

STUDIES = (".yaml", ".yml")
KINDS = ("train", "evaluate", "efficiency")


def interaction(
    source: Annotated[
        Path, typer.Argument(help="A store, a study's YAML file, or a CSV file with one row per run (or per mean).")
    ],
    factors: Annotated[
        str, typer.Option(help="The methods, joined by commas: 0/1 columns, or methods in the text.")
    ] = "",
    composition: Annotated[str, typer.Option(help="Column of a CSV that gives the combination as text.")] = "",
    by: Annotated[str, typer.Option(help="Columns, joined by commas, whose values form groups.")] = "",
    unit: Annotated[str, typer.Option(help="Column that is averaged over last, most often the task.")] = "",
    grid: Annotated[str, typer.Option(help="Column to choose from per combination and unit: the learning rate.")] = "",
    seed: Annotated[str, typer.Option(help="Column of the seed; `seed` where there is one.")] = "",
    dev: Annotated[str, typer.Option(help="Column of the development score.")] = "",
    score: Annotated[str, typer.Option(help="Column of the score reported; higher is better.  [default: score]")] = "",
    train: Annotated[str, typer.Option(help="Column of the score on the training split.")] = "",
    chance: Annotated[str, typer.Option(help="Column of what a constant answer scores.")] = "",
    select: Annotated[str, typer.Option(help="Choose from the grid on `dev`, or on `test` (which flatters).")] = "dev",
    where: Annotated[str, typer.Option(help="Rows to keep: COLUMN OP LITERAL, joined by `and`.")] = "",
    percent: Annotated[float, typer.Option(help="Of the final score, for the speed of convergence.")] = 90.0,
    store: StoreFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one record per group.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the JSON, the tables and the figures.")] = None,
) -> None:
    """What methods do to each other: means, effects, Möbius terms, Shapley values and conditional marginals.

    With intervals, the optimism of choosing on test, trivial solutions, what is missing, and the effects of order.
    """
    from deltacompose.analysis.interaction import runs as tidy
    from deltacompose.analysis.interaction.analysis import analyse, histories
    from deltacompose.report.interaction_tables import summary

    if select not in ("dev", "test"):
        raise unknown("split to select on", select, ["dev", "test"])
    chosen: Any = select
    given = {"unit": unit, "grid": grid, "seed": seed, "dev": dev, "score": score, "train": train, "chance": chance}
    options = {name: column for name, column in (given | {"composition": composition}).items() if column}
    groups, methods = _listed(by), _listed(factors)
    if source.is_dir() or source.suffix in STUDIES:
        _refuse(options)
        runs, methods, trainings, remarks = _from_store(source, store, methods, groups, where)
    else:
        runs, methods, remarks = _from_csv(source, options, methods, groups, where)
        trainings = {}
    records = analyse(runs, methods, groups, chosen, trainings, percent)
    for record in records:
        record["notes"] = [*remarks, *record["notes"]]
    titles = [", ".join(f"{name} {record[name]}" for name in groups) for record in records]
    text = json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    tables = "\n".join(summary(record, title) for record, title in zip(records, titles, strict=True))
    if as_json:
        write_document(text.rstrip())
    else:
        typer.echo(tables, nl=False)
    if out is not None:
        from deltacompose.figures.files import write_text

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
            "a CSV needs --factors with the 0/1 columns of the methods, or --composition with the column of the text"
        )
    rows, remarks = _kept(rows, where)
    if columns.composition in rows[0] and not factors:
        factors = methods([row[columns.composition] for row in rows])
    return tidy.runs(rows, columns, factors, by), factors, remarks


def _from_store(
    source: Path, folder: Path | None, factors: list[str], by: list[str], where: str
) -> tuple[list[Run], list[str], dict[str, Training], list[str]]:
    from deltacompose.analysis.interaction import runs_of_store as stored
    from deltacompose.analysis.interaction.composition_text import methods
    from deltacompose.analysis.interaction.row_filter import read
    from deltacompose.analysis.interaction.runs import runs
    from deltacompose.cli.study import needed

    store = needed(source, folder)
    wanted = _asked_for(source, store)
    found = (record for kind in KINDS for record in store.records(kind))
    records = [record for record in found if wanted is None or record["key"] in wanted]
    shared = dict.fromkeys([*by, *(clause.column for clause in (read(where) if where else ()))])
    rows, remarks = _kept(stored.rows(records, list(shared)), where)
    present = sorted(methods([row["composition"] for row in rows]))
    for factor in factors:
        if factor not in present:
            raise unknown("method of the store", factor, present)
    columns = stored.COLUMNS.without(by)
    trainings = stored.trainings(records, lambda key: _size(store.folder(key) / "delta.safetensors"))
    return runs(rows, columns, factors or present, by), factors or present, trainings, remarks


def _asked_for(source: Path, store: Store) -> set[str] | None:
    """The keys of a study's cells; None of a store, all of which is meant."""
    if source.is_dir():
        return None
    from deltacompose import results
    from deltacompose.study.config import Study

    return set(results.plan(Study.read(source), store))


def _kept(rows: Sequence[Any], where: str) -> tuple[list[Any], list[str]]:
    from deltacompose.analysis.interaction.row_filter import absent, kept, read

    if not where:
        return list(rows), []
    clauses = read(where)
    result = kept(rows, clauses)
    if not result:
        raise BadInput(f"no row meets {where!r}; there are {len(rows)} rows")
    return result, absent(rows, clauses)


def _draw(record: dict[str, Any], title: str, out: Path, curves: list[dict[str, Any]]) -> None:
    """Every figure that the record has the numbers for; where it has none for the effects, that is said."""
    from deltacompose.figures import interaction as figures
    from deltacompose.figures.files import slug
    from deltacompose.figures.style import save, styled

    stem = f"-{slug(title)}" if title else ""
    drawn = {}
    if any(value is not None for each in record["marginals"].values() for value in each.values()):
        drawn["effects"] = figures.effects(record, title)
    else:
        typer.echo(f"no figure of effects{f' for {title}' if title else ''}: too many means are missing", err=True)
    for place, family in enumerate(record["orders"], start=1):
        drawn[f"orders-{place}" if len(record["orders"]) > 1 else "orders"] = figures.orders(family, title)
    if curves:
        drawn["convergence"] = figures.curves(curves)
    with styled():
        for name, figure in drawn.items():
            for kind in ("svg", "png"):
                save(figure, out / f"{name}{stem}.{kind}")


def _listed(text: str) -> list[str]:
    """Names joined by commas; a comma within parentheses belongs to a method's settings."""
    return [name.strip() for name in re.split(r",(?![^(]*\))", text) if name.strip()]


def _refuse(options: dict[str, str]) -> None:
    if options:
        raise BadInput(f"--{min(options)} names a column of a CSV; a store says itself which of its columns is which")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None

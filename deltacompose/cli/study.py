"""Commands on a study and its store: run, plan, status, retry, lift, verify, gc; `report` has a module of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.options import ANALYSES, STUDIES, AsJson, Out, StudyFile, StudyOrStore, StudyStore
from deltacompose.cli.waiting import waiting
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    import networkx as nx

    from deltacompose.planning.cost import Cost
    from deltacompose.planning.plan import Prepared
    from deltacompose.store.store import Problem, Store
    from deltacompose.study.config import Study


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (run, plan, status, retry, verify, gc):
        app.command(rich_help_panel=STUDIES)(command)
    app.command(rich_help_panel=ANALYSES)(lift)


def store_of(path: Path, store: Path | None) -> Path:
    """The folder of the store: `store` if given, `path` if that is a folder, otherwise `results/<stem of the file>`."""
    if store is not None:
        return store
    return path if path.is_dir() else Path("results") / path.stem


def run(
    study: StudyFile,
    store: StudyStore = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan only, without running any cell.")] = False,
    engine: Annotated[str, typer.Option(help="Engine: inprocess, pool, dask, or one from a plugin.")] = "pool",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes.  [default: one per core or GPU]")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="GPUs: one per worker as 0,1, or several per worker as 0+1,2+3.")
    ] = None,
    bank: Annotated[
        int | None, typer.Option(min=1, help="Number of deltas of one expression trained in one pass.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of tokens in a pass, padding included.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a dask scheduler.")] = None,
    scheduler_file: Annotated[Path | None, typer.Option(help="File that describes a dask scheduler.")] = None,
    wait: Annotated[
        float | None, typer.Option(min=1, help="Seconds to wait for workers of the dask scheduler.")
    ] = None,
    tls_ca_file: Annotated[Path | None, typer.Option(help="Certificate authority of the dask scheduler.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="TLS certificate of this client.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of the TLS certificate.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Permission to use a remote dask scheduler without TLS.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds until a running cell is stopped and retried.")] = None,
    log_to: Annotated[
        list[str] | None, typer.Option(help="Logger: tensorboard, wandb, or a file NAME.jsonl; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the cells that the store lacks.

    Finished cells are never computed again.
    """
    device_groups = None if devices is None else _devices(devices)
    if dry_run:
        return plan(study, store, as_json, workers or (len(device_groups) if device_groups else None), bank)
    from deltacompose import api
    from deltacompose.engine import shown

    options: dict[str, Any] = {
        "workers": workers,
        "devices": device_groups,
        "bank": bank,
        "tokens": tokens,
        "timeout": timeout,
        "scheduler": scheduler,
    }
    options |= {"scheduler_file": str(scheduler_file) if scheduler_file else None, "wait": wait}
    files = {"tls_ca_file": tls_ca_file, "tls_cert": tls_cert, "tls_key": tls_key}
    options |= {name: str(file) for name, file in files.items() if file} | ({"insecure": True} if insecure else {})
    options |= {"log_to": log_to or None}
    options = {name: value for name, value in options.items() if value is not None}
    place = store_of(study, store)
    with shown() as progress:
        outcome = api.run(study, place, engine, progress=progress, **options)
    facts: dict[str, Any] = {"store": str(place), "done": len(outcome.done), "stored": len(outcome.stored)}
    facts |= {"failed": dict(outcome.failed), "blocked": dict(outcome.blocked)}
    if as_json:
        output.write_json(facts)
    else:
        typer.echo(f"{facts['done']} cells computed, {facts['stored']} already in {place}")
        for state in ("failed", "blocked"):
            for key, reason in facts[state].items():
                typer.echo(f"{state}: {_named(outcome.plan, key)}: {reason}", err=True)
    if outcome.failed or outcome.blocked:
        raise typer.Exit(1)


def _devices(text: str) -> list[str]:
    """The devices of each worker, as CUDA_VISIBLE_DEVICES names them."""
    groups = [group.strip().replace("+", ",") for group in text.split(",")]
    if not all(device.strip() for group in groups for device in group.split(",")):
        raise BadInput(f"{text!r} is not a valid list of devices (expected one group per worker, as 0,1 or 0+1,2+3)")
    return groups


def plan(
    study: StudyFile,
    store: StudyStore = None,
    as_json: AsJson = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of workers for the estimate.  [default: one per core]")
    ] = None,
    bank: Annotated[
        int | None, typer.Option(min=1, help="Number of deltas trained in one pass, for the estimate of memory.")
    ] = None,
) -> None:
    """List the cells of a study and their cost.

    Counts by kind of cell: all, stored, and still to run, with the estimated time and memory.
    """
    from deltacompose import api
    from deltacompose.api.prepared import recalled
    from deltacompose.planning.cost import STORED
    from deltacompose.study.config import Study

    asked, place = Study.read(study), store_of(study, store)
    opened = _opened(place)
    with waiting("planning the study"):
        prepared = recalled(asked, opened)
        facts, notes = api.cost_of(prepared, opened, workers, bank), api.notes(prepared)
    counts = {name: int(facts.total(name)) for name in ("cells", "stored", "to_run")}
    if as_json:
        whole = {**vars(facts), "kinds": list(facts.kinds), "store": str(place), "notes": notes}
        whole |= {"parameters": list(facts.parameters), "remarks": list(facts.remarks)}
        return output.write_json(counts | whole)
    typer.echo(f"study {asked.name}: {counts['cells']} cells, {counts['stored']} stored, {counts['to_run']} to run")
    rows = [_cost_row(row) for row in facts.kinds]
    output.print_table(rows, tuple(rows[0]))
    typer.echo(_wall(facts))
    if any(row["basis"] != STORED for row in facts.kinds):
        typer.echo(f"assumed speed of this machine: {facts.speed}")
    output.print_table(facts.parameters, ("composition", "parameters", "share"))
    for remark in facts.remarks:
        typer.echo(f"warning: {remark}")
    for note in notes:
        typer.echo(f"note: {note}")
    return None


def _cost_row(row: Mapping[str, Any]) -> dict[str, Any]:
    from deltacompose.engine import duration

    shown = {
        "operations": f"{row['flops']:.2g}",
        "one worker": duration(row["seconds"]),
        "estimated from": row["basis"],
    }
    return {name.replace("_", " "): row[name] for name in ("kind", "cells", "stored", "to_run")} | shown


def _wall(facts: Cost) -> str:
    from deltacompose.engine import duration

    workers = f"{facts.workers} workers" if facts.workers > 1 else "one worker"
    return f"about {duration(facts.seconds)} on {workers}; each process needs about {facts.memory / 1e9:.2g} GB"


def status(study: StudyOrStore, store: StudyStore = None, as_json: AsJson = False) -> None:
    """Show the progress of a run.

    The progress is read from the store, so any terminal can show it.
    """
    from deltacompose import engine

    opened = needed(study, store)
    facts = engine.status(opened, None if study.is_dir() else _planned(study, opened))
    output.print_damaged(facts["damaged"])
    if as_json:
        return output.write_json(facts)
    counts = ("cells", "done", "running", "waiting", "failed", "blocked")
    typer.echo(", ".join(f"{facts[name]} {name}" for name in counts))
    if facts["eta"] is not None:
        typer.echo(f"about {facts['eta'] / 60:.1f} minutes left")
    for difference in facts["environments"]:
        typer.echo(f"note: cells were computed with different versions: {difference}")
    for latest in facts["evaluated"].values():
        typer.echo(f"{latest['label']}, step {latest['step']}: development score {latest['score']:.3f}")
    for key, reason in {**facts["failures"], **facts["blocked_by"]}.items():
        typer.echo(f"{key[:12]}: {reason}")
    return None


def retry(study: StudyOrStore, store: StudyStore = None, as_json: AsJson = False) -> None:
    """Forget failures, so that cells run again."""
    opened = needed(study, store)
    keys = opened.keys("failed")
    opened.forget_failures(keys)
    if as_json:
        return output.write_json({"store": str(store_of(study, store)), "forgotten": list(keys)})
    typer.echo(f"the next run will retry {len(keys)} failed cells")
    return None


def lift(study: StudyFile, store: StudyStore = None, out: Out = None, as_json: AsJson = False) -> None:
    """Compare deltas with the untouched backbone.

    The gain of each task from training, with 95 % intervals, on the study's split.
    """
    from deltacompose import api
    from deltacompose.study.config import Study

    asked = Study.read(study)
    opened = needed(study, store)
    damaged: list[Problem] = []
    records = api.of_transfer(api.records(opened, asked and prepared_for(asked, opened), damaged))
    output.print_damaged(damaged)
    categories = api.categories_of(records, opened, asked)
    rows = api.lifts(records, asked.split, categories, asked.tasks)
    if out is not None:
        _write_lifts(records, asked, categories, out)
    if as_json:
        return output.write_json(rows)
    columns = ("composition", "task", "metric", "chance", "untouched", "score", "lift", "low", "high", "seeds", "zero")
    output.print_table(rows, columns)
    if out is not None:
        typer.echo(f"files in {out}")
    return None


def _write_lifts(records: Sequence[Mapping[str, Any]], study: Study, categories: Mapping[str, str], out: Path) -> None:
    """Writes `lift` as LaTeX, Markdown and CSV, and draws it as PDF and PNG; a note on stderr replaces what cannot."""
    from deltacompose import figures
    from deltacompose.analysis.transfer.findings import gather
    from deltacompose.analysis.transfer.lift import lifts
    from deltacompose.report import paper_tables

    matrices = gather(records, categories, (), study.split, study.tasks).matrices
    known = [each for matrix in matrices.values() for each in lifts(matrix) if each.value == each.value]
    if known:
        for suffix in (".tex", ".md", ".csv"):
            paper_tables.lift(known).write(out / f"lift{suffix}")
    for reason in output.write_figures({"lift": lambda: figures.lift(known)}, out):
        typer.echo(f"note: {reason}", err=True)


def verify(study: StudyOrStore, store: StudyStore = None, as_json: AsJson = False) -> None:
    """Check stored cells against their checksums.

    With a study, the cells are also compared with the present inputs: backbone, data and code of the methods.
    """
    from deltacompose import api
    from deltacompose.study.config import Study

    opened = needed(study, store)
    problems, notes = (opened.verify(), []) if study.is_dir() else api.verify(Study.read(study), opened)
    if as_json:
        rows = [vars(problem) for problem in problems]
        output.write_json({"store": str(store_of(study, store)), "problems": rows, "notes": notes})
    else:
        for problem in problems:
            typer.echo(str(problem), err=True)
        for note in notes:
            typer.echo(f"note: {note}")
        typer.echo(f"{len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def gc(
    study: StudyFile,
    store: StudyStore = None,
    delete: Annotated[bool, typer.Option("--delete", help="Removal of the cells in place of a listing.")] = False,
    as_json: AsJson = False,
) -> None:
    """List or remove cells outside the study."""
    from deltacompose import api, engine
    from deltacompose.study.config import Study

    opened = needed(study, store)
    planned = set(api.plan(Study.read(study), opened))
    with engine.resting(opened) as rests:
        removed = opened.gc(planned, dry=not delete, leftovers=rests)
    if as_json:
        return output.write_json(
            {"store": str(store_of(study, store)), "deleted": delete, "paths": [str(path) for path in removed]}
        )
    for path in removed:
        typer.echo(str(path))
    typer.echo(f"{len(removed)} {'removed' if delete else 'would be removed; --delete removes them'}")
    return None


def _opened(path: Path) -> Store | None:
    from deltacompose.store.store import open_store

    if not path.is_dir():
        return None
    opened = open_store(path, create=False)
    if opened.why_read_only:
        typer.echo(f"note: {opened.why_read_only}", err=True)
    return opened


def needed(study: Path, store: Path | None) -> Store:
    """The store of a study.

    Raises:
        BadInput: it does not exist.
    """
    place = store_of(study, store)
    opened = _opened(place)
    if opened is None and not study.is_file():
        raise BadInput(f"cannot find a study file or a store at {study}")
    if opened is None:
        raise BadInput(f"there is no store {place}; `deltacompose run {study}` makes one")
    return opened


def _planned(study: Path, store: Store) -> nx.DiGraph:
    """The plan of a study. A store is shown without one, so it needs neither the backbone nor torch."""
    from deltacompose.study.config import Study

    return prepared_for(Study.read(study), store).plan


def prepared_for(study: Study, store: Store) -> Prepared:
    """The prepared study of a command that only reads its store, recalled if it was planned before.

    Raises:
        BadInput: the weights of the backbone are not here, so that the keys of its cells are not known.
    """
    from deltacompose.api.prepared import recalled

    with waiting("planning the study"):
        prepared = recalled(study, store)
    if prepared.facts.absent:
        raise BadInput(
            f"cannot tell which cells of study {study.name!r} are in {store.root} because {prepared.facts.absent}; "
            "give the store alone to read all of it"
        )
    return prepared


def _named(plan: nx.DiGraph, key: str) -> str:
    from deltacompose.engine import label

    return label(plan.nodes[key]["cell"]) if key in plan else key[:12]

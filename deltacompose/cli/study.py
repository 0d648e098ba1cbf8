"""Commands about a study: plan, run, status, retry, report, and what its store holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import show
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    import networkx as nx

    from deltacompose.planning.cost import Cost
    from deltacompose.store.store import Problem, Store

StudyFile = Annotated[Path, typer.Argument(help="The study's YAML file.")]
StoreFolder = Annotated[Path | None, typer.Option("--store", help="Folder of the results.  [default: results/<study>]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (run, plan, status, retry, report, lift, verify, gc):
        app.command()(command)


def store_of(path: Path, given: Path | None) -> Path:
    """The store of a study file: what is given, else `results/<stem of the file>`; a store may stand for itself."""
    if given is not None:
        return given
    return path if path.is_dir() else Path("results") / path.stem


def run(
    study: StudyFile,
    store: StoreFolder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    engine: Annotated[str, typer.Option(help="inprocess, pool, dask, or one of a plugin.")] = "pool",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core or GPU if not given.")] = None,
    devices: Annotated[
        str | None, typer.Option(help="GPUs, a worker for each: 0,1; several of one worker are joined: 0+1,2+3.")
    ] = None,
    bank: Annotated[int | None, typer.Option(min=1, help="Deltas of one expression that train in one pass.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens, with padding, that such a pass may hold.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a dask scheduler.")] = None,
    scheduler_file: Annotated[Path | None, typer.Option(help="A dask scheduler's file.")] = None,
    wait: Annotated[float | None, typer.Option(min=1, help="Seconds to wait for a dask scheduler's workers.")] = None,
    tls_ca_file: Annotated[Path | None, typer.Option(help="Certificate authority of a dask scheduler.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate of this command, for TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of that certificate.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept a dask scheduler without TLS on another machine.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds that a cell may take before it is tried again.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Carry out what the store does not have yet; finished cells are never computed again."""
    shared_out = None if devices is None else _devices(devices)
    if dry_run:
        return plan(study, store, as_json, workers or (len(shared_out) if shared_out else None), bank)
    from deltacompose import results
    from deltacompose.engine import shown

    options: dict[str, Any] = {
        "workers": workers,
        "devices": shared_out,
        "bank": bank,
        "tokens": tokens,
        "timeout": timeout,
        "scheduler": scheduler,
    }
    options |= {"scheduler_file": str(scheduler_file) if scheduler_file else None, "wait": wait}
    files = {"tls_ca_file": tls_ca_file, "tls_cert": tls_cert, "tls_key": tls_key}
    options |= {name: str(file) for name, file in files.items() if file} | ({"insecure": True} if insecure else {})
    given = {name: value for name, value in options.items() if value is not None}
    place = store_of(study, store)
    with shown() as progress:
        outcome = results.run(study, place, engine, progress=progress, **given)
    facts: dict[str, Any] = {"store": str(place), "done": len(outcome.done), "stored": len(outcome.stored)}
    facts |= {"failed": dict(outcome.failed), "blocked": dict(outcome.blocked)}
    if as_json:
        show.as_json(facts)
    else:
        typer.echo(f"{facts['done']} cells computed, {facts['stored']} found in {place}")
        for what in ("failed", "blocked"):
            for key, reason in facts[what].items():
                typer.echo(f"{what}: {_named(outcome.plan, key)}: {reason}", err=True)
    if outcome.failed or outcome.blocked:
        raise typer.Exit(1)


def _devices(text: str) -> list[str]:
    """The devices of each worker, as CUDA_VISIBLE_DEVICES names them."""
    workers = [one.strip().replace("+", ",") for one in text.split(",")]
    if not all(part.strip() for one in workers for part in one.split(",")):
        raise BadInput(f"--devices got {text!r}; give one for each worker, as 0,1 or 0+1,2+3")
    return workers


def plan(
    study: StudyFile,
    store: StoreFolder = None,
    as_json: AsJson = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers to reckon with; one per core if not given.")
    ] = None,
    bank: Annotated[
        int | None, typer.Option(min=1, help="Deltas that train in one pass, to reckon memory with.")
    ] = None,
) -> None:
    """What the study asks for: its cells, which of them are stored, and what the others will cost."""
    from deltacompose import results
    from deltacompose.study.config import Study

    read, place = Study.read(study), store_of(study, store)
    facts = results.cost_of(read, _opened(place), workers, bank)
    counts = {name: int(facts.total(name)) for name in ("cells", "stored", "to_run")}
    if as_json:
        whole = {**vars(facts), "kinds": list(facts.kinds), "store": str(place), "notes": results.notes(read)}
        return show.as_json(counts | whole)
    typer.echo(f"study {read.name}: {counts['cells']} cells, {counts['stored']} stored, {counts['to_run']} to run")
    rows = [_cost_row(row) for row in facts.kinds]
    show.table(rows, tuple(rows[0]))
    typer.echo(_wall(facts))
    for note in results.notes(read):
        typer.echo(f"note: {note}")
    return None


def _cost_row(row: Mapping[str, Any]) -> dict[str, Any]:
    from deltacompose.engine import duration

    shown = {"operations": f"{row['flops']:.2g}", "one worker": duration(row["seconds"]), "by": row["basis"]}
    return {name.replace("_", " "): row[name] for name in ("kind", "cells", "stored", "to_run")} | shown


def _wall(facts: Cost) -> str:
    from deltacompose.engine import duration

    workers = f"{facts.workers} workers" if facts.workers > 1 else "one worker"
    memory = f"{facts.memory / 1e9:.2g} GB beside Python"
    return f"about {duration(facts.seconds)} on {workers}; each process needs about {memory}"


def status(study: StudyFile, store: StoreFolder = None, as_json: AsJson = False) -> None:
    """How far a run is, from any terminal; STUDY may be a store."""
    from deltacompose import engine

    opened = needed(study, store)
    facts = engine.status(opened, None if study.is_dir() else _planned(study, opened))
    show.damaged(facts["damaged"])
    if as_json:
        return show.as_json(facts)
    counts = ("cells", "done", "running", "waiting", "failed", "blocked")
    typer.echo(", ".join(f"{facts[name]} {name}" for name in counts))
    if facts["eta"] is not None:
        typer.echo(f"about {facts['eta'] / 60:.1f} minutes left")
    for difference in facts["environments"]:
        typer.echo(f"note: cells were computed with different versions: {difference}")
    for one in facts["evaluated"].values():
        typer.echo(f"{one['label']}, step {one['step']}: development score {one['score']:.3f}")
    for key, reason in {**facts["failures"], **facts["blocked_by"]}.items():
        typer.echo(f"{key[:12]}: {reason}")
    return None


def retry(study: StudyFile, store: StoreFolder = None, as_json: AsJson = False) -> None:
    """Forget the failures of a study, so that the next run tries those cells again; STUDY may be a store."""
    opened = needed(study, store)
    keys = opened.keys("failed")
    opened.forget_failures(keys)
    if as_json:
        return show.as_json({"store": str(store_of(study, store)), "forgotten": list(keys)})
    typer.echo(f"{len(keys)} failed cells will be tried again by the next run")
    return None


def report(
    study: StudyFile,
    store: StoreFolder = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to.  [default: <store>/figures]")] = None,
    as_json: AsJson = False,
) -> None:
    """Write figures, tables and graphs, and the report as one HTML file; STUDY may be a store."""
    from deltacompose import results
    from deltacompose.report import report as pages
    from deltacompose.study.config import Study

    opened = needed(study, store)
    folder = out or opened.root / "figures"
    read = None if study.is_dir() else Study.read(study)
    damaged: list[Problem] = []
    records = results.of_transfer(results.records(opened, read, damaged))
    show.damaged(damaged)
    categories = results.categories_of(records, opened, read)
    written = pages.write_figures(records, folder, categories)
    page = pages.write(records, folder, read.name if read else opened.root.name, categories)
    if as_json:
        files = [str(path) for path in written]
        return show.as_json(
            {"store": str(store_of(study, store)), "folder": str(folder), "report": str(page), "files": files}
        )
    typer.echo(f"{len(written)} figures and tables in {folder}\nreport: {page}")
    return None


def lift(study: StudyFile, store: StoreFolder = None, as_json: AsJson = False) -> None:
    """What training gave each task over the untouched backbone, with 95 % intervals, on the study's split."""
    from deltacompose import results
    from deltacompose.study.config import Study

    read = Study.read(study)
    opened, damaged = needed(study, store), list[Problem]()
    records = results.of_transfer(results.records(opened, read, damaged))
    show.damaged(damaged)
    rows = results.lifts(records, read.split, results.categories_of(records, opened, read))
    if as_json:
        return show.as_json(rows)
    columns = ("composition", "task", "metric", "chance", "untouched", "score", "lift", "low", "high", "seeds", "zero")
    show.table(rows, columns)
    return None


def verify(study: StudyFile, store: StoreFolder = None, as_json: AsJson = False) -> None:
    """Compare stored cells with their checksums and inputs; STUDY may be a store, whose inputs are not known."""
    from deltacompose import results
    from deltacompose.study.config import Study

    opened = needed(study, store)
    problems, notes = (opened.verify(), []) if study.is_dir() else results.verify(Study.read(study), opened)
    if as_json:
        problems_found = [vars(problem) for problem in problems]
        show.as_json({"store": str(store_of(study, store)), "problems": problems_found, "notes": notes})
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
    store: StoreFolder = None,
    delete: Annotated[bool, typer.Option("--delete", help="Really remove them.")] = False,
    as_json: AsJson = False,
) -> None:
    """List stored cells that the study does not ask for, or remove them."""
    from deltacompose import engine, results
    from deltacompose.study.config import Study

    opened = needed(study, store)
    asked = set(results.plan(Study.read(study), opened))
    with engine.resting(opened) as rests:
        removed = opened.gc(asked, dry=not delete, leftovers=rests)
    if as_json:
        return show.as_json(
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
    place = store_of(study, store)
    opened = _opened(place)
    if opened is None and not study.is_file():
        raise BadInput(f"there is neither a study file nor a store {study}")
    if opened is None:
        raise BadInput(f"there is no store {place}; `deltacompose run {study}` makes one")
    return opened


def _planned(study: Path, store: Store) -> nx.DiGraph:
    """The cells of a study; a store stands for itself without it, and needs neither its backbone nor torch."""
    from deltacompose import results
    from deltacompose.study.config import Study

    return results.plan(Study.read(study), store)


def _named(plan: nx.DiGraph, key: str) -> str:
    from deltacompose.engine import label

    return label(plan.nodes[key]["cell"]) if key in plan else key[:12]

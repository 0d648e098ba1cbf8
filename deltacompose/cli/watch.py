"""The command that shows a run while it goes on, from any terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.options import STUDIES, AsJson, StudyOrStore, StudyStore
from deltacompose.cli.study import needed, store_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from deltacompose.engine.watching import Snapshot

_FAILURES = 5
_RUNNING = 8
_TEXTS = ("kind", "composition", "under way", "failed cell", "reason")


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command(rich_help_panel=STUDIES)(watch)


def watch(
    study: StudyOrStore,
    store: StudyStore = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the store.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One look in place of many.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a run from any terminal.

    Cells by state, rate, time left, scores so far and failures, read from the store. Off a terminal each change is a
    line, until the run ends; ctrl-C stops watching, never the run.
    """
    from rich.console import Console
    from rich.live import Live

    from deltacompose.engine.watching import Watch

    watched, name = Watch(needed(study, store)), str(store_of(study, store))
    if as_json:
        return output.write_json(asdict(watched.look()))
    console = Console(highlight=False)
    if once:
        return console.print(page(watched.look(), name))
    if not console.is_terminal:
        for line in _lines(watched, every):
            typer.echo(line)
        return None
    with Live(page(watched.look(), name), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(page(watched.look(), name), refresh=True)


def _lines(watched: Any, every: float) -> Iterator[str]:
    """A line whenever the counts or the scores have changed; ends with the run."""
    last = ""
    while True:
        snapshot = watched.look()
        line = summary(snapshot)
        if line != last:
            yield f"{time.strftime('%H:%M:%S')} {line}"
            last = line
        if not snapshot.active:
            return
        time.sleep(every)


def summary(snapshot: Snapshot) -> str:
    """The counts, the rate and the time left as one line."""
    from deltacompose.engine import duration

    states = ("done", "running", "waiting", "failed", "blocked")
    facts = [f"{snapshot.counts['cells']} cells", *(f"{snapshot.counts[state]} {state}" for state in states)]
    facts += [] if snapshot.rate is None else [f"{snapshot.rate:.1f} cells/min"]
    facts += [] if snapshot.eta is None else [f"about {duration(snapshot.eta)} left"]
    return ", ".join([*facts, *([] if snapshot.active else ["no run is active"])])


def page(snapshot: Snapshot, name: str) -> RenderableType:
    """The whole display."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    finished = sum(snapshot.counts[state] for state in ("done", "failed", "blocked"))
    parts: list[RenderableType] = [
        Text(name, style="bold", no_wrap=True, overflow="ellipsis"),
        Padding(ProgressBar(total=max(1, snapshot.counts["cells"]), completed=finished, width=60), 0),  # ends its line
        Text(summary(snapshot)),
    ]
    for rows, columns in _tables(snapshot):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            wraps = column in ("composition", "under way", "reason")
            table.add_column(
                column, justify="left" if wraps or column in ("kind", "failed cell") else "right", ratio=None
            )
        for row in rows:
            table.add_row(*(Text(output.number(row.get(column))) for column in columns))
        parts += [Text(""), table]
    parts += [Text(f"damaged: {problem}") for problem in snapshot.damaged[:_FAILURES]]
    return Group(*parts)


def _tables(snapshot: Snapshot) -> Iterator[tuple[list[dict[str, Any]], tuple[str, ...]]]:
    """The tables under the counts: rows by column, and the columns."""
    if snapshot.kinds:
        rows = [dict(row) | {"seconds each": row["seconds"]} for row in snapshot.kinds]
        yield rows, ("kind", "done", "failed", "seconds each")
    if snapshot.scores:
        means = sorted({name for row in snapshot.scores for name in row} - {"composition", "tasks", "seeds"})
        rows = [dict(row) | {f"mean {name}": row.get(name) for name in means} for row in snapshot.scores]
        yield rows, ("composition", "tasks", "seeds", *(f"mean {name}" for name in means))
    if snapshot.running:
        rows = [dict(row) | {"under way": row["label"], "dev": row.get("score")} for row in snapshot.running[:_RUNNING]]
        yield rows, ("under way", "step", "dev")
    if snapshot.failures:
        rows = [{"failed cell": row["label"], "reason": row["reason"]} for row in snapshot.failures[:_FAILURES]]
        if len(snapshot.failures) > _FAILURES:
            rows.append({"failed cell": f"{len(snapshot.failures) - _FAILURES} more", "reason": ""})
        yield rows, ("failed cell", "reason")

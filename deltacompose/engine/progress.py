"""Progress of a run for its user: progress bars on a terminal, a line per event elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars

Tell = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def shown(stream: TextIO | None = None, terminal: bool | None = None) -> Iterator[Tell]:
    """Yields a function that shows the events of a run.

    Args:
        stream: where to write; stderr if None.
        terminal: whether to draw bars; None asks the stream.
    """
    console = Console(file=stream or sys.stderr, force_terminal=terminal, highlight=False)
    if not console.is_terminal:
        yield lambda event: _print(event, stream or sys.stderr)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn())
    texts = TextColumn("{task.fields[facts]}"), TextColumn("{task.fields[latest]}", markup=False)
    with Bars(*columns, *texts, console=console) as bars:
        bar = bars.add_task("cells", total=None, facts="", latest="")
        yield lambda event: _draw(event, bars, bar)


def _print(event: Mapping[str, Any], stream: TextIO) -> None:
    text = sentence(event)
    if text:
        counts = event["counts"]
        settled = sum(counts[state] for state in ("stored", "done", "failed", "blocked"))
        print(f"[{settled}/{counts['cells']}] {text}", file=stream, flush=True)


def _draw(event: Mapping[str, Any], bars: Bars, bar: Any) -> None:
    counts = event["counts"]
    facts = f"running {counts['running']}, failed {counts['failed']}, blocked {counts['blocked']}"
    if event.get("eta") is not None:
        facts += f", {duration(event['eta'])} left"
    if event["event"] == "done":
        bars.update(bar, latest=f"{event['label']}{_score(event)}")
    elif event["event"] == "evaluated":
        bars.update(bar, latest=f"{event['label']}, step {event['step']}{_score(event)}")
    elif event["event"] != "start" and sentence(event):
        bars.console.print(sentence(event), markup=False)
    settled = sum(counts[state] for state in ("stored", "done", "failed", "blocked"))
    # A score is shown at once: the next event may replace it before the bars are drawn again.
    bars.update(bar, total=counts["cells"], completed=settled, facts=facts, refresh=event["event"] == "evaluated")


def sentence(event: Mapping[str, Any]) -> str:
    """An event as one line of text; empty for events that only the log keeps."""
    match event:
        case {"event": "plan", "counts": counts}:
            return f"{counts['cells']} cells, {counts['stored']} already stored"
        case {"event": "done", "label": label, "seconds": seconds}:
            return f"done: {label}, {seconds:.1f} s{_score(event)}"
        case {"event": "failed", "label": label, "reason": reason, "blocked": blocked}:
            return f"failed: {label}: {reason}" + (f"; this blocks {len(blocked)} cells" if blocked else "")
        case {"event": "again", "keys": keys, "reason": reason}:
            return f"retrying {len(keys)} cells: {reason}"
        case {"event": "damaged", "label": label, "reason": reason, "moved": moved}:
            return f"damaged: {label}: {reason}; moved to {moved}"
        case {"event": "stop", "reason": reason}:
            return "interrupted" if reason == "KeyboardInterrupt" else f"stopped: {reason}"
    return ""


def _score(event: Mapping[str, Any]) -> str:
    return "" if event.get("score") is None else f", score {event['score']:.3f}"


def duration(seconds: float) -> str:
    """A duration in a fitting unit: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for unit, length in (("days", 86400), ("h", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"

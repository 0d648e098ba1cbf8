"""Progress of a run for its user: bars on a terminal, a display that updates in a notebook, lines elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import html
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

Tell = Callable[[Mapping[str, Any]], None]

_BAR = 20
"""Columns of the bar on a terminal of `_WIDE` columns; on a narrower one it is shorter."""
_WIDE = 100


@contextlib.contextmanager
def shown(stream: TextIO | None = None, terminal: bool | None = None) -> Iterator[Tell]:
    """Yields a function that shows the events of a run.

    Args:
        stream: where to write; stderr if None.
        terminal: whether to draw bars; None asks the stream.
    """
    console = Console(file=stream or sys.stderr, force_terminal=terminal, highlight=False)
    if stream is None and terminal is None and (update := _notebook_display()) is not None:
        yield lambda event: update(_line(event))
    elif not console.is_terminal:
        yield lambda event: _print(event, stream or sys.stderr)
    else:
        bar_width = max(5, _BAR - max(0, _WIDE - console.width))
        columns = (TextColumn("{task.description}"), BarColumn(bar_width), MofNCompleteColumn(), TaskProgressColumn())
        facts = TextColumn("{task.fields[facts]}", markup=False)
        with Bars(*columns, facts, _Latest(), console=console, expand=True) as bars:
            bar = bars.add_task("cells", total=None, facts="", latest="")
            yield lambda event: _draw(event, bars, bar)


class _Latest(ProgressColumn):
    """The label of the latest cell: the only column that is cut where the terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["latest"]), no_wrap=True, overflow="ellipsis")


def _notebook_display() -> Callable[[str], None] | None:
    """A function that replaces the text of one output of a notebook; None outside of a notebook."""
    kernel = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if type(kernel).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import HTML, display  # type: ignore[import-not-found]

    handle = display(HTML(""), display_id=True)
    return lambda text: handle.update(HTML(f"<pre>{html.escape(text)}</pre>"))


def _print(event: Mapping[str, Any], stream: TextIO) -> None:
    """One line for an event: counts, the time of day, what happened, and the time left."""
    text = sentence(event)
    if text:
        left = f"; {duration(event['eta'])} left" if event.get("eta") else ""
        print(f"{_counted(event)} {_clock(event)}{text}{left}", file=stream, flush=True)


def _line(event: Mapping[str, Any]) -> str:
    """The state of a run and its latest event as one line."""
    return " ".join(filter(None, [_counted(event), _facts(event), _latest(event) or sentence(event)]))


def _draw(event: Mapping[str, Any], bars: Bars, bar: Any) -> None:
    counts = event["counts"]
    latest = _latest(event)
    if latest:
        bars.update(bar, latest=latest)
    elif event["event"] != "start" and sentence(event):
        bars.console.print(sentence(event), markup=False)
    # A score is shown at once: the next event may replace it before the bars are drawn again.
    shown_now = event["event"] == "evaluated"
    bars.update(bar, total=counts["cells"], completed=settled(counts), facts=_facts(event), refresh=shown_now)


def settled(counts: Mapping[str, int]) -> int:
    """How many cells of a run need no more work: stored, done, failed or blocked."""
    return sum(counts[state] for state in ("stored", "done", "failed", "blocked"))


def _counted(event: Mapping[str, Any]) -> str:
    return f"[{settled(event['counts'])}/{event['counts']['cells']}]"


def _facts(event: Mapping[str, Any]) -> str:
    counts = event["counts"]
    facts = f"running {counts['running']}, failed {counts['failed']}, blocked {counts['blocked']}"
    return facts if event.get("eta") is None else f"{facts}, {duration(event['eta'])} left"


def _latest(event: Mapping[str, Any]) -> str:
    """The cell that an event is about, with its score; empty for events that change no score."""
    if event["event"] == "done":
        return f"{event['label']}{_score(event)}"
    if event["event"] == "evaluated":
        return f"{event['label']}, step {event['step']}{_score(event)}"
    return ""


def _clock(event: Mapping[str, Any]) -> str:
    """The local time of day of an event, followed by a space; empty if it has none."""
    if "time" not in event:
        return ""
    return f"{datetime.datetime.fromisoformat(event['time']).astimezone():%H:%M:%S} "


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

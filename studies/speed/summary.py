"""The file that `make speed` adds to, piece by piece, and the table that the documentation has of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timing import Row

BEGIN, END = "<!-- table of studies/speed/summary.json -->", "<!-- end of the table -->"
NOTHING = "Not measured yet: `make speed` has not been run on an idle machine at this version."


@dataclass
class Summary:
    """Rows by the name of the measurement that gave them; every measurement is written as soon as it ends."""

    path: Path
    facts: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def opened(cls, path: Path, facts: Mapping[str, Any]) -> Summary:
        """The summary at a path, with the rows that it has."""
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        return cls(path, facts, rows)

    def has(self, name: str) -> bool:
        """Whether a measurement is there, and gave what it should."""
        own = [row for row in self.rows if row["measurement"] == name]
        return bool(own) and all("reason" not in row for row in own)

    def add(self, name: str, rows: Sequence[Row]) -> None:
        """Puts a measurement's rows in the place of those that it had."""
        kept = [row for row in self.rows if row["measurement"] != name]
        self.rows = [*kept, *({"measurement": name} | row for row in rows)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps({**self.facts, "rows": self.rows}, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, self.path)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown: ratios, then what is in other units, then what was not measured."""
    if not rows:
        return NOTHING + "\n"
    ratios = [row for row in rows if row.get("unit") == "times"]
    others = [row for row in rows if row.get("unit", "times") != "times"]
    absent = [row for row in rows if "reason" in row]
    parts = []
    if ratios:
        head = ["lever", "against", "where", "precision", "ratio", "least to greatest", "n", "device"]
        parts.append(_markdown(head, [_ratio_cells(row) for row in ratios]))
    if others:
        head = ["what", "where", "precision", "value", "least to greatest", "n", "device"]
        parts.append(_markdown(head, [_amount_cells(row) for row in others]))
    parts += [f"Not measured, {row['measurement']}: {row['reason']}." for row in absent]
    loads = [row["load"] for row in rows if "load" in row]
    if loads:
        parts.append(f"Load of the machine while it was measured, by core: {min(loads)} to {max(loads)}.")
    return "\n\n".join(parts) + "\n"


def _ratio_cells(row: Row) -> list[str]:
    reach = f"{row['low']:.2f} to {row['high']:.2f}"
    named = [row["lever"], row["peer"], row["setting"], row["precision"]]
    return [*named, f"{row['value']:.2f}", reach, str(row["n"]), row["device"]]


def _amount_cells(row: Row) -> list[str]:
    value, reach = f"{row['value']:.3g} {row['unit']}", f"{row['low']:.3g} to {row['high']:.3g}"
    return [row["lever"], row["setting"], row["precision"], value, reach, str(row["n"]), row["device"]]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def rows_of(path: Path) -> list[Row]:
    """The rows of a summary; none where there is no file."""
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return rows


def with_table(page: str, rows: Sequence[Row]) -> str:
    """A page whose table, between its two marks, is that of the rows."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(rows)}\n{END}{after}"

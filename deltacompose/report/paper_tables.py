"""Tables for a paper: results, transfer, lift and categories as booktabs LaTeX, Markdown and CSV.

The best of a row is bold only where its interval separates it from every other; the caption says over how many seeds
the numbers are means, how they spread and what chance is.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from deltacompose.analysis.matrix import TransferMatrix, mean_over_seeds
from deltacompose.analysis.transfer.lift import Lift
from deltacompose.analysis.transfer.summaries import CategoryComparison
from deltacompose.analysis.units import UNITS, baselines, check_chance, deviation, in_unit, ordered
from deltacompose.errors import BadInput, unknown
from deltacompose.figures.figure_files import write_text
from deltacompose.figures.heatmaps import runs
from deltacompose.figures.rounding import counts, interval, number, p_value, plus_minus

_SIGNIFICANT = 0.05
BOLD_RESULTS = "Bold: the best, where Welch's test (5 %) tells it from all others."
_WIDE = 7
"""From more columns of numbers than this on a LaTeX table spans two columns of the page, in smaller letters."""
_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "−": "$-$", "±": r"$\pm$",
    "→": r"$\to$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "–": "--", "∅": r"$\emptyset$",
}  # fmt: skip


@dataclass(frozen=True)
class PaperTable:
    """A table of text, as it is printed.

    Attributes:
        columns: the head of each column.
        rows: a text for each column; the first `names` columns are names, the others numbers.
        bold: (row, column) of the cells in bold.
        rules: rows above which a line stands.
        caption: what the numbers are.
        label: of LaTeX.
        names: how many columns hold names, aligned at the left.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    label: str
    bold: frozenset[tuple[int, int]] = frozenset()
    rules: frozenset[int] = frozenset()
    names: int = field(default=1)

    def latex(self) -> str:
        """A floating table for the package booktabs; all names are escaped, numbers stand at the right."""
        wide = len(self.columns) - self.names > _WIDE
        place, size = ("table*", "\\footnotesize") if wide else ("table", "\\small")
        align = "@{}" + "l" * self.names + "r" * (len(self.columns) - self.names) + "@{}"
        lines = [f"\\begin{{{place}}}[t]", "\\centering", size, "\\setlength{\\tabcolsep}{3.5pt}"]
        lines += [f"\\begin{{tabular}}{{{align}}}", "\\toprule", _line(map(escaped, self.columns)), "\\midrule"]
        for place_of_row, row in enumerate(self.rows):
            if place_of_row in self.rules:
                lines.append("\\midrule")
            cells = [
                f"\\textbf{{{escaped(cell)}}}" if (place_of_row, column) in self.bold else escaped(cell)
                for column, cell in enumerate(row)
            ]
            lines.append(_line(cells))
        lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{escaped(self.caption)}}}"]
        return "\n".join([*lines, f"\\label{{tab:{self.label}}}", f"\\end{{{place}}}", ""])

    def markdown(self) -> str:
        """A pipe table with numbers at the right, and the caption below it."""
        rule = ["---"] * self.names + ["--:"] * (len(self.columns) - self.names)
        body = [
            [f"**{_plain(cell)}**" if (r, c) in self.bold else _plain(cell) for c, cell in enumerate(row)]
            for r, row in enumerate(self.rows)
        ]
        lines = ["| " + " | ".join(row) + " |" for row in (list(map(_plain, self.columns)), rule, *body)]
        return "\n".join([*lines, "", _plain(self.caption), ""])

    def csv(self) -> str:
        """The texts as CSV."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.columns, *self.rows])
        return buffer.getvalue()

    def write(self, path: str | Path) -> Path:
        """Writes the table as `.tex`, `.md` or `.csv`.

        Raises:
            BadInput: another suffix, or a file that cannot be written.
        """
        path = Path(path)
        texts = {".tex": self.latex, ".md": self.markdown, ".csv": self.csv}
        if path.suffix not in texts:
            raise unknown("table format", path.suffix, texts)
        return write_text(path, texts[path.suffix]())


def escaped(text: str) -> str:
    """A text that LaTeX prints as it is."""
    return "".join(_SIGNS.get(sign, sign) for sign in " ".join(str(text).split()))


def _line(cells: object) -> str:
    return " & ".join(cells) + r" \\"  # type: ignore[arg-type]


def _plain(text: str) -> str:
    line = " ".join(str(text).split()).replace("\\", "\\\\")
    for sign in "|`*<$[":
        line = line.replace(sign, f"\\{sign}")
    return line


def results(table: pd.DataFrame, percent: bool = False) -> PaperTable:
    """Tasks by compositions: mean ± standard deviation of each delta on its own task, with a row of means.

    Args:
        table: of `result_tables.own_task`.
        percent: numbers in hundredths.

    Raises:
        BadInput: no rows.
    """
    if not len(table):
        raise BadInput("a table of results needs at least one composition, found none")
    names = list(dict.fromkeys(table["composition"]))
    cells = {(str(row["composition"]), str(row["task"])): row for row in table.to_dict("records")}
    tasks = list(dict.fromkeys(zip(table["category"].astype(str), table["task"].astype(str), strict=True)))
    kinds = any(category for category, _ in tasks)
    rows, bold, rules, last = [], set(), set(), ""
    for place, (category, task) in enumerate(tasks):
        own = [cells.get((name, task)) for name in names]
        first = next(row for row in own if row is not None)
        levels = [_number(float(first[level]), percent) for level in ("chance", "untouched")]
        head = ([category if category != last else ""] if kinds else []) + [task]
        rules |= {place} if kinds and category != last and place else set()
        rows.append((*head, *levels, *(_mean(row, percent) for row in own)))
        if (best := _best(own)) is not None:
            bold.add((place, len(head) + 2 + best))
        last = category
    if len(tasks) > 1:
        rules.add(len(rows))
        means = [_average([cells.get((name, task)) for _, task in tasks]) for name in names]
        levels = [
            _number(float(table.groupby("task")[level].first().mean()), percent) for level in ("chance", "untouched")
        ]
        rows.append((*([""] if kinds else []), "mean", *levels, *(_number(mean, percent) for mean in means)))
    seeds = [int(n) for n in table["seeds"] if n]
    metrics = ", ".join(dict.fromkeys(filter(None, table["metric"].astype(str))))
    caption = (
        f"{metrics or 'Score'} of deltas on the task they were trained on, test split: mean "
        f"{'and standard deviation ' if table['sd'].notna().any() else ''}over {counts(seeds or [0], 'seed')}"
        f"{', in hundredths' if percent else ''}. {BOLD_RESULTS} "
        "Chance is the best answer that does not use the input; untouched is the backbone without a delta."
    )
    heads = (*(["category"] if kinds else []), "task", "chance", "untouched", *names)
    return PaperTable(heads, tuple(rows), caption, "results", frozenset(bold), frozenset(rules), 2 if kinds else 1)


def best_compositions(table: pd.DataFrame) -> dict[str, str]:
    """The composition whose mean is the best of a task, for each task where Welch's test tells it from all others.

    Args:
        table: of `result_tables.own_task`.
    """
    best = {}
    for task, rows in table.groupby("task", sort=False):
        own = rows.to_dict("records")
        if (place := _best(own)) is not None:
            best[str(task)] = str(own[place]["composition"])
    return best


def _number(value: float, percent: bool) -> str:
    return "–" if np.isnan(value) else number(value, percent=percent, digits=3 if percent else 2)


def _mean(row: Mapping[object, object] | None, percent: bool) -> str:
    """Mean and spread; a word where there is none, and the number of seeds where some are missing."""
    if row is None or row["state"] in ("failed", "missing"):
        return "missing" if row is None else str(row["state"])
    text = plus_minus(float(row["mean"]), float(row["sd"]), percent=percent, digits=3 if percent else 2)  # type: ignore[arg-type]
    return text if row["state"] == "done" else f"{text} ({row['seeds']})"


def _average(rows: Sequence[Mapping[object, object] | None]) -> float:
    """The mean over tasks; NaN where one has no score, so that compositions are compared on the same tasks."""
    values = [np.nan if row is None else float(row["mean"]) for row in rows]  # type: ignore[arg-type]
    return float(np.mean(values))


def _best(rows: Sequence[Mapping[object, object] | None]) -> int | None:
    """The place of the best mean, if Welch's test separates it from every other; None otherwise."""
    known = [(place, row) for place, row in enumerate(rows) if row is not None and not np.isnan(row["mean"])]  # type: ignore[call-overload]
    if len(known) < 2:
        return None
    place, best = max(known, key=lambda pair: float(pair[1]["mean"]))  # type: ignore[arg-type]
    others = [row for other, row in known if other != place]
    return place if all(_apart(best, row) for row in others) else None


def _apart(one: Mapping[object, object], other: Mapping[object, object]) -> bool:
    """Whether two means with standard deviations differ, by Welch's test at 5 %."""
    (m, s, n), (m2, s2, n2) = (
        tuple(float(row[name]) for name in ("mean", "sd", "seeds"))  # type: ignore[arg-type]
        for row in (one, other)
    )
    if np.isnan([s, s2]).any() or min(n, n2) < 2 or s + s2 == 0:
        return False
    return bool(stats.ttest_ind_from_stats(m, s, n, m2, s2, n2, equal_var=False).pvalue < _SIGNIFICANT)


def transfer(matrix: TransferMatrix, value: str = "relative", percent: bool = False) -> PaperTable:
    """Sources by targets in one unit, with the mean over the other tasks and the rows of reference.

    Bold is the best source of a target besides the target itself, where Welch's test over seeds tells it from every
    other source.

    Raises:
        BadInput: an unknown value, or a ratio without chance.
    """
    if value not in UNITS:
        raise unknown("value of transfer", value, UNITS)
    check_chance(matrix, value)
    means = mean_over_seeds(in_unit(matrix, value, matrix.values))
    sources, targets = (ordered(names, matrix.categories) for names in (matrix.sources, matrix.targets))
    rows: list[tuple[str, ...]] = []
    for source in sources:
        own = [float(means[matrix.sources.index(source), matrix.targets.index(target)]) for target in targets]
        elsewhere = [score for score, target in zip(own, targets, strict=True) if target != source]
        others = [score for score in elsewhere if not np.isnan(score)]
        average = float(np.mean(others)) if others else np.nan
        rows.append((source, *(_number(score, percent) for score in own), _number(average, percent)))
    levels = {name: level for name, level in baselines(matrix, value).items() if not np.isnan(level).all()}
    for name, level in levels.items():
        own = [float(level[matrix.targets.index(target)]) for target in targets]
        rows.append((name, *(_number(score, percent) for score in own), _number(float(np.nanmean(own)), percent)))
    bold = frozenset(_best_sources(matrix, value, (sources, targets)))
    caption = (
        f"Transfer of {matrix.composition or 'deltas'} from sources (rows) to targets (columns): {UNITS[value]}; "
        f"{runs(matrix)}{'; in hundredths' if percent else ''}. The last column is the mean over the other tasks. "
        f"{_BOLD if bold else 'No source of a target is told apart from all others.'}{_levels_known(levels)}"
    )
    rules = frozenset({len(sources)} if levels else set())
    return PaperTable(("source", *targets, "mean"), tuple(rows), caption, "transfer", bold, rules)


_BOLD = (
    "Bold: the best source other than the target itself, where Welch's test over seeds (5 %) tells it from all others."
)


def _levels_known(levels: Mapping[str, object]) -> str:
    """A sentence on the rows of reference that a table has."""
    says = {
        "chance": "chance is the best answer that does not use the input",
        "untouched": "untouched the backbone without a delta",
        "random": "random a delta of random tensors with the trained norms",
    }
    named = "; ".join(text for name, text in says.items() if name in levels)
    return f" Rows of reference: {named}." if named else ""


def _best_sources(matrix: TransferMatrix, value: str, shown: tuple[Sequence[str], Sequence[str]]) -> Iterator[Any]:
    """(row, column) of the best source of each target, where it differs from every other."""
    values = in_unit(matrix, value, matrix.values)
    known = (~np.isnan(values)).sum(axis=0)
    means, spread = mean_over_seeds(values), deviation(values)
    sources, targets = shown
    for column, target in enumerate(targets, start=1):
        t = matrix.targets.index(target)
        rows: list[Mapping[object, object] | None] = [
            None if source == target else {"mean": means[s, t], "sd": spread[s, t], "seeds": known[s, t]}
            for source in sources
            for s in (matrix.sources.index(source),)
        ]
        if (best := _best(rows)) is not None:
            yield best, column


def lift(lifts: Sequence[Lift], percent: bool = False) -> PaperTable:
    """Lift of each task over the untouched backbone, with 95 % intervals; bold where it excludes zero.

    Raises:
        BadInput: no lifts.
    """
    if not lifts:
        raise BadInput("a table of lifts needs at least one lift, found none")
    names, tasks = (list(dict.fromkeys(getattr(each, kind) for each in lifts)) for kind in ("composition", "task"))
    at = {(each.composition, each.task): each for each in lifts}
    rows, bold = [], set()
    for place, task in enumerate(tasks):
        cells = []
        for column, name in enumerate(names, start=1):
            each = at.get((name, task))
            if each is None or np.isnan(each.value):
                cells.append("missing")
                continue
            text = number(each.value, signed=True, percent=percent)
            cells.append(text if np.isnan(each.low) else f"{text} {interval(each.low, each.high, percent=percent)}")
            bold |= {(place, column)} if each.verdict in ("above", "below") else set()
        rows.append((task, *cells))
    covers = ", ".join(sorted({each.covers for each in lifts if each.verdict != "unknown"})) or "nothing"
    seeds = [each.seeds for each in lifts if each.seeds] or [0]
    caption = (
        f"Lift over the untouched backbone on the task trained on, mean over {counts(seeds, 'seed')}, with 95 % "
        f"intervals over {covers}. Bold: the interval excludes zero."
    )
    return PaperTable(("task", *names), tuple(rows), caption, "lift", frozenset(bold))


def categories(compared: Sequence[tuple[str, CategoryComparison]]) -> PaperTable:
    """Transfer within and across categories of every composition, with intervals and the permutation test.

    Raises:
        BadInput: nothing was compared.
    """
    if not compared:
        raise BadInput("a table of categories needs at least one comparison, found none")
    rows = []
    for name, each in compared:
        parts = [_estimate(part) for part in (each.same, each.cross, each.difference)]
        p = p_value(each.test.p).removeprefix("p ").removeprefix("= ") if each.test else "–"
        rows.append((name, each.kind, *parts, p, str(each.same_unordered)))
    caption = (
        "Transfer to tasks of the same and of other categories, with 95 % intervals; p permutes the categories over "
        "the tasks (one-sided); pairs are those of two tasks of one category."
    )
    heads = ("composition", "value", "same", "cross", "difference", "p", "pairs")
    return PaperTable(heads, tuple(rows), caption, "categories", names=2)


def _estimate(part: object) -> str:
    value, low, high = (getattr(part, name, np.nan) for name in ("value", "low", "high"))
    if np.isnan(value):
        return "–"
    return number(value) if np.isnan(low) else f"{number(value)} {interval(low, high)}"

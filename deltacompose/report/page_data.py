"""The numbers that the page's figures are drawn from, as plain JSON values.

Values that are printed are whole hundredths, rounded here by the rule of `figures.style.number`; the page's script
prints these and rounds nothing. Raw scores are whole multiples of 1/scale. Tasks and compositions are named by their
position.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.matrix import MARGIN, TransferMatrix
from deltacompose.analysis.units import SIGNED, UNITS, baselines, ordered, unknown_chance
from deltacompose.figures.heatmap_style import Ink
from deltacompose.figures.heatmap_values import Cells, cells
from deltacompose.figures.heatmaps import runs
from deltacompose.figures.style import Look, colours_of, counted, labels, markers_of, number
from deltacompose.report import advice, figures
from deltacompose.report.analysed import Analysed, AnalysedTransfer

MANY = 100_000
"""From more raw scores of a study than this on they are rounded to 4 digits instead of 6: the page stays small."""
RAMP = 121
"""Colours of a scale: more than the eye tells apart."""
SHORT = {"relative": "relative performance", "corrected": "chance-corrected transfer", "lift": "lift", "score": "score"}
DASHES = ("", "6 3", "2 2", "8 3 2 3")
Files = Mapping[str, Sequence[tuple[str, str]]]
"""Files in the page's folder: for each figure its (text, address) pairs."""


@dataclass(frozen=True, eq=False)
class Names:
    """Tasks and compositions in the order in which the page numbers them."""

    tasks: tuple[str, ...]
    compositions: tuple[str, ...]

    @classmethod
    def of(cls, study: Analysed) -> Names:
        matrices = study.findings.matrices
        categories = {name: kind for matrix in matrices.values() for name, kind in matrix.categories.items()}
        trained = [str(record["spec"]["task"]) for record in study.findings.trainings]
        names = dict.fromkeys([*(name for matrix in matrices.values() for name in matrix.names), *trained])
        texts = dict.fromkeys([*matrices, *(str(record["spec"]["composition"]) for record in study.findings.trainings)])
        return cls(tuple(ordered(names, categories)), tuple(texts))


def shared(study: Analysed, names: Names, parts: Mapping[str, Mapping[str, Cells]], files: Files) -> dict[str, Any]:
    """Data of all figures: names, colours, metrics, units with their colour scales, and the lifts."""
    matrices = list(study.findings.matrices.values())
    known = {task: (matrix, t) for matrix in reversed(matrices) for t, task in enumerate(matrix.targets)}
    categories = {name: kind for matrix in matrices for name, kind in matrix.categories.items()}
    kinds = study.look.categories
    colours, shapes = colours_of(kinds), markers_of(kinds)
    return {
        "tasks": [
            {"name": name, "label": label, "category": categories.get(name, ""), **_levels(known.get(name))}
            for name, label in zip(names.tasks, labels(names.tasks, 24), strict=True)
        ],
        "categories": {kind: {"colour": colours[kind], "shape": shapes[kind]} for kind in kinds},
        "compositions": _compositions(names.compositions, study.look),
        "units": {
            unit: _unit(unit, [shown[unit] for shown in parts.values() if unit in shown]) for unit in _used(parts)
        },
        "lifts": [
            [
                names.compositions.index(lift.composition),
                names.tasks.index(lift.task),
                *map(hundredths, (lift.value, lift.low, lift.high)),
                lift.seeds,
                lift.covers,
            ]
            for lift in study.lifts
        ],
        "files": {name: list(pairs) for name, pairs in files.items()},
    }


def _levels(place: tuple[TransferMatrix, int] | None) -> dict[str, Any]:
    if place is None:
        return {"metric": "", "chance": None, "untouched": None}
    matrix, t = place
    levels = {name: _plain(float(getattr(matrix, name)[t])) for name in ("chance", "untouched")}
    return {"metric": matrix.metric[t], **levels}


def _compositions(texts: Sequence[str], look: Look) -> list[dict[str, str]]:
    colours, shapes = colours_of(texts, look.compositions), markers_of(texts, look.compositions)
    places = {text: place for place, text in enumerate(sorted({*texts, *look.compositions}))}
    return [
        {"name": text, "colour": colours[text], "shape": shapes[text], "dash": DASHES[places[text] % len(DASHES)]}
        for text in texts
    ]


def _used(parts: Mapping[str, Mapping[str, Cells]]) -> list[str]:
    return list(dict.fromkeys(unit for shown in parts.values() for unit in shown))


def _unit(unit: str, shown: Sequence[Cells]) -> dict[str, Any]:
    """A unit with its colour scale, whose limits hold every composition: the same colour is the same value."""
    ink = ink_of(shown)
    values = np.linspace(ink.low, ink.high, RAMP)
    return {
        "name": SHORT[unit],
        "label": UNITS[unit],
        "signed": unit in SIGNED,
        "undefined": _why_undefined(unit),
        "low": ink.low,
        "high": ink.high,
        "ramp": [[ink.colour(float(value)), ink.readable(float(value))] for value in values],
    }


def ink_of(shown: Sequence[Cells]) -> Ink:
    """The printed heatmaps' colours with limits that hold those of every composition."""
    inks = [Ink.of(each, Look()) for each in shown]
    return dataclasses.replace(inks[0], low=min(ink.low for ink in inks), high=max(ink.high for ink in inks))


def _why_undefined(unit: str) -> str:
    return {
        "relative": "the target's own score is not above 0",
        "corrected": f"the target's own score does not exceed chance by more than {number(MARGIN)}",
        "lift": "the untouched backbone was not evaluated",
    }.get(unit, "undefined")


def units_of(matrix: TransferMatrix) -> list[str]:
    """The units that may be shown: a ratio only where every chance level is known, a lift where any start is."""
    known = {
        "corrected": not unknown_chance(matrix),
        "relative": not unknown_chance(matrix),
        "lift": not np.isnan(matrix.untouched).all(),
        "score": True,
    }
    return [unit for unit, defined in known.items() if defined]


def cells_of(part: AnalysedTransfer) -> dict[str, Cells]:
    """The cells of a composition in every unit that may be shown, in the order of the printed heatmap."""
    return {unit: cells(part.matrix, unit, marks=part.marked) for unit in units_of(part.matrix)}


def scale_of(study: Analysed) -> int:
    """How many parts of one raw scores are counted in."""
    return 10**4 if sum(part.matrix.values.size for part in study.parts) > MANY else 10**6


def transfer(
    part: AnalysedTransfer, names: Names, shown: Mapping[str, Cells], scale: int, files: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything about the transfer of one composition; arrays run over sources, then targets.

    The sd of a lift is that of the score, so it is left out.
    """
    matrix, first = part.matrix, shown["score"]
    order = np.ix_(
        range(len(matrix.seeds)),
        [matrix.sources.index(name) for name in first.sources],
        [matrix.targets.index(name) for name in first.targets],
    )
    failed = matrix.failed[order].reshape(-1)
    return {
        "sources": [names.tasks.index(name) for name in first.sources],
        "targets": [names.tasks.index(name) for name in first.targets],
        "seeds": list(matrix.seeds),
        "scale": scale,
        "scores": [scaled(seed.ravel(), scale) for seed in matrix.values[order]],
        "values": {unit: [hundredths(value) for value in cells.mean.ravel()] for unit, cells in shown.items()},
        "sd": {
            unit: [hundredths(value) for value in cells.sd.ravel()] for unit, cells in shown.items() if unit != "lift"
        },
        "state": "".join(map(_state, first.missing.ravel().tolist(), first.failed.ravel().tolist())),
        "failedSeeds": np.flatnonzero(failed).tolist(),
        "trivial": _flags(first.trivial),
        "partial": _flags(first.partial),
        "marked": _flags(first.marked),
        "mark": first.mark,
        "unowned": np.flatnonzero(np.isnan(matrix.own[:, order[2].ravel()]).all(axis=0)).tolist(),
        "references": _references(matrix, shown, order[2].ravel()),
        **_interval(part, order),
        "runs": runs(matrix),
        "caption": figures.tested_by(part.marked),
        "graph": _graph(part, names),
        "advice": advice.shown(part.advice, part.unadvised),
        "files": dict(files),
    }


def _flags(where: Bools) -> str:
    """One character for each cell, 1 where it has the mark; empty where none has."""
    return "".join("01"[flag] for flag in where.ravel().tolist()) if where.any() else ""


def _state(missing: bool, failed: bool) -> str:
    return "m" if missing else "f" if failed else "."


def _references(matrix: TransferMatrix, shown: Mapping[str, Cells], columns: Any) -> dict[str, Any]:
    """The reference rows in every unit, over the targets in the drawn order."""
    levels = {unit: baselines(matrix, unit) for unit in shown}
    return {
        name: {unit: [hundredths(value) for value in level[name][columns]] for unit, level in levels.items()}
        for name in levels["score"]
    }


def _interval(part: AnalysedTransfer, order: Any) -> dict[str, Any]:
    """The interval of the lift over the untouched backbone; nothing where no cell can be tested."""
    if part.marked is None:
        return {}
    arrays = {"low": part.marked.low, "high": part.marked.high}
    return {name: [hundredths(value) for value in array[order[1:]].ravel()] for name, array in arrays.items()}


def _graph(part: AnalysedTransfer, names: Names) -> dict[str, Any]:
    if part.tasks is None:
        return {"nodes": [], "edges": [], "value": "", "caption": f"No task graph: {part.ungraphed}."}
    edges = []
    for source, other, data in part.tasks.edges(data=True):
        frequency = None
        if part.stability is not None:
            frequency = part.stability.get((source, other), part.stability.get((other, source), 0.0))
        ends = names.tasks.index(source), names.tasks.index(other)
        stands = None if frequency is None else round(100 * frequency)
        edges.append([*ends, hundredths(float(data["weight"])), stands, data.get("directions", 2)])
    value, near = part.tasks.graph["value"], part.tasks.graph["k"]
    caption = (
        f"Each task is joined to its {counted(near, 'nearest neighbour')} by {value} values (mean of both directions); "
        f"the width of an edge is proportional to its weight.{figures.missing_from(part.tasks)}"
    )
    if left_out := part.tasks.graph["left_out"]:
        caption += f" Left out, because no {value} value is defined: {left_out}."
    nodes = [names.tasks.index(name) for name in part.tasks]
    return {"nodes": nodes, "edges": edges, "value": value, "caption": caption}


def curves(rows: Iterable[Mapping[str, Any]], names: Names) -> dict[str, Any]:
    """Curves of training by composition and task: mean and range over seeds at each step, in thousandths."""
    points: dict[tuple[int, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        ends = names.compositions.index(row["composition"]), names.tasks.index(row["unit"])
        points[ends][row["step"]].append(row["score"])
    whole: dict[str, Any] = defaultdict(dict)
    for (text, task), scores in sorted(points.items()):
        steps = sorted(scores)
        whole[str(text)][str(task)] = {
            "steps": steps,
            "mean": [round(1000 * float(np.mean(scores[step]))) for step in steps],
            "low": [round(1000 * min(scores[step])) for step in steps],
            "high": [round(1000 * max(scores[step])) for step in steps],
            "seeds": max(len(each) for each in scores.values()),
        }
    return dict(whole)


def hundredths(value: float) -> int | None:
    """A value in whole hundredths, rounded as `figures.style.number` prints it; None for NaN.

    >>> hundredths(0.874), hundredths(-0.005), hundredths(float("nan"))
    (87, -1, None)
    """
    return None if value != value else int(f"{value:.2f}".replace(".", ""))


def scaled(values: Floats, scale: int) -> list[int | None]:
    """Scores as whole multiples of 1/scale; None for NaN."""
    return [None if value != value else round(value * scale) for value in values.tolist()]


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)

"""The cells of a search for a task's intrinsic dimension, which adds to its plan as it goes.

A cell of kind `search` reads the reference's trainings and those at every d that was tried, of all seeds; its result
says which d are next, or d₉₀ (`analysis.subspace.intrinsic_dimension.searched`). The trainings at those d and the next
`search` cell follow from it and from nothing else, so whoever has the store knows the plan as it is by now.

Every training begins anew, unless the study asks for a warm start: then it begins with the solution at the next lower d
among the trainings that the `search` cell has read, of the same seed and factor of the grid, whose key is its parent.
Those at several d that are asked for at once so never wait for each other. Begun so, a training has had the steps of
all those before it, and its score tells how low the search could get and not what d gives within one budget; and only
a search that tried the same d before it finds its cell again. Hence a search begins anew by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from deltacompose.composition import Composition
from deltacompose.errors import unknown
from deltacompose.planning.analysis_cells import Planner, Trained
from deltacompose.study.config import Cell, DimensionChoice

METHOD, KIND = "intrinsic", "search"

Parse = Callable[[str], Composition]


def families(chosen: DimensionChoice) -> list[dict[str, Any]]:
    """The settings of `intrinsic` that a study compares, d being what is searched."""
    places = {"places": chosen.places} if chosen.places else {}
    return [{"projection": p, "per_layer": scaled, **places} for p in chosen.projections for scaled in chosen.per_layer]


def text(settings: Mapping[str, Any], **d: int) -> str:
    """The expression of such settings, with d or without; a list is what JSON made of a tuple."""
    values = {n: tuple(value) if isinstance(value, list) else value for n, value in {**d, **settings}.items()}
    return f"{METHOD}({', '.join(f'{name}={value!r}' for name, value in values.items())})"


def greatest(chosen: DimensionChoice | None) -> list[str]:
    """The expressions at the greatest d: what every training of the searches has places for and costs at most."""
    return [] if chosen is None else [text(settings, d=chosen.most) for settings in families(chosen)]


def beginnings(planner: Planner, parse: Parse, trained: Trained) -> Iterator[Cell]:
    """The cells that begin a study's searches: they know the full score and no d."""
    study, chosen = planner.study, planner.study.dimension
    if chosen is None:
        return
    reference = parse(chosen.reference)
    known = dict.fromkeys(str(expression) for expression, _, _ in trained)
    if str(reference) not in known:
        raise unknown("composition of the study as the reference of its dimension", str(reference), known)
    for task in study.tasks:
        full = [cell for seed in study.seeds for cell in trained[reference, task, seed] if cell.kind == "train"]
        for settings in families(chosen):
            expression = parse(text(settings))
            [[part]] = expression.describe()
            spec = {
                "composition": str(expression),
                "settings": {name: value for name, value in part["settings"].items() if name != "d"},
                "reference": str(reference),
                "share": chosen.share,
                "resolution": chosen.resolution,
                "most": chosen.most,
                **({"warm_start": True} if chosen.warm_start else {}),
                **planner.data("task", task),
            }
            yield planner.cell(KIND, spec, tuple(cell.key for cell in full))


def added(planner: Planner, parse: Parse, cell: Cell, record: Mapping[str, Any]) -> list[Cell]:
    """Cells that a finished cell adds to the plan: for a search the trainings at the next d and the next search."""
    if cell.kind != KIND:
        return []
    study, task = planner.study, cell.spec["task"]
    cells: list[Cell] = []
    begin = {(start["seed"], start["d"], start["grid"]): start for start in record["result"].get("begin", ())}
    for seed, d in ((int(seed), d) for seed, waiting in record["result"]["next"].items() for d in waiting):
        expression = parse(text(cell.spec["settings"], d=d))
        for factor in study.grid:
            lower = begin.get((seed, d, factor))
            cells += [_begun(stage, lower) for stage in planner.train(expression, task, seed, factor)]
    like = text(cell.spec["settings"], d=cell.spec["most"])
    most = str(parse(like))
    cells = [replace(new, cost=planner.training_cost(most, task, new.spec["recipe"])) for new in cells]
    if not cells:
        return []
    return [*cells, planner.cell(KIND, cell.spec, cell.parents + tuple(trained.key for trained in cells))]


def _begun(cell: Cell, lower: Mapping[str, Any] | None) -> Cell:
    """A training that begins with the solution that a search has named for it; as it was if it named none."""
    if lower is None:
        return cell
    return replace(cell, spec={**cell.spec, "carried": lower["composition"]}, parents=(lower["key"],))

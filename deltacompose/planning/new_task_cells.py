"""The cells about tasks that are new to the deltas: clusters of tasks, merged and routed deltas, few-shot training.

A cell of kind `cluster` reads the trained deltas of all tasks and seeds, and what its measure needs. The trainings on
the clusters' mixtures follow from its result alone, as those of a search for a dimension do (`dimension_search`).

A cell of kind `merge` makes one delta of several for a held-out task; one of kind `reuse` scores a delta on it. They
are kept apart from `evaluate`, so that no transfer matrix takes them for a source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from deltacompose.analysis.similarity.stored_arrays import PROBED
from deltacompose.composition import Composition
from deltacompose.errors import BadInput, unknown
from deltacompose.planning.analysis_cells import Planner, Trained
from deltacompose.study.config import Cell, Study
from deltacompose.study.new_tasks import MERGE, ClusterChoice
from deltacompose.task.mixture import joined_name

CLUSTER, MERGED, REUSED = "cluster", "merge", "reuse"
"""Kinds of cells."""
NOTHING, ARROW, ALL = "nothing", "arrow", "all"
CHOSEN_ON_EXAMPLES = ("single", "few_shot", "cluster")
"""Ways that read the few examples."""

Parse = Callable[[str], Composition]


def initial_cells(planner: Planner, parse: Parse, trained: Trained, probes: Sequence[Cell]) -> Iterator[Cell]:
    """The cells that a plan begins with: the clustering, the delta for all tasks, and all ways but `cluster`.

    Args:
        probes: the cells that collect the arrays of the study's measures.
    """
    study = planner.study
    chosen = study.clusters
    if chosen is not None:
        expression = _of_study(study, parse, chosen.composition)
        yield _clustering(planner, chosen, expression, trained, probes)
        for seed in study.seeds:
            yield from _trained_on(planner, expression, tuple(study.tasks), seed)
    if study.reuse is None:
        return
    if len(study.grid) > 1:
        raise BadInput(f"study {study.name!r}: `reuse` needs one learning rate; leave out `grid`")
    for text in study.compositions:
        expression = parse(text)
        if len(expression.stages) > 1:
            raise BadInput(f"study {study.name!r}: `reuse` merges deltas of one stage; {text!r} has several")
        for seed in study.seeds:
            sources = {task: trained[expression, task, seed][-1] for task in study.tasks}
            whole = _for_all(planner, expression, seed)
            for target in study.held_out:
                for way in study.reuse.ways:
                    if way == ALL and whole is not None:
                        yield from _ways(planner, expression, (ALL, target, seed), {ALL: whole})
                    elif way not in (ALL, "cluster") and (way != ARROW or _is_lora(expression)):
                        yield from _ways(planner, expression, (way, target, seed), sources)


def added(planner: Planner, parse: Parse, cell: Cell, record: Mapping[str, Any]) -> list[Cell]:
    """Cells that a finished clustering adds: a training on every cluster of several tasks, and the use of the best."""
    study = planner.study
    if cell.kind != CLUSTER or study.clusters is None:
        return []
    expression = _of_study(study, parse, study.clusters.composition)
    cells: list[Cell] = []
    for seed in study.seeds:
        sources: dict[str, Cell] = {}
        for tasks in record["result"]["clusters"]:
            own = list(_trained_on(planner, expression, tuple(tasks), seed))
            cells += own if len(tasks) > 1 else []
            sources[joined_name(tuple(tasks))] = next(c for c in reversed(own) if c.kind == "train")
        if study.reuse is not None and "cluster" in study.reuse.ways:
            for target in study.held_out:
                cells += _ways(planner, expression, ("cluster", target, seed), sources)
    return cells


def merged_start(planner: Planner, expression: Composition, way: str, target: str, sources: Mapping[str, Cell]) -> Cell:
    """The cell that merges deltas of other tasks for training on a target to start from (`merge:mean`)."""
    seed = next(iter(sources.values())).spec["seed"]
    return _merge(planner, expression, (way.removeprefix(MERGE), target, seed), sources)


def _trained_on(planner: Planner, expression: Composition, tasks: tuple[str, ...], seed: int) -> Iterator[Cell]:
    """Training on the mixture of some tasks, and its evaluations on every task and those held out."""
    study = planner.study
    name = joined_name(tasks)
    cells = planner.train(expression, name, seed, study.grid[0])
    yield from cells
    for target in (*study.tasks, *study.held_out):
        yield planner.evaluate(name, target, seed, cells[-1])


def _for_all(planner: Planner, expression: Composition, seed: int) -> Cell | None:
    """The delta that was trained on all tasks, which is of the clusters' composition alone."""
    study = planner.study
    if study.clusters is None or str(expression) != study.clusters.composition:
        return None
    return planner.train(expression, joined_name(tuple(study.tasks)), seed, study.grid[0])[-1]


def _clustering(
    planner: Planner, chosen: ClusterChoice, expression: Composition, trained: Trained, probes: Sequence[Cell]
) -> Cell:
    study = planner.study
    text = str(expression)
    cells = [trained[expression, task, seed][-1] for task in study.tasks for seed in study.seeds]
    parents = [cell.key for cell in cells]
    if len(study.grid) > 1:
        raise BadInput(f"study {study.name!r}: clusters need one learning rate; leave out `grid`")
    if chosen.by == "transfer" and not study.transfer:
        raise BadInput(f"study {study.name!r}: clusters by transfer need `transfer: true`")
    if chosen.by == "transfer":
        parents += [
            planner.evaluate(source, target, seed, trained[expression, source, seed][-1]).key
            for source in study.tasks
            for target in study.tasks
            for seed in study.seeds
        ]
    elif chosen.by != "weights":
        own = [cell for cell in probes if cell.kind == "probe" and cell.spec["composition"] == text]
        parents += [cell.key for cell in own if cell.spec["array"] in PROBED]
    spec = {
        "composition": text,
        "by": chosen.by,
        "count": chosen.count,
        "tasks": list(study.tasks),
        "data": {task: planner.data("task", task)["data"] for task in study.tasks},
        **{name: planner.data("task", study.tasks[0])[name] for name in ("backbone", "dtype", "template")},
    }
    return planner.cell(CLUSTER, spec, tuple(parents))


def _ways(
    planner: Planner, expression: Composition, of: tuple[str, str, int], sources: Mapping[str, Cell]
) -> Iterator[Cell]:
    """One way of using some deltas on a held-out task: the merged delta, its score, and training from it."""
    way, target, seed = of
    reuse = planner.study.reuse
    if reuse is None:
        return
    for shots in reuse.shots:
        few = _few_shot(planner, shots)
        start = None if way == NOTHING else _merge(few, expression, of, sources)
        if start is not None:
            yield start
            yield _scored(few, expression, of, start, trained=False)
        if way != ARROW and (reuse.train is None or way in reuse.train):
            cells = few.train(expression, target, seed, planner.study.grid[0])
            parents = () if start is None else (start.key,)
            cells = [replace(cell, spec={**cell.spec, "start": way, "reuse": True}, parents=parents) for cell in cells]
            yield from cells
            yield _scored(few, expression, of, cells[-1], trained=True)


def _merge(planner: Planner, expression: Composition, of: tuple[str, str, int], sources: Mapping[str, Cell]) -> Cell:
    """The cell that makes one delta of several; ways that read no examples are the same for any number of shots."""
    way, target, seed = of
    data = planner.data("target", target) | {"shots": _shots_read(planner, way)}
    if way == "similarity":
        data["data"] = {target: data["data"], **{task: planner.data("task", task)["data"] for task in sources}}
    spec = {
        "composition": str(expression),
        "way": way,
        "sources": list(sources),
        "seed": seed,
        "limit": planner.study.training.limit,
        **planner.methods(expression),
        **data,
    }
    if way == ARROW and planner.study.reuse is not None:
        spec |= {"top": planner.study.reuse.top, **planner.code_of(ARROW, *(m.name for _, m in expression.parts()))}
    cost = 0.0
    if way in CHOSEN_ON_EXAMPLES:
        cost = len(sources) * planner.evaluation_cost(str(expression), target, "train")
    return planner.cell(MERGED, spec, tuple(cell.key for cell in sources.values()), cost)


def _scored(planner: Planner, expression: Composition, of: tuple[str, str, int], cell: Cell, trained: bool) -> Cell:
    """The cell that scores a delta on a held-out task; `trained` says whether it was trained on few examples of it."""
    way, target, seed = of
    study = planner.study
    spec = {
        "composition": str(expression),
        "way": way,
        "trained": trained,
        "seed": seed,
        "split": study.split,
        "limit": study.training.limit,
        **planner.data("target", target),
    }
    if not trained:
        spec["shots"] = _shots_read(planner, way)
    return planner.cell(REUSED, spec, (cell.key,), planner.evaluation_cost(str(expression), target, study.split))


def _shots_read(planner: Planner, way: str) -> int | None:
    """The shots that a merged delta depends on; None where it reads no examples of the target."""
    return planner.study.shots if way in CHOSEN_ON_EXAMPLES or way == "similarity" else None


def _few_shot(planner: Any, shots: int) -> Any:
    """The planner of the same study with few examples, and the steps of few-shot training."""
    study, recipe = planner.study, planner.study.training
    if study.reuse is not None and study.reuse.steps is not None:
        steps = study.reuse.steps
        recipe = replace(recipe, steps=steps, evaluate_every=min(recipe.evaluate_every, steps))
    return replace(planner, study=replace(study, shots=shots, training=recipe))


def _of_study(study: Study, parse: Parse, text: str) -> Composition:
    """The composition of the study's clusters, which must be one that it trains."""
    wanted, known = str(parse(text)), [str(parse(own)) for own in study.compositions]
    if wanted not in known:
        raise unknown("composition of the study for its clusters", wanted, known)
    return parse(text)


def _is_lora(expression: Composition) -> bool:
    parts = [part for _, part in expression.parts()]
    return len(parts) == 1 and parts[0].name == "lora" and not parts[0].settings.get("dora")

"""The plan of a study: its cells, and which of them reads which.

A cell's spec holds all that its result depends on and nothing else, so two studies share the cells that they have in
common, and sequences that begin alike share the trained beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import networkx as nx

from deltacompose.composition import Composition
from deltacompose.errors import unknown
from deltacompose.planning import flops
from deltacompose.planning import new_task_cells as new_tasks
from deltacompose.planning import search_cells as search
from deltacompose.planning.analysis_cells import further
from deltacompose.planning.facts import Facts
from deltacompose.planning.flops import DeltaShape
from deltacompose.study.config import Cell, Study
from deltacompose.study.new_tasks import MERGE

EFFICIENCY_STEPS = 23
"""Steps of a measurement of cost, of which the first few are not timed."""

Extension = Callable[[Cell, Mapping[str, Any]], Iterable[Cell]]
"""The cells that a finished cell, with its record, adds to a plan."""

UNTOUCHED, RANDOM = "untouched", "random"
"""The two sources other than tasks: the backbone without a delta, and random tensors of a trained delta's norms."""


@dataclass(frozen=True)
class _Planner:
    study: Study
    facts: Facts

    def train(
        self, expression: Composition, task: str, seed: int, factor: float, start: Cell | None = None
    ) -> list[Cell]:
        """The cells that train an expression on a task, one for each stage; each reads the one before it.

        `start` is the trained delta of another task whose weights the first stage begins with.
        """
        cells: list[Cell] = []
        for stage in range(len(expression.stages)):
            part, recipe = expression.until(stage + 1), asdict(self.study.recipe(stage))
            recipe["learning_rates"] = {
                method.name: factor * recipe["learning_rates"].get(method.name, getattr(method, "learning_rate", 0.0))
                for _, method in part.parts()
            }
            spec = {
                "composition": str(part),
                "settings": part.describe(),
                **self.methods(part),
                "stage": stage,
                "seed": seed,
                "recipe": recipe,
                "grid": factor,
                "start": start.spec["task"] if start else None,
                **({"processes": self.study.processes} if self.study.processes > 1 else {}),
                **self.data("task", task),
            }
            parents = (cells[-1].key,) if cells else (start.key,) if start else ()
            cells.append(self.cell("train", spec, parents, self.training_cost(str(part), task, recipe)))
        return cells

    def evaluate(
        self, source: str, target: str, seed: int, trained: Cell | None, chosen: tuple[Cell, ...] = ()
    ) -> Cell:
        """The cell that scores a source's delta on a target; with `chosen`, the delta that a selection cell names.

        Without it, where a study has a grid, the score is of that value of the grid alone.
        """
        grid = trained.spec["grid"] if trained and not chosen and len(self.study.grid) > 1 else None
        spec = {
            "composition": trained.spec["composition"] if trained else None,
            "source": source,
            "seed": seed,
            "split": self.study.split,
            "limit": self.study.training.limit,
            "grid": grid,
            **({"source_of_norms": target} if source == RANDOM else {}),
            **({"start": trained.spec["start"]} if trained and trained.spec["start"] else {}),
            **self.data("target", target),
        }
        parents = tuple(cell.key for cell in chosen) if chosen else (trained.key,) if trained else ()
        return self.cell("evaluate", spec, parents, self.evaluation_cost(spec["composition"], target, self.study.split))

    def select(self, cells: list[Cell]) -> Cell:
        """The cell that chooses a factor for the learning rates by the mean development score over the seeds."""
        spec = {name: cells[0].spec[name] for name in ("composition", "task", "data", "backbone", "dtype")}
        return self.cell("select", spec, tuple(cell.key for cell in cells))

    def efficiency(self, expression: Composition, task: str) -> Cell:
        """The cell that measures what training one delta costs: a few steps in a process of its own."""
        trained = self.train(expression, task, self.study.seeds[0], 1.0)[-1]
        recipe = {**trained.spec["recipe"], "steps": EFFICIENCY_STEPS}
        cost = trained.cost * EFFICIENCY_STEPS / max(1, trained.spec["recipe"]["steps"])
        alone = {name: value for name, value in trained.spec.items() if name != "processes"}
        return self.cell("efficiency", {**alone, "recipe": recipe}, (), cost)

    @property
    def needs(self) -> tuple[str, ...]:
        """The arrays that the study's measures need."""
        return self.facts.needs

    @property
    def width(self) -> int:
        """The width of the backbone's states where its inputs enter."""
        return next(iter(self.facts.shape.stacks.values())).width

    @property
    def version(self) -> int:
        """The version of the cells' keys."""
        return self.facts.version

    def cell(self, kind: str, spec: Mapping[str, Any], parents: tuple[str, ...] = (), cost: float = 0.0) -> Cell:
        """A cell whose key has the plan's version."""
        return Cell(kind, spec, parents, cost, self.facts.version)

    def methods(self, expression: Composition) -> dict[str, Any]:
        """The versions and the code of the methods of an expression, for a spec."""
        versions = {method.name: getattr(method, "version", 1) for _, method in expression.parts()}
        return {"versions": versions, **self.code_of(*versions)}

    def code_of(self, *names: str) -> dict[str, Any]:
        """The digests of the code of methods, for a spec; keys of version 1 have none."""
        known = self.facts.implementations
        return {"implementations": {n: known[n] for n in names if n in known}} if self.version > 1 else {}

    def choice(self, task: str) -> bool:
        """Whether a task ranks candidates."""
        return self.facts.of(task).lengths.candidates > 0

    def data(self, role: str, task: str) -> dict[str, Any]:
        """Entries of a spec for a task's data and for the backbone; `role` is the field that names the task."""
        study = self.study
        return {
            role: task,
            "data": self.facts.of(task).fingerprint,
            "rows": asdict(study.rows),
            "shots": study.shots,
            "template": study.template,
            "backbone": self.facts.fingerprint,
            "dtype": study.backbone.dtype,
            **({"attention": study.backbone.attention} if study.backbone.attention else {}),
            **({"chat": {"system": study.backbone.system}} if study.backbone.chat else {}),
            **({"ranking": study.ranking} if study.ranking != "sum" else {}),
        }

    def training_cost(self, composition: str, task: str, recipe: Mapping[str, Any]) -> float:
        """Operations of all steps and of the development scores in between."""
        batch = min(recipe["batch"], self.rows(task, "train"))
        step = self.step_cost(composition, task, batch, recipe["checkpointing"])
        looks = 1 + -(-recipe["steps"] // recipe["evaluate_every"])
        return float(recipe["steps"] * step + looks * self.evaluation_cost(composition, task, "val"))

    def step_cost(self, composition: str, task: str, batch: int, recomputed: bool = False) -> float:
        """Operations of the loss of so many training rows in one pass, and of its gradient."""
        facts, delta = self.facts.of(task), self.facts.deltas.get(composition, DeltaShape())
        return flops.training(self.facts.shape, facts.lengths, delta, batch, recomputed)

    def evaluation_cost(self, composition: str | None, task: str, split: str) -> float:
        """Operations of the evaluation of one delta on a split."""
        facts, delta = self.facts.of(task), self.facts.deltas.get(composition or "", DeltaShape())
        return flops.evaluation(self.facts.shape, facts.lengths, delta, self.rows(task, split))

    def rows(self, task: str, split: str) -> int:
        """How many examples of a split are read; `shots` of each class in training and development."""
        facts = self.facts.of(task)
        if self.study.shots is None or split == "test":
            return facts.rows[split]
        return min(facts.rows[split], self.study.shots * max(1, round(facts.lengths.candidates)))

    def trained(self, composition: str) -> int:
        """How many parameters a composition's last stage trains; 0 where that is not known."""
        return self.facts.deltas.get(composition, DeltaShape()).trained


@dataclass(frozen=True, eq=False)
class Prepared:
    """A study with all that is found out of it once, before it is run, estimated or read.

    Attributes:
        facts: of its backbone, tasks and compositions.
        plan: its cells, a directed graph from parents to children; a node is a key with the attribute `cell`.
        extend: the cells that a finished cell, with its record, adds to the plan.
    """

    study: Study
    facts: Facts
    plan: nx.DiGraph
    extend: Extension

    def grown(self, record: Callable[[str], Mapping[str, Any] | None]) -> Prepared:
        """The same with the cells that finished cells, and those that they added, have added to the plan.

        Args:
            record: the record of a finished cell by its key; None for a cell that is not finished.
        """
        whole = self.plan.copy()
        waiting = [cell for _, cell in self.plan.nodes(data="cell") if cell.kind in _ADDED]
        while waiting:
            cell = waiting.pop()
            finished = record(cell.key)
            for new in () if finished is None else self.extend(cell, finished):
                if new.key not in whole:
                    _put(whole, new)
                    waiting += [new] if new.kind in _ADDED else []
        return replace(self, plan=whole)


def prepare(study: Study, facts: Facts, parse: Callable[[str], Composition]) -> Prepared:
    """The plan of a study, without the cells that finished cells add.

    Raises:
        BadInput: the subspace or the dimension search names a composition or task that the study does not have.
    """
    return assembled(study, facts, parse, _cells(_Planner(study, facts), parse))


def assembled(study: Study, facts: Facts, parse: Callable[[str], Composition], cells: Iterable[Cell]) -> Prepared:
    """A study with cells that were planned for these facts before, each after those that it reads."""
    graph = nx.DiGraph()
    for cell in cells:
        _put(graph, cell)
    planner = _Planner(study, facts)

    def extend(cell: Cell, record: Mapping[str, Any]) -> Iterable[Cell]:
        return _ADDED[cell.kind](planner, parse, cell, record) if cell.kind in _ADDED else ()

    return Prepared(study, facts, graph, extend)


_ADDED: Mapping[str, Callable[..., Iterable[Cell]]] = {search.KIND: search.added, new_tasks.CLUSTER: new_tasks.added}
"""The functions that give the cells which a finished cell adds to a plan, by its kind."""


def _put(graph: nx.DiGraph, cell: Cell) -> None:
    graph.add_node(cell.key, cell=cell)
    graph.add_edges_from((parent, cell.key) for parent in cell.parents)


@dataclass(frozen=True)
class _OfSource:
    """The cells of one composition on one source.

    Attributes:
        cells: all of them, each after those that it reads.
        giving: by seed the cells that give the trained delta: its cell, or a selection and its choices.
    """

    cells: tuple[Cell, ...]
    giving: Mapping[int, tuple[Cell, ...]]


def _cells(planner: _Planner, parse: Callable[[str], Composition]) -> list[Cell]:
    """All cells of a study, each after those that it reads."""
    study = planner.study
    cells = [planner.evaluate(UNTOUCHED, target, 0, None) for target in (*study.tasks, *study.held_out)]
    giving: dict[tuple[Composition, str, int], tuple[Cell, ...]] = {}
    for text in study.compositions:
        expression = parse(text)
        for source in study.tasks:
            of_source = _of_source(planner, expression, source)
            cells += of_source.cells
            giving |= {(expression, source, seed): trained for seed, trained in of_source.giving.items()}
        if study.efficiency and len(expression.stages) == 1:
            cells += [planner.efficiency(expression, task) for task in study.tasks]
    for text in study.compositions:
        for source in study.start_from:
            cells += _started(planner, parse(text), source)
    probes = list(further(replace(planner, study=_checked(study, parse)), giving))
    cells += probes
    cells += new_tasks.initial_cells(planner, parse, giving, probes)
    cells += search.beginnings(planner, parse, giving)
    return cells


def _checked(study: Study, parse: Callable[[str], Composition]) -> Study:
    """The study with the composition of its subspace as that one's text; it and the seen tasks must be the study's."""
    if study.subspace is None:
        return study
    texts = [str(parse(text)) for text in study.compositions]
    for kind, names, known in (
        ("composition", [str(parse(study.subspace.composition))], texts),
        ("task", study.subspace.seen, study.tasks),
    ):
        for name in names:
            if name not in known:
                raise unknown(f"{kind} of the study for its subspace", name, known)
    return replace(study, subspace=replace(study.subspace, composition=str(parse(study.subspace.composition))))


def _of_source(planner: _Planner, expression: Composition, source: str) -> _OfSource:
    """Training on one task with every seed and factor, the choice among factors, and the evaluations."""
    study = planner.study
    cells: list[Cell] = []
    trained: dict[int, list[Cell]] = {seed: [] for seed in study.seeds}
    for seed in study.seeds:
        for factor in study.grid:
            stages = planner.train(expression, source, seed, factor)
            cells += stages
            trained[seed].append(stages[-1])
    chosen: tuple[Cell, ...] = ()
    if len(study.grid) > 1:
        chosen = (planner.select([cell for own in trained.values() for cell in own]),)
        cells += chosen
        cells += [planner.evaluate(source, source, seed, cell) for seed, own in trained.items() for cell in own]
    for seed, own in trained.items():
        among = (*chosen, *own) if chosen else ()
        targets = (*(study.tasks if study.transfer else (source,)), *study.held_out)
        cells += [planner.evaluate(source, target, seed, own[0], among) for target in targets]
        cells.append(planner.evaluate(RANDOM, source, seed, own[0], among))
    return _OfSource(tuple(cells), {seed: (*chosen, *own) for seed, own in trained.items()})


def _started(planner: _Planner, expression: Composition, source: str) -> list[Cell]:
    """Initialisation transfer (Vu et al. 2022): training on every other task from the source's weights.

    The source may be a merge of the deltas of all tasks but the target (`merge:mean`).
    """
    study = planner.study
    if source.startswith(MERGE):
        return _started_from_merge(planner, expression, source)
    cells: list[Cell] = []
    for seed in study.seeds:
        start = planner.train(expression.until(1), source, seed, study.grid[0])[-1]
        for target in study.tasks:
            if target != source:
                stages = planner.train(expression, target, seed, study.grid[0], start)
                cells += [*stages, planner.evaluate(target, target, seed, stages[-1])]
    return cells


def _started_from_merge(planner: _Planner, expression: Composition, way: str) -> list[Cell]:
    study = planner.study
    cells: list[Cell] = []
    for seed in study.seeds:
        own = {task: planner.train(expression.until(1), task, seed, study.grid[0])[-1] for task in study.tasks}
        for target in study.tasks:
            sources = {task: cell for task, cell in own.items() if task != target}
            start = new_tasks.merged_start(planner, expression.until(1), way, target, sources)
            stages = [start]
            for cell in planner.train(expression, target, seed, study.grid[0]):
                stages.append(replace(cell, spec={**cell.spec, "start": way}, parents=(stages[-1].key,)))
            cells += [*stages, planner.evaluate(target, target, seed, stages[-1])]
    return cells

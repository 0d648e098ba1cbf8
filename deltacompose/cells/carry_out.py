"""Carrying out cells: what a worker does with a group of them, from their specs to the store.

Nothing but the store is shared with other workers. Backbones and tasks that a process has read it keeps, for the next
group will want them again.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from deltacompose import registry
from deltacompose.analysis.similarity.measure import named
from deltacompose.analysis.subspace.intrinsic_dimension import searched
from deltacompose.backbone.backbone import Backbone
from deltacompose.cells import derived
from deltacompose.cells.context import Inputs
from deltacompose.cells.context import Outcome as Made
from deltacompose.cells.loaded import (
    Cut,
    TaskSource,
    backbone_of,
    check_backbone,
    check_code,
    present_task,
    reader_as_planned,
    reader_of_content,
    task_as_read,
    whole_task,
)
from deltacompose.cells.probe import probe
from deltacompose.cells.shapes import delta_shape, lengths_of, shape_of
from deltacompose.cells.throughput import speed
from deltacompose.cells.training_state import latest_score, read_state, write_state
from deltacompose.delta.delta import Delta
from deltacompose.distributed import Company, company
from deltacompose.errors import BadInput
from deltacompose.method.parameter_overlap import overlaps
from deltacompose.method.weights import carried, generator
from deltacompose.planning import dimension_search as search
from deltacompose.planning.analysis_cells import SUBSPACE_METHOD
from deltacompose.planning.plan import RANDOM, Facts, TaskFacts
from deltacompose.scoring import Reader
from deltacompose.store.store import Store, open_store
from deltacompose.study.config import KEYS, Cell, Study
from deltacompose.study.recipe import Recipe
from deltacompose.task.task import Task, score
from deltacompose.training.learner import Job
from deltacompose.training.loop import State, train


def facts(study: Study, version: int = KEYS) -> Facts:
    """What the plan must know of a study's backbone, tasks and compositions, as they are now.

    Args:
        version: of the keys that the plan is for; an earlier one knows the cells of a store that was made with it.
    """
    backbone = backbone_of(options_of(study)["backbone"])
    tasks = dict.fromkeys((*study.tasks, *study.start_from))
    known = {name: _task_facts(study, name, _sample(study, name)) for name in tasks}
    texts = [registry.parse(text) for text in (*study.compositions, *search.greatest(study.dimension))]
    beginnings = [whole.until(k + 1) for whole in texts for k in range(len(whole.stages))]
    deltas = {str(part): delta_shape(backbone, part) for part in beginnings}
    needs = {str(named(name, registry.measures()).needs) for name in study.measures}
    names = {method.name for whole in texts for _, method in whole.parts()}
    names |= {SUBSPACE_METHOD} & set(registry.methods()) if study.subspace is not None else set()
    return Facts(
        backbone.content if version > 1 else backbone.fingerprint,
        shape_of(backbone),
        known,
        deltas,
        tuple(sorted(needs)),
        {name: registry.implementation_of(name) for name in sorted(names)},
        version,
    )


def speed_of(study: Study) -> dict[str, float]:
    """Operations per second of training and of evaluation here, from passes over the study's first task."""
    return dict(_speed(json.dumps(options_of(study)), study.training.batch, _sample(study, study.tasks[0])))


@lru_cache(maxsize=4)
def _speed(options: str, batch: int, sample: Reader) -> dict[str, float]:
    return speed(sample, shape_of(sample.backbone), lengths_of(sample, batch), batch)


def _sample(study: Study, task: str) -> Reader:
    """The examples by which it is learned how long those of a task are, whatever the study reads."""
    options = options_of(study)
    source = TaskSource(task, options["tasks"], study.template, study.ranking)
    cut = Cut((8 * study.training.batch, None, None))
    print_of = present_task(source).fingerprint
    return reader_of_content(backbone_of(options["backbone"]), source, print_of, cut, study.training.limit)


def options_of(study: Study) -> dict[str, Any]:
    """What workers need beside the cells: where the backbone and the study's own tasks come from, as plain data."""
    choice = {name: getattr(study.backbone, name) for name in ("model", "dtype", "head", "table", "attention")}
    choice |= {} if study.backbone.device is None else {"device": study.backbone.device}
    choice |= {"chat": True, "system": study.backbone.system} if study.backbone.chat else {}
    own = json.dumps([study.folder, study.own_tasks], sort_keys=True)
    several = {"processes": study.processes} if study.processes > 1 else {}
    # Not sorted: the places of a table that is written out are in forward order, in which weights are drawn.
    return {"backbone": json.dumps(choice), "tasks": own, **several}


def _company(options: Mapping[str, Any]) -> AbstractContextManager[Company]:
    """Those that carry out cells together; entered before the backbone is read, for it gives each its own GPU."""
    return company(on_cpu=json.loads(options["backbone"]).get("device") == "cpu")


def notes(study: Study) -> list[str]:
    """What a reader should know of a study's expressions before they are trained."""
    backbone = backbone_of(options_of(study)["backbone"])
    derived = [f"backbone: table derived from the module names of {backbone.name}"] if backbone.derived else []
    of_expressions = ((text, note) for text in study.compositions for note in overlaps(backbone, registry.parse(text)))
    return derived + [f"{text}: {note}" for text, note in of_expressions]


def carry_out(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Carries out a group of cells of one kind and stores each; gives for each key what became of it.

    Args:
        spec: `store`, the store's folder; `cells`, each as kind, spec, parents and cost; `options` as `options_of`.
    """
    store = open_store(spec["store"], create=False)
    cells = [Cell(c["kind"], c["spec"], tuple(c["parents"]), c.get("cost", 0.0)) for c in spec["cells"]]
    for cell in cells:
        if cell.kind not in _KINDS:
            raise BadInput(f"no kind of cell {cell.kind!r}; kinds: {', '.join(_KINDS)}")
    _KINDS[cells[0].kind](store, cells, spec["options"])
    return [{"key": cell.key, "state": store.state(cell.key)} for cell in cells]


def under_way(store: Store, key: str) -> dict[str, Any] | None:
    """The latest development score of a training that is not finished, by its checkpoint."""
    return latest_score(store.glimpse(key, "state.json"))


def _train(store: Store, cells: Sequence[Cell], options: Mapping[str, Any]) -> None:
    with _company(options) as crew:
        backbone = backbone_of(options["backbone"])
        _check(backbone, cells)
        cells = list(_missing(crew, store, cells, backbone))
        if not cells:
            return
        started = time.monotonic()
        jobs = [replace(_job(store, cell, backbone, options), company=crew) for cell in cells]
        outcomes = train(backbone, jobs, _Checkpoints(store, cells, crew.rank == 0), options.get("tokens"))
        _check(backbone, cells)  # files that were edited meanwhile may be mapped into memory
    if crew.rank:
        return
    for cell, job, outcome in zip(cells, jobs, outcomes, strict=True):
        if isinstance(outcome, Exception):
            store.drop_checkpoint(cell.key)
            store.fail(cell, outcome)
            continue
        task, record = job.reader.task, dict(outcome.record)
        predictions = record.pop("dev_predictions")
        rows = derived.answers(task, "val", predictions, score(task, task.examples("val"), predictions))
        write = _saved(registry.with_origins(replace(outcome, record=record)), rows)
        store.add(cell, record, write, (time.monotonic() - started) / len(cells))


def _select(store: Store, cells: Sequence[Cell], options: Mapping[str, Any]) -> None:
    """Chooses among factors of the learning rates: best mean development score over seeds, the smallest of equals."""
    for cell in cells:
        scores: dict[float, list[float]] = {}
        for parent in cell.parents:
            record = store.record(parent)
            scores.setdefault(record["spec"]["grid"], []).append(record["result"]["dev"])
        means = {factor: sum(values) / len(values) for factor, values in scores.items()}
        best = max(sorted(means), key=lambda factor: means[factor])
        store.add(cell, {"grid": best, "dev": {str(factor): mean for factor, mean in sorted(means.items())}})


def _search(store: Store, cells: Sequence[Cell], options: Mapping[str, Any]) -> None:
    """Reads off what was trained which d a search needs next; with few shots, chance is a mean over the seeds."""
    for cell in cells:
        spec, parents = cell.spec, [store.record(parent) for parent in cell.parents]
        seeds = sorted({r["spec"]["seed"] for r in parents}) if spec["shots"] is not None else [0]
        drawn = [task_as_read({**spec, "seed": seed}, spec["task"], options) for seed in seeds]
        chance = sum(task.chance("val") for task in drawn) / len(seeds)
        store.add(cell, searched(spec, parents, None if math.isnan(chance) else chance))


def _efficiency(store: Store, cells: Sequence[Cell], options: Mapping[str, Any]) -> None:
    """Measures what training one delta costs, in a fresh process that does nothing else."""
    for cell in cells:
        started = time.monotonic()
        given = json.dumps({"spec": cell.spec, "options": dict(options)})
        command = [sys.executable, "-m", "deltacompose.cells.efficiency"]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise BadInput(f"measuring {cell.spec['composition']} alone failed: {last[0]}")
        store.add(cell, json.loads(done.stdout.splitlines()[-1]), seconds=time.monotonic() - started)


def _further(make: Callable[[Inputs], Made]) -> Callable[[Store, Sequence[Cell], Mapping[str, Any]], None]:
    """Carries out cells of which each gives its result by itself, and what writes its files.

    Several processes share what is trained and predicted, and do all else alike, for the sake of a backbone that lies
    in shards; one of them stores it.
    """

    def carry(store: Store, cells: Sequence[Cell], options: Mapping[str, Any]) -> None:
        with _company(options) as crew:
            backbone = backbone_of(options["backbone"])
            _check(backbone, cells)
            for cell in _missing(crew, store, cells, backbone):
                started = time.monotonic()
                result, write = make(replace(_inputs(store, cell, backbone, options), company=crew))
                _check(backbone, [cell])
                if not crew.rank:
                    store.add(cell, result, write, time.monotonic() - started)

    return carry


def _missing(crew: Company, store: Store, cells: Sequence[Cell], backbone: Backbone) -> Iterator[Cell]:
    """Those cells that are not stored yet when they are asked for; of several processes the first one looks."""
    for cell in cells:
        if not crew.of_first(store.has(cell.key), backbone.model.device):
            yield cell


def _inputs(store: Store, cell: Cell, backbone: Backbone, options: Mapping[str, Any]) -> Inputs:
    def read(task: str) -> Reader:
        return reader_as_planned(backbone, cell.spec, task, options)

    def whole(task: str) -> Task:
        return whole_task(cell.spec, task, options)

    parents = [store.record(parent) for parent in cell.parents]
    for record in parents:
        check_code(record["spec"])
    return Inputs(cell, backbone, parents, store.folder, registry.methods(), read, whole)


def _evaluated(inputs: Inputs) -> Made:
    spec = inputs.cell.spec
    result, write = derived.scored(inputs.reader(spec["target"]), _delta(inputs), spec["split"], inputs.company)
    return result | {"backbone": inputs.backbone.name}, write


def _delta(inputs: Inputs) -> Delta | None:
    """The delta that an evaluation cell scores; None for the untouched backbone.

    A selection cell among its parents chooses it.
    """
    if not inputs.parents:
        return None
    chosen = next((record["result"]["grid"] for record in inputs.parents if record["kind"] == "select"), None)
    trained = [r for r in inputs.parents if r["kind"] == "train" and (chosen is None or r["spec"]["grid"] == chosen)]
    delta, spec = registry.load_delta(inputs.folder(trained[0]["key"])), inputs.cell.spec
    return randomised(delta, spec["seed"]) if spec["source"] == RANDOM else delta


def randomised(delta: Delta, seed: int) -> Delta:
    """A delta whose tensors are random, each with the norm of the trained one: what it scores is not transfer."""
    weights = {}
    for name, tensor in delta.weights.items():
        drawn = torch.randn(tensor.shape, generator=generator(seed, "random", name))
        weights[name] = drawn * (tensor.norm() / drawn.norm().clamp(min=1e-12))
    return replace(delta, weights=weights)


_KINDS: dict[str, Callable[[Store, Sequence[Cell], Mapping[str, Any]], None]] = {
    "train": _train,
    "evaluate": _further(_evaluated),
    "select": _select,
    "search": _search,
    "efficiency": _efficiency,
    "probe": _further(probe),
    "subspace": _further(derived.subspace),
    "reconstruct": _further(derived.reconstruct),
    "tune": _further(derived.tune),
    "swap": _further(derived.swap),
}


class _Checkpoints:
    """A bank's checkpoints in the store, one for each of its cells; of several processes one `writes`, and all read."""

    def __init__(self, store: Store, cells: Sequence[Cell], writes: bool = True) -> None:
        self.store, self.cells, self.writes = store, cells, writes

    def save(self, states: Sequence[State]) -> None:
        if self.writes:
            each = zip(self.cells, states, strict=True)
            self.store.save_checkpoints({cell.key: partial(write_state, state) for cell, state in each})

    def load(self) -> dict[int, State]:
        found = self.store.checkpoints(cell.key for cell in self.cells)
        folders = {i: found[cell.key] for i, cell in enumerate(self.cells) if cell.key in found}
        states: dict[int, State] = {}
        for i, folder in folders.items():
            with contextlib.suppress(BadInput):  # the training begins anew, and gives the same
                states[i] = read_state(folder)
        return states


def _job(store: Store, cell: Cell, backbone: Backbone, options: Mapping[str, Any]) -> Job:
    spec, expression = cell.spec, registry.parse(cell.spec["composition"])
    earlier = start = None
    if cell.parents and spec["stage"]:
        earlier = registry.load_delta(store.folder(cell.parents[0]))
    elif cell.parents:
        begun = registry.load_delta(store.folder(cell.parents[0]))
        start = carried(backbone, expression, begun.expression, begun.weights) if "carried" in spec else begun.weights
    return Job(
        expression,
        reader_as_planned(backbone, spec, spec["task"], options),
        spec["seed"],
        Recipe(**spec["recipe"]),
        earlier,
        start,
    )


def _check(backbone: Backbone, cells: Sequence[Cell]) -> None:
    """Refuses cells that were planned for another backbone, or for other code of their methods, than are here now."""
    for cell in cells:
        check_backbone(backbone, cell)
        check_code(cell.spec)


def _saved(delta: Delta, rows: Sequence[Mapping[str, Any]]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        delta.save(folder)
        derived.write_answers(folder, rows)

    return write


def reader_of(cell: Cell, options: Mapping[str, Any]) -> Reader:
    """The task of a training cell as its backbone reads it."""
    backbone = backbone_of(options["backbone"])
    _check(backbone, [cell])
    return reader_as_planned(backbone, cell.spec, cell.spec["task"], options)


def _task_facts(study: Study, name: str, sample: Reader) -> TaskFacts:
    task = present_task(TaskSource(name, options_of(study)["tasks"], study.template, study.ranking))
    rows = {split: len(task.examples(split)) for split in ("train", "val", "test")}
    rows = {split: min(count, getattr(study.rows, split) or count) for split, count in rows.items()}
    if study.shots is not None:
        few = study.shots * max(1, len(task.labels))
        rows |= {split: min(rows[split], few) for split in ("train", "val")}
    return TaskFacts(task.fingerprint, task.category, rows, lengths_of(sample, study.training.batch))

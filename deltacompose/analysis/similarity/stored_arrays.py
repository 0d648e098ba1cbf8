"""The arrays that measures read, from a store: of each trained delta, and of each delta on each task.

Weights, soft prompts and low-rank factors are in the training cells; activations, gradients, features, probabilities
and predictions on development data in cells of kind `probe`, which a study plans for the measures that it names.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deltacompose.analysis import delta_tensors as tensors
from deltacompose.analysis.limitations import shortened
from deltacompose.analysis.similarity.formulas import flatten, low_rank
from deltacompose.analysis.similarity.measure import Needs, Responses
from deltacompose.errors import BadInput
from deltacompose.study.queries import Record, done, of_kind
from deltacompose.task.mixture import mix_of_name

Key = tuple[str, int]

PROBED = ("activations", "gradients", "drawn_gradients")
"""Needs for which a probe cell holds one array of a delta on its own task."""
ANSWERED = ("features", "probabilities", "predictions")
"""Needs for which a probe cell holds a delta's answers on a target, and the target's true answers."""
FILE, LABELS, PREDICTED = "probe.safetensors", "labels.json", "predicted.json"
"""Content of a probe cell: the array under the name of its need or the predictions, and the target's answers."""


@dataclass(frozen=True, eq=False)
class StoredDeltas:
    """The trained deltas of one composition in a store.

    Attributes:
        composition: its text.
        trained: the key of the training cell by (task, seed).
        records: finished probes of the composition.
        folder: where the cell of a key keeps its files.
        order: tasks in the order in which they are to stand.
    """

    composition: str
    trained: Mapping[Key, str]
    records: Sequence[Record]
    folder: Callable[[str], Path] = field(repr=False)
    order: Sequence[str] = ()

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Those that have a trained delta."""
        names = {task for task, _ in self.trained}
        return (*(task for task in self.order if task in names), *sorted(names - set(self.order)))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Those of the trained deltas."""
        return tuple(sorted({seed for _, seed in self.trained}))

    def read(self, need: Needs, seed: int) -> Mapping[str, Any]:
        """The arrays of every task for one seed.

        Raises:
            BadInput: what is lacking, and how a study comes to have it.
        """
        if need in PROBED:
            return self._probed(need, seed)
        if need in ANSWERED:
            return self._answered(need, seed)
        weights = self.weights(seed)
        if need == "weights":
            return {task: flatten(own) for task, own in weights.items()}
        return {task: _FROM_WEIGHTS[need](self.composition, own) for task, own in weights.items()}

    def weights(self, seed: int) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
        """The trained tensors of every task's delta by name."""
        missing = [task for task in self.tasks if (task, seed) not in self.trained]
        if missing:
            raise BadInput(f"no trained delta of {self.composition} with seed {seed} for {shortened(missing)}")
        return {task: tensors.read(self.folder(self.trained[task, seed])) for task in self.tasks}

    def _probed(self, need: Needs, seed: int) -> dict[str, Any]:
        cells = {r["spec"]["source"]: r["key"] for r in self._of("probe", seed) if r["spec"]["array"] == need}
        missing = [task for task in self.tasks if task not in cells]
        if missing:
            raise BadInput(f"{_no_cells(need)}; seed {seed} lacks {shortened(missing)}")
        return {task: tensors.read(self.folder(cells[task]) / FILE)[need] for task in self.tasks}

    def _answered(self, need: Needs, seed: int) -> dict[str, Responses]:
        """Over the tasks that are targets of a probe; each of them needs every other one as a source."""
        cells = {
            (r["spec"]["source"], r["spec"]["target"]): r["key"]
            for r in self._of("probe", seed)
            if r["spec"]["array"] == need
        }
        return self._responses(cells, _no_cells(need), lambda key: _probe(self.folder(key), need))

    def _responses(
        self, cells: Mapping[tuple[str, str], str], lacking: str, read: Callable[[str], tuple[Any, Any]]
    ) -> dict[str, Responses]:
        targets = [task for task in self.tasks if any(task == target for _, target in cells)]
        missing = [f"{s} → {t}" for s in targets for t in targets if (s, t) not in cells]
        if len(targets) < 2 or missing:
            raise BadInput(lacking + (f"; missing: {shortened(missing)}" if missing else ""))
        result = {}
        for target in targets:
            answers = [read(cells[source, target]) for source in targets]
            result[target] = Responses(np.asarray(answers[0][0]), [np.asarray(answered) for _, answered in answers])
        return result

    def _of(self, kind: str, seed: int) -> Iterator[Record]:
        return (r for r in self.records if r["kind"] == kind and r["spec"].get("seed") == seed)


def stored_deltas(
    records: Iterable[Record], folder: Callable[[str], Path], order: Sequence[str] = (), mixtures: bool = False
) -> dict[str, StoredDeltas]:
    """The deltas of every composition that was evaluated, shorter texts first.

    Deltas that started from another task's weights or a lower d's are left aside, and so are, where learning rates
    were chosen from a grid, those that were not chosen.

    Args:
        records: finished and failed cells of all kinds.
        folder: where the cell of a key keeps its files.
        order: tasks in the order in which they are to stand, by name if none is given.
        mixtures: whether the deltas of clusters of tasks are among them.
    """
    finished = done(records)
    if not mixtures:
        finished = [r for r in finished if mix_of_name(str(r["spec"].get("task") or "")) is None]
    texts = {str(r["spec"]["composition"]) for r in finished if r["kind"] == "evaluate" and r["spec"]["composition"]}
    by_text: dict[str, list[Record]] = defaultdict(list)
    for record in finished:
        if record["kind"] in ("probe", "select"):
            by_text[str(record["spec"].get("composition"))].append(record)
    trained = {text: _trained(of_kind(finished, "train"), by_text[text], text) for text in texts}
    return {
        text: StoredDeltas(text, trained[text], by_text[text], folder, order)
        for text in sorted(texts, key=lambda text: (len(text), text))
        if trained[text]
    }


def _trained(records: Sequence[Record], others: Sequence[Record], composition: str) -> dict[Key, str]:
    """The training cell of each task and seed; where there is a grid the one that a selection cell names."""
    chosen = {r["spec"]["task"]: r["result"]["grid"] for r in others if r["kind"] == "select"}
    keys: dict[Key, str] = {}
    for record in sorted(records, key=lambda record: str(record["key"])):
        spec = record["spec"]
        if spec["composition"] != composition or spec.get("start") or spec.get("carried"):
            continue
        if spec["task"] in chosen and spec.get("grid") != chosen[spec["task"]]:
            continue
        at = (str(spec["task"]), int(spec["seed"]))
        if at in keys:
            raise BadInput(
                f"two trainings of {composition!r} on {at[0]} with seed {at[1]}, whose settings differ; "
                "give the study's file instead of its store, so that its own cells are read"
            )
        keys[at] = str(record["key"])
    return keys


def _probe(folder: Path, need: str) -> tuple[Any, Any]:
    labels = json.loads((folder / LABELS).read_text(encoding="utf-8"))
    if need == "predictions":
        return labels, json.loads((folder / PREDICTED).read_text(encoding="utf-8"))
    return labels, tensors.read(folder / FILE)[need]


def _no_cells(need: str) -> str:
    return f"no {need} were collected; a study collects them for the measures that it names under `measures`"


def _prompt(composition: str, weights: Mapping[str, Any]) -> Any:
    prompts = [name for name in weights if name.endswith(".prompt") and weights[name].ndim == 2]
    if len(prompts) != 1:
        raise BadInput(f"{composition} has {len(prompts)} soft prompts; measures of prompts need deltas with one")
    return weights[prompts[0]]


def _factors(composition: str, weights: Mapping[str, Any]) -> Any:
    try:
        return low_rank(weights)
    except BadInput:
        raise BadInput(f"{composition} has no place with just the tensors `up` and `down` of a low rank") from None


_FROM_WEIGHTS: Mapping[str, Callable[[str, Mapping[str, Any]], Any]] = {"prompts": _prompt, "low_rank": _factors}


def from_weights(need: str, composition: str, weights: Mapping[str, Any]) -> Any:
    """The soft prompt (`prompts`) or the low-rank factors (`low_rank`) in the tensors of a delta.

    Raises:
        BadInput: the composition has none, or several soft prompts.
    """
    return _FROM_WEIGHTS[need](composition, weights)

"""Collects a study's records once for every table, figure and sentence of the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.environments import differences
from deltacompose.analysis.interaction.cost_scores import costs
from deltacompose.analysis.labelled import xarray_module
from deltacompose.analysis.matrix import REFERENCES, TransferMatrix
from deltacompose.analysis.transfer.records import from_records
from deltacompose.errors import BadInput, unknown
from deltacompose.study.queries import Record, done, failed

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, eq=False)
class Findings:
    """The records of one study on one split.

    Attributes:
        matrices: by composition, shorter texts first. Those in which transfer was measured have the same sources,
            targets and seeds, so a cell that only one composition lacks is seen as missing there.
        trainings: finished cells of kind `train`; not those at the many d of a search for the intrinsic dimension.
        failures: cells of any kind that were tried and failed.
        unread: compositions that were trained and never evaluated on the split.
        names: of the backbones, by the digest that names them in keys.
        costs: what one delta of each composition takes, where a study measured it.
        environments: in what the libraries and processors differ with which the cells were computed.
    """

    split: str
    matrices: Mapping[str, TransferMatrix]
    trainings: Sequence[Record]
    failures: Sequence[Record]
    unread: Sequence[str]
    names: Mapping[str, str]
    environments: Sequence[str] = ()
    costs: Sequence[Record] = ()

    @property
    def backbones(self) -> list[str]:
        """The backbones by name, where it is known, with the beginning of the fingerprint of their weights."""
        prints = sorted({matrix.backbone for matrix in self.matrices.values()})
        return [
            f"{self.names[fingerprint]} ({fingerprint[:12]})" if fingerprint in self.names else fingerprint[:12]
            for fingerprint in prints
        ]

    @property
    def seeds(self) -> list[int]:
        """Every seed of a training or of an evaluated delta."""
        trained = {int(record["spec"]["seed"]) for record in self.trainings}
        return sorted(trained | {seed for matrix in self.matrices.values() for seed in matrix.seeds})

    def to_pandas(self) -> pd.DataFrame:
        """The tidy tables of all compositions, one below the other."""
        return pd.concat([matrix.to_pandas() for matrix in self.matrices.values()], ignore_index=True)

    def to_xarray(self) -> xarray.Dataset:
        """The datasets of all compositions along a dimension `composition`; cells that one lacks are NaN.

        Raises:
            BadInput: xarray is not installed.
        """
        datasets = [matrix.to_xarray().drop_attrs() for matrix in self.matrices.values()]
        names = pd.Index(list(self.matrices), name="composition")
        joined: xarray.Dataset = xarray_module().concat(
            datasets, dim=names, join="outer", coords="different", compat="no_conflicts"
        )
        return joined

    @property
    def transfer(self) -> dict[str, TransferMatrix]:
        """The matrices in which some delta was evaluated on a task other than its own."""
        return {text: matrix for text, matrix in self.matrices.items() if measures_transfer(matrix)}


def gather(
    records: Sequence[Record],
    categories: Mapping[str, str],
    compositions: Sequence[str] = (),
    split: str = "test",
    order: Sequence[str] = (),
) -> Findings:
    """Read records of cells, finished and failed.

    An evaluation that was never run because its training failed counts as failed.

    Args:
        records: cells as the store gives them.
        categories: category of each task; empty if there are none.
        compositions: those that are wanted; every one if none is named.
        split: whose evaluations are read.
        order: tasks in the order in which figures and tables show them, as that of the study, by default that of the
            categories; others follow in alphabetical order.

    Raises:
        BadInput: no records, an unknown composition, categories that miss a task, or evaluations that contradict each
            other.
    """
    if not records:
        raise BadInput("a report needs at least one record of a cell, found none; run the study first")
    records = _wanted(records, compositions)
    finished = done(records)
    failures = failed(records)
    evaluations = [record for record in records if record["kind"] == "evaluate" and record["spec"]["split"] == split]
    evaluations += _blocked(failures, evaluations, split)
    read = [text for text in _compositions(evaluations) if not compositions or text in compositions]
    grouped = _by_composition(evaluations)
    untouched = grouped.get(None, [])
    matrices = {text: from_records([*grouped[text], *untouched], text, categories, split, order=order) for text in read}
    searched = {parent for record in finished if record["kind"] == "search" for parent in record["parents"]}
    ordinary = [r for r in finished if r["kind"] == "train" and not r["spec"].get("carried")]
    trainings = [r for r in ordinary if _text(r) in read or r.get("key") not in searched]
    return Findings(
        split=split,
        matrices=_on_common_axes(matrices, order or tuple(categories)),
        trainings=sorted(trainings, key=_name),
        failures=sorted(failures, key=_name),
        unread=sorted(
            text
            for text in set(map(_text, trainings))
            if not any(_begins(text, composition_read) for composition_read in read)
        ),
        names={r["spec"]["backbone"]: r["result"]["backbone"] for r in finished if _names_its_backbone(r)},
        environments=differences(r["environment"] for r in finished if "environment" in r),
        costs=costs(finished),
    )


def _by_composition(evaluations: Sequence[Record]) -> dict[str | None, list[Record]]:
    """The evaluations of each composition, under None those of the untouched backbone."""
    grouped: dict[str | None, list[Record]] = {}
    for record in evaluations:
        grouped.setdefault(record["spec"]["composition"], []).append(record)
    return grouped


def _text(record: Record) -> str:
    return str(record["spec"]["composition"])


def _names_its_backbone(record: Record) -> bool:
    return record["kind"] == "evaluate" and "backbone" in record["result"]


def _name(record: Record) -> tuple[str, ...]:
    """Sort key of records, whose order in a store is arbitrary."""
    spec = record["spec"]
    return (
        str(record["kind"]),
        *(str(spec.get(name, "")) for name in ("composition", "task", "source", "target", "seed")),
    )


def _wanted(records: Sequence[Record], compositions: Sequence[str]) -> Sequence[Record]:
    """The records of these compositions, of their first stages, and of the untouched backbone."""
    existing = dict.fromkeys(str(record["spec"].get("composition")) for record in records)
    existing.pop("None", None)
    for text in compositions:
        if text not in existing:
            raise unknown("composition", text, existing)
    if not compositions:
        return records
    texts = [record["spec"].get("composition") for record in records]
    return [
        record
        for record, text in zip(records, texts, strict=True)
        if text is None or any(_begins(text, wanted) for wanted in compositions)
    ]


def measures_transfer(matrix: TransferMatrix) -> bool:
    """Whether any delta has a score on a task other than its own."""
    return bool((~np.isnan(matrix.values) & matrix.off_diagonal).any())


def _compositions(evaluations: Sequence[Record]) -> list[str]:
    texts = {str(r["spec"]["composition"]) for r in evaluations if r["spec"]["source"] not in REFERENCES}
    return sorted(texts, key=lambda text: (len(text), text))


def _begins(stages: str, composition: str) -> bool:
    """Whether a composition is another one, or its first stages."""
    return composition == stages or composition.startswith(f"{stages} >> ")


def _blocked(failed: Sequence[Record], evaluations: Sequence[Record], split: str) -> Iterator[Record]:
    """The evaluations that a failed training leaves without a delta, as failed cells."""
    targets = list(dict.fromkeys(record["spec"]["target"] for record in evaluations))
    backbone = next((record["spec"]["backbone"] for record in evaluations), "")
    known = _compositions(evaluations)
    for record in failed:
        if record["kind"] != "train":
            continue
        text, task = str(record["spec"]["composition"]), str(record["spec"]["task"])
        for composition in [name for name in known if _begins(text, name)] or [text]:
            for target in dict.fromkeys([*targets, task]):
                ends = {"composition": composition, "source": task, "target": target, "seed": record["spec"]["seed"]}
                yield {"kind": "evaluate", "state": "failed", "spec": {**ends, "split": split, "backbone": backbone}}


def _on_common_axes(matrices: Mapping[str, TransferMatrix], order: Sequence[str]) -> dict[str, TransferMatrix]:
    """Give the matrices in which transfer was measured the sources, targets and seeds of all of them."""
    measured = [matrix for matrix in matrices.values() if measures_transfer(matrix)]
    return {
        text: _padded(matrix, measured, order) if matrix in measured else matrix for text, matrix in matrices.items()
    }


def _padded(matrix: TransferMatrix, others: Sequence[TransferMatrix], order: Sequence[str]) -> TransferMatrix:
    """The matrix on the axes of all: cells that it lacks are missing, levels of a target are taken from the others."""
    sources, targets = (_union(others, axis, order) for axis in ("sources", "targets"))
    seeds = tuple(sorted({seed for other in others for seed in other.seeds}))
    at = np.ix_(*(_places(part, whole) for part, whole in _axes(matrix, seeds, sources, targets)))
    whole = np.full((len(seeds), len(sources), len(targets)), np.nan)
    values, trivial, failed = whole.copy(), np.zeros(whole.shape, dtype=bool), np.zeros(whole.shape, dtype=bool)
    values[at], trivial[at], failed[at] = matrix.values, matrix.trivial, matrix.failed
    random = whole[:, 0].copy()
    random[np.ix_(_places(matrix.seeds, seeds), _places(matrix.targets, targets))] = matrix.random
    known = [matrix, *others]
    return dataclasses.replace(
        matrix,
        sources=sources,
        targets=targets,
        seeds=seeds,
        values=values,
        trivial=trivial,
        failed=failed,
        random=random,
        chance=_levels(known, "chance", targets),
        untouched=_levels(known, "untouched", targets),
        metric=tuple(_metric(known, target) for target in targets),
        categories={name: category for other in others for name, category in other.categories.items()},
    )


def _union(matrices: Sequence[TransferMatrix], axis: str, order: Sequence[str]) -> tuple[str, ...]:
    names = {name for matrix in matrices for name in getattr(matrix, axis)}
    return (*(name for name in order if name in names), *sorted(names - set(order)))


def _axes(matrix: TransferMatrix, *wholes: Sequence[Any]) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
    return zip((matrix.seeds, matrix.sources, matrix.targets), wholes, strict=True)


def _places(part: Sequence[Any], whole: Sequence[Any]) -> list[int]:
    return [list(whole).index(name) for name in part]


def _levels(matrices: Sequence[TransferMatrix], name: str, targets: Sequence[str]) -> Floats:
    """(targets,): chance or the untouched backbone's score, from the first matrix that knows it."""
    known = [dict(zip(matrix.targets, getattr(matrix, name), strict=True)) for matrix in matrices]
    levels_of_targets = [
        [level[target] for level in known if not np.isnan(level.get(target, np.nan))] for target in targets
    ]
    return np.array([levels[0] if levels else np.nan for levels in levels_of_targets])


def _metric(matrices: Sequence[TransferMatrix], target: str) -> str:
    names = [matrix.metric[matrix.targets.index(target)] for matrix in matrices if target in matrix.targets]
    return next((name for name in names if name), "")

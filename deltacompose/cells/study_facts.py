"""Facts of a study's backbone, tasks and compositions for its plan, and the speed of passes on this machine."""

from __future__ import annotations

from functools import lru_cache

from deltacompose import registry
from deltacompose.analysis.similarity.measure import named
from deltacompose.cells.loaded import TaskSource, backbone_of, present_task, reader_of_content
from deltacompose.cells.shapes import delta_shape, lengths_of, shape_of
from deltacompose.cells.task_data import Cut
from deltacompose.cells.throughput import speed
from deltacompose.cells.worker_sources import Sources
from deltacompose.method.parameter_overlap import overlaps
from deltacompose.planning import search_cells as search
from deltacompose.planning.analysis_cells import SUBSPACE_METHOD
from deltacompose.planning.facts import Facts, TaskFacts
from deltacompose.planning.new_task_cells import ARROW
from deltacompose.scoring import Reader
from deltacompose.study.config import KEYS, Study


def facts(study: Study, version: int = KEYS) -> Facts:
    """Facts of a study's backbone, tasks and compositions for the plan, as they are now.

    Args:
        version: of the keys that the plan is for; an earlier one knows the cells of a store that was made with it.
    """
    sources = Sources.of(study)
    backbone = backbone_of(sources.backbone)
    texts = [registry.parse(text) for text in (*study.compositions, *search.greatest(study.dimension))]
    beginnings = [whole.until(k + 1) for whole in texts for k in range(len(whole.stages))]
    needs = {str(named(name, registry.measures()).needs) for name in study.measures}
    methods = {method.name for whole in texts for _, method in whole.parts()}
    methods |= {SUBSPACE_METHOD} & set(registry.methods()) if study.subspace is not None else set()
    methods |= {ARROW} & set(study.reuse.ways if study.reuse is not None else ())
    return Facts(
        backbone.content if version > 1 else backbone.fingerprint,
        shape_of(backbone),
        {name: _task_facts(study, name, sample(study, name)) for name in study.named_tasks},
        {str(part): delta_shape(backbone, part) for part in beginnings},
        tuple(sorted(needs)),
        {name: registry.implementation_of(name) for name in sorted(methods)},
        version,
    )


def speed_of(study: Study) -> dict[str, float]:
    """Operations per second of training and of evaluation here, from passes over the study's first task."""
    return dict(measured_speed(study.training.batch, sample(study, study.tasks[0])))


@lru_cache(maxsize=4)
def measured_speed(batch: int, reader: Reader) -> dict[str, float]:
    """Operations per second of passes over a reader's first rows; measured once for a reader."""
    return speed(reader, shape_of(reader.backbone), lengths_of(reader, batch), batch)


def sample(study: Study, task: str) -> Reader:
    """The examples by which it is learned how long those of a task are, whatever the study reads."""
    sources = Sources.of(study)
    source = TaskSource(task, sources.own_tasks, study.template, study.ranking)
    cut = Cut((8 * study.training.batch, None, None))
    fingerprint = present_task(source).fingerprint
    return reader_of_content(backbone_of(sources.backbone), source, fingerprint, cut, study.training.limit)


def notes(study: Study) -> list[str]:
    """Sentences about a study's backbone and expressions, to be read before they are trained."""
    backbone = backbone_of(Sources.of(study).backbone)
    derived = [f"backbone: table derived from the module names of {backbone.name}"] if backbone.derived else []
    of_expressions = ((text, note) for text in study.compositions for note in overlaps(backbone, registry.parse(text)))
    return derived + [f"{text}: {note}" for text, note in of_expressions]


def _task_facts(study: Study, name: str, reader: Reader) -> TaskFacts:
    task = present_task(TaskSource(name, Sources.of(study).own_tasks, study.template, study.ranking))
    rows = {split: len(task.examples(split)) for split in ("train", "val", "test")}
    rows = {split: min(count, getattr(study.rows, split) or count) for split, count in rows.items()}
    if study.shots is not None:
        few = study.shots * max(1, len(task.labels))
        rows |= {split: min(rows[split], few) for split in ("train", "val")}
    return TaskFacts(task.fingerprint, task.category, rows, lengths_of(reader, study.training.batch))

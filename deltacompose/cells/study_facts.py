"""Facts of a study's backbone, tasks and compositions for its plan, and the speed of passes on this machine."""

from __future__ import annotations

import torch

from deltacompose import registry
from deltacompose.analysis.similarity.measure import named
from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.quiet import has_values
from deltacompose.cells.calibration import calibrated, speeds
from deltacompose.cells.cluster import check_clusters
from deltacompose.cells.loaded import TaskSource, backbone_of, present_task, reader_of_content, skeleton_of
from deltacompose.cells.shapes import NeedsValues, delta_shape, lengths_of, shape_of
from deltacompose.cells.step_memory import step_bytes
from deltacompose.cells.task_data import Cut
from deltacompose.cells.worker_sources import Sources
from deltacompose.composition import Composition
from deltacompose.method.parameter_overlap import overlaps
from deltacompose.planning import search_cells as search
from deltacompose.planning.analysis_cells import SUBSPACE_METHOD
from deltacompose.planning.cost import looks
from deltacompose.planning.facts import Facts, TaskFacts
from deltacompose.planning.fitting import Greediest, greediest
from deltacompose.planning.flops import DeltaShape
from deltacompose.planning.new_task_cells import ARROW
from deltacompose.scoring import Reader
from deltacompose.study.config import KEYS, SHARDED, Study


def facts(study: Study, version: int = KEYS) -> Facts:
    """Facts of a study's backbone, tasks and compositions for the plan, as they are now.

    Args:
        version: of the keys that the plan is for; an earlier one knows the cells of a store that was made with it.
    """
    check_clusters(study)
    sources = Sources.of(study)
    backbone = skeleton_of(sources.backbone) if version > 1 else backbone_of(sources.backbone)
    absent = "" if backbone.files is not None else f"the weights of {backbone.name} are not on this machine"
    texts = [registry.parse(text) for text in (*study.compositions, *search.greatest(study.dimension))]
    beginnings = [whole.until(k + 1) for whole in texts for k in range(len(whole.stages))]
    needs = {str(named(name, registry.measures()).needs) for name in study.measures}
    methods = {method.name for whole in texts for _, method in whole.parts()}
    methods |= {SUBSPACE_METHOD} & set(registry.methods()) if study.subspace is not None else set()
    methods |= {ARROW} & set(study.reuse.ways if study.reuse is not None else ())
    return Facts(
        absent or (backbone.content if version > 1 else backbone.fingerprint),
        shape_of(backbone),
        {
            name: _task_facts(study, name, sample(study, name, backbone if version > 1 else None))
            for name in study.named_tasks
        },
        {str(part): _shape_of_delta(sources, backbone, part) for part in beginnings},
        tuple(sorted(needs)),
        {name: registry.implementation_of(name) for name in sorted(methods)},
        version,
        absent,
    )


def speed_of(study: Study, known: Facts, bank: int = 1) -> dict[str, float]:
    """Operations per second of training and of evaluation that a study will see here, by this machine's calibration.

    Args:
        bank: the number of deltas that share a pass in training.
    """
    lengths = {name: task.lengths for name, task in known.tasks.items()}
    calibration = calibrated(study.backbone.dtype, device_of(study))
    return speeds(calibration, known.shape, lengths, study.training.batch, bank, looks(study, known))


def device_of(study: Study) -> str:
    """The kind of device on which the workers of a study compute here."""
    return "cpu" if study.backbone.device == "cpu" or not torch.cuda.is_available() else "cuda"


def greediest_of(study: Study, known: Facts, bank: int) -> Greediest:
    """The training of a study that takes the most memory, from its step on shapes where that is possible."""
    largest = greediest(study, known, registry.parse, bank, device_of(study) == "cuda")
    expression = registry.parse(largest.composition)
    recipe, reader = study.recipe(len(expression.stages) - 1), sample(study, largest.task)
    if recipe.checkpointing or study.backbone.device == SHARDED or has_values(reader.backbone.model):
        return largest
    batch = -(-min(recipe.batch, known.tasks[largest.task].rows["train"]) // study.processes)
    step = step_bytes(reader, expression, batch)
    if step is None:
        return largest
    return largest.with_step(known.deltas[largest.composition], step.peak, len(study.seeds) * len(study.grid))


def _shape_of_delta(sources: Sources, backbone: Backbone, part: Composition) -> DeltaShape:
    """The shape of a delta; the weights are loaded only where a method reads their values."""
    try:
        return delta_shape(backbone, part)
    except NeedsValues:
        if backbone.files is None:
            raise
        return delta_shape(backbone_of(sources.backbone), part)


def sample(study: Study, task: str, skeleton: Backbone | None = None) -> Reader:
    """The examples by which it is learned how long those of a task are, whatever the study reads.

    Args:
        skeleton: of the study's backbone, if it was made already.
    """
    sources = Sources.of(study)
    source = TaskSource(task, sources.own_tasks, study.template, study.ranking)
    cut = Cut((8 * study.training.batch, None, None))
    fingerprint = present_task(source).fingerprint
    backbone = skeleton or skeleton_of(sources.backbone)
    return reader_of_content(backbone, source, fingerprint, cut, study.training.limit)


def notes(study: Study) -> list[str]:
    """Sentences about a study's backbone and expressions, to be read before they are trained."""
    backbone = skeleton_of(Sources.of(study).backbone)
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

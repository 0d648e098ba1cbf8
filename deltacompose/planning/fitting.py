"""Whether a study's trainings fit into the memory of a machine, and the setting that would make them fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from deltacompose.composition import Composition
from deltacompose.planning import flops
from deltacompose.planning.facts import Facts
from deltacompose.planning.flops import DeltaShape, Memory
from deltacompose.study.config import SHARDED, Study
from deltacompose.study.recipe import PASS_TOKENS

PROCESS = 0.6e9
"""Bytes that Python and torch take in a process of their own, where they were not measured."""

Parse = Callable[[str], Composition]


@dataclass(frozen=True)
class Greediest:
    """The training of a study that takes the most memory.

    Attributes:
        bytes: of one process that trains a bank, without Python and torch.
        weights: those of them that hold the frozen weights.
        bank: how many deltas are trained together.
        together: how many of them pass through the backbone at once.
        process: bytes that Python and torch take in addition in the memory that is filled; none on a GPU.
    """

    bytes: float
    weights: float
    composition: str
    task: str
    bank: int
    together: int = 1
    process: float = PROCESS

    @property
    def peak(self) -> float:
        """The most bytes that the process is expected to hold."""
        return self.bytes + self.process

    def with_step(self, delta: DeltaShape, step: float, alike: int = 1) -> Greediest:
        """The same training, if one delta's step takes so many bytes; `alike` is as in `flops.bank_bytes`."""
        return replace(self, bytes=self.weights + flops.bank_bytes(delta, step, self.bank, self.together, alike))


def greediest(study: Study, facts: Facts, parse: Parse, bank: int = 1, gpu: bool = False) -> Greediest:
    """The greediest training of a study, by the formula of `flops.memory`.

    Args:
        bank: how many deltas a worker trains together.
        gpu: whether a worker computes on a GPU, where more of them pass at once.
    """
    budget = PASS_TOKENS["cuda" if gpu else "cpu"]
    shards = study.processes if study.backbone.device == SHARDED else 1
    weights = flops.WEIGHT_BYTES[study.backbone.dtype]
    largest = Greediest(0.0, 0.0, "", "", bank)
    for part in (parse(text).until(k + 1) for text in study.compositions for k in range(len(parse(text).stages))):
        recipe, delta = study.recipe(len(part.stages) - 1), facts.deltas.get(str(part), DeltaShape())
        how = Memory(weights, max(weights, 2.0), bank, recipe.checkpointing, shards, budget)
        for name, task in facts.tasks.items():
            batch = -(-min(recipe.batch, task.rows["train"]) // study.processes)
            needed = flops.memory(facts.shape, task.lengths, delta, batch, how)
            if needed > largest.bytes:
                together = flops.passing(task.lengths, batch, how)
                largest = Greediest(needed, flops.frozen_bytes(facts.shape, how), str(part), name, bank, together)
    return largest


@dataclass(frozen=True)
class Setting:
    """A change of a study or of a run that takes less memory: how it is written, and what it changes."""

    text: str
    study: Study
    bank: int
    workers: int


def settings(study: Study, bank: int, workers: int, gpu: bool) -> Iterator[Setting]:
    """Changes that take less memory, the most harmless first: those of the first kind change no result."""
    if workers > 1:
        yield Setting("--workers 1", study, bank, 1)
    if bank > 1:
        yield Setting("--workers 1 --bank 1" if workers > 1 else "--bank 1", study, 1, 1)
    lean = replace(study, training=replace(study.training, checkpointing=True))
    alone = "--bank 1 and `training: {checkpointing: true}`"
    if not study.training.checkpointing:
        yield Setting(alone, lean, 1, 1)
    half = replace(lean, backbone=replace(lean.backbone, dtype="bfloat16"))
    if study.backbone.dtype in ("float32", "float16"):
        yield Setting(f"{alone} and `backbone: {{dtype: bfloat16}}`", half, 1, 1)
    if gpu and study.backbone.dtype != "nf4" and study.backbone.device != SHARDED:
        few = replace(lean, backbone=replace(lean.backbone, dtype="nf4"))
        yield Setting(f"{alone} and `backbone: {{dtype: nf4}}`", few, 1, 1)


def advice(
    study: Study, facts: Facts, parse: Parse, largest: Greediest, room: float, workers: int, gpu: bool = False
) -> str:
    """A sentence where the greediest training does not fit, with the first setting that would make it fit; else "".

    Args:
        largest: the greediest training as it is planned.
        room: bytes that are free on the machine, for all workers; on GPUs, on one of them.
        gpu: whether each worker has a GPU of its own.
    """
    own = largest.process
    if largest.peak <= room / (1 if gpu else workers):
        return ""
    scale = largest.bytes / max(1.0, greediest(study, facts, parse, largest.bank, gpu).bytes)
    share = f"{_size(room / (1 if gpu else workers))} {'on the GPU' if gpu else 'of memory'}"
    start = f"training {largest.composition} on {largest.task} needs about {_size(largest.peak)}"
    start += f" in each of {workers} workers, and each has {share}" if workers > 1 else f", and there are {share}"
    least = ""
    for setting in settings(study, largest.bank, workers, gpu):
        needed = scale * greediest(setting.study, facts, parse, setting.bank, gpu).bytes + own
        if needed <= room / (1 if gpu else setting.workers):
            return f"{start}; {setting.text} would need {_size(needed)}"
        least = f"; even {setting.text} would need {_size(needed)}: use a machine with more memory, or several GPUs"
    return f"{start}{least or '; use a machine with more memory, or several GPUs'}"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"

"""One delta in training: the job it does, and the learner whose state moves from step to step."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deltacompose.attach.attachment import attach
from deltacompose.backbone.backbone import Backbone, evaluating
from deltacompose.composition import Composition
from deltacompose.delta.delta import Delta
from deltacompose.distributed import ALONE, ProcessGroup
from deltacompose.errors import BadInput, Diverged
from deltacompose.method.contract import Method, Tensors, Updates
from deltacompose.method.weights import (
    finalized,
    generator,
    init_constants,
    init_weights,
    named,
    part_of,
    parts,
    prepared,
)
from deltacompose.scoring import Batch, Reader
from deltacompose.scoring.as_trained import described
from deltacompose.study.recipe import Recipe
from deltacompose.task import mixed_rows
from deltacompose.training.flat import Matrices, Row, clip, copy, step
from deltacompose.training.memory import peak


@dataclass(frozen=True)
class Job:
    """One delta to train: the last stage of `expression` on a task.

    Attributes:
        earlier: the delta of the earlier stages, which stays attached.
        start: weights for the last stage to begin with; None draws new ones from the seed.
        processes: the process group that trains it.
    """

    expression: Composition
    reader: Reader
    seed: int
    recipe: Recipe
    earlier: Delta | None = None
    start: Mapping[str, Tensor] | None = None
    processes: ProcessGroup = ALONE

    @property
    def stage(self) -> int:
        """The number of the stage that is trained."""
        return len(self.expression.stages) - 1

    def gradients(self, method: Method, weights: Tensors, examples: int, batch: int = 1) -> Iterator[dict[str, Tensor]]:
        """For random training examples, `batch` at a time, the gradient of their mean loss in a method's weights.

        The method is attached alone, over the stages that are trained already. For methods whose `constants` are found
        on training data.
        """
        backbone, rows = self.reader.backbone, self.reader.rows("train")
        leaves = {n: x.detach().to(backbone.model.device, torch.float32).requires_grad_() for n, x in weights.items()}
        drawn = torch.randperm(len(rows), generator=generator(self.seed, "examples"))[:examples]
        with evaluating(backbone.model), self.earlier.attached(backbone) if self.earlier else nullcontext():
            attachment = attach(backbone, method)
            try:
                for chunk in drawn.split(batch):
                    attachment.put({f"0.0.{n}": x for n, x in leaves.items()})
                    lengths = [self.reader.lengths(rows[i]) for i in chunk.tolist()]
                    longest = max(a for a, _ in lengths), max(b for _, b in lengths)
                    loss = self.reader.loss(self.reader.batch("train", chunk.tolist(), longest), 1).sum()
                    values = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
                    yield dict(zip(leaves, values, strict=True))
            finally:
                attachment.detach()


class Best(NamedTuple):
    """The best evaluation: a development score, the weights that reached it, and the prediction for each example."""

    score: float
    weights: dict[str, Tensor]
    predictions: tuple[str, ...] = ()


class Learner:
    """One delta in training: its tensors, optimiser, batches and history, which change from step to step."""

    def __init__(self, backbone: Backbone, job: Job) -> None:
        self.backbone, self.job, self.recipe = backbone, job, job.recipe
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.history: list[dict[str, float | None]] = []
        self.best: Best | None = None
        self.failure: Exception | None = None
        self._losses: list[float] = []
        stage, device = f"{job.stage}.", backbone.model.device
        drawn = init_weights(backbone, job.expression, job.seed) if job.start is None else job.start
        earlier = dict(job.earlier.weights) if job.earlier else {}
        known = init_constants(backbone, job.expression, job, job.stage) | (
            dict(job.earlier.constants) if job.earlier else {}
        )
        self.constants = {n: x.to(device) for n, x in known.items()}
        trained = {n: x for n, x in drawn.items() if n.startswith(stage)} | (earlier if self.recipe.thaw else {})
        ordered = {n: trained[n] for prefix, _ in parts(job.expression) for n in trained if n.startswith(prefix)}
        self.frozen = {} if self.recipe.thaw else {n: x.to(device) for n, x in earlier.items()}
        if not ordered:
            raise BadInput(f"{job.expression} has nothing to train in its last stage")
        self.place(Matrices.of([ordered], device), 0)
        self.batches = list(_batches(job.reader, self.recipe, job.seed))
        if self.batches and len(self.batches[0][0]) < job.processes.size:
            raise BadInput(
                f"{job.processes.size} processes are to share batches of {len(self.batches[0][0])} rows; give a larger "
                "batch or fewer processes"
            )

    def place(self, matrices: Matrices, index: int) -> None:
        """Keeps what is trained in a row of these matrices from now on."""
        layout = matrices.layout
        self.weights = {n: x.detach().requires_grad_() for n, x in layout.views(matrices.weights[index]).items()}
        self.gradients = layout.views(matrices.gradients[index])
        peaks = {
            prefix: self.recipe.learning_rates.get(part.name, part.learning_rate)
            for prefix, part in parts(self.job.expression)
            if any(n.startswith(prefix) for n in self.weights)
        }
        self.row = Row.of(matrices, index, peaks, self.recipe.weight_decay, self.step)

    @property
    def running(self) -> bool:
        """Whether steps remain and none has failed."""
        return not self.failure and self.step < self.recipe.steps

    @property
    def due(self) -> bool:
        """Whether it is to be evaluated before it takes another step."""
        if self.failure or (self.history and self.history[-1]["step"] == self.step):
            return False
        return self.step % self.recipe.evaluate_every == 0 or self.step == self.recipe.steps

    @property
    def size(self) -> int:
        """Trainable parameters."""
        return sum(x.numel() for x in self.weights.values())

    @property
    def rest(self) -> dict[str, Tensor]:
        """Frozen tensors: earlier stages and constants."""
        return {**self.frozen, **self.constants}

    def tensors(self, weights: Tensors | None = None) -> dict[str, Tensor]:
        """The tensors that the edits read in the next step, from its own weights or from views of them."""
        own = {**self.frozen, **(self.weights if weights is None else weights), **self.constants}
        return prepared(self.job.expression, own, generator(self.job.seed, "prepare", self.step), self.job.stage)

    def kept(self) -> dict[str, Tensor]:
        """The weights as they would be kept now, without constants."""
        own = {**self.frozen, **{n: x.detach() for n, x in self.weights.items()}, **self.constants}
        final = finalized(self.job.expression, own, self.job.stage)
        return {n: x.clone() for n, x in final.items() if n not in self.constants}

    @property
    def lengths(self) -> tuple[int, int]:
        """The longest input and answer of the next step's batch, in tokens."""
        return self.batches[self.step][1]

    @property
    def rows(self) -> int:
        """How many rows the next step's batch has."""
        return len(self.batches[self.step][0])

    @property
    def kind(self) -> Hashable:
        """Equals that of learners whose next batches can be joined when they are padded to one length."""
        indices, _ = self.batches[self.step]
        return self.job.reader.kind("train", self.job.processes.share(indices))

    def batch(self, lengths: tuple[int, int] | None = None) -> Batch:
        """This process's share of the next step's rows, padded to these lengths, or as the whole batch is."""
        indices, own = self.batches[self.step]
        return self.job.reader.batch("train", self.job.processes.share(indices), lengths or own)

    def count_tokens(self) -> None:
        """Adds the tokens of the next step's batch, without padding."""
        reader, (indices, _) = self.job.reader, self.batches[self.step]
        rows = reader.rows("train")
        self.tokens += reader.tokens([rows[index] for index in self.job.processes.share(indices)])

    @property
    def portion(self) -> float:
        """Weight of this process's share in the mean loss of the next step's whole batch."""
        job, (indices, _) = self.job, self.batches[self.step]
        units = [job.reader.units(job.reader.rows("train")[i]) for i in indices]
        return sum(job.processes.share(units)) / sum(units)

    def learn(self, loss: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """One step of the optimiser, or the end of this delta if its numbers are not finite."""
        copy(list(self.gradients.values()), gradients)
        advance([self], loss[None])

    def stepped(self, loss: float) -> None:
        """Notes that the weights have taken a step at this loss."""
        self._losses.append(loss)
        self._update()
        self.step += 1

    def diverged(self, what: str) -> Diverged:
        """The end of this delta, in words."""
        job = f"{self.job.expression} on {self.job.reader.task.name}, seed {self.job.seed}"
        return Diverged(f"{job}: {what} at step {self.step}; try a lower learning rate")

    def evaluated(self, value: float, predictions: Sequence[str] = ()) -> None:
        """Notes a score on development data, and the weights and predictions if they are the best so far.

        Weights that the last step before has made infinite are found here, as no loss will tell.
        """
        if wild := [n for n, x in self.weights.items() if not bool(torch.isfinite(x).all())]:
            self.failure = self.diverged(f"{wild[0]} is not finite")
            return
        loss = sum(self._losses) / len(self._losses) if self._losses else None
        self._losses.clear()
        self.history.append({"step": self.step, "loss": loss, "score": value, "seconds": round(self.seconds, 3)})
        if self.best is None or value > self.best.score or self.recipe.keep == "last":
            self.best = Best(value, {**self.kept(), **self._scheduled()}, tuple(predictions))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that is needed to go on from here in another process; of one that has diverged, that it has."""
        if self.failure:
            return {}, {"failure": str(self.failure)}
        tensors = {f"weights/{n}": x.detach() for n, x in self.weights.items()}
        tensors |= {f"constants/{n}": x for n, x in self.constants.items()}
        for kind, moments in self._moments().items():
            tensors |= {f"{kind}/{n}": x for n, x in moments.items()}
        best = self.best or Best(math.nan, {})
        tensors |= {f"best/{n}": x for n, x in best.weights.items()}
        info = {
            "step": self.step,
            "tokens": self._all_tokens(),
            "seconds": self.seconds,
            "history": self.history,
            "best": best.score,
            "predictions": best.predictions,
        }
        return tensors, info | {"losses": self._losses}

    def restore(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Goes on from a state: the weights that follow are those of an uninterrupted run."""
        if "failure" in info:
            self.failure = Diverged(info["failure"])
            return
        device = self.backbone.model.device
        own = {
            kind: {n.partition("/")[2]: x.to(device) for n, x in tensors.items() if n.startswith(f"{kind}/")}
            for kind in _STATE
        }
        with torch.no_grad():
            for kind, targets in {"weights": self.weights, **self._moments()}.items():
                copy(list(targets.values()), [own[kind].get(n) for n in targets])
        self.constants = own["constants"]
        self.best = Best(info["best"], own["best"], tuple(info.get("predictions", ()))) if own["best"] else None
        self.step, self.seconds = info["step"], info["seconds"]
        for span in self.row.spans:
            span.count.fill_(self.step)
        self.tokens = 0 if self.job.processes.rank else info["tokens"]  # those of all processes, which are summed again
        self.history, self._losses = list(info["history"]), list(info["losses"])

    def delta(self) -> Delta:
        """The trained delta, on the CPU, with the record of its training."""
        job, best = self.job, self.best or Best(math.nan, self.kept())
        record = {
            "task": job.reader.task.name,
            "seed": job.seed,
            "stage": job.stage,
            "recipe": asdict(job.recipe) | {"learning_rates": dict(job.recipe.learning_rates)},
            "dev": best.score,
            "dev_predictions": best.predictions,
            "metric": job.reader.task.metric,
            "reading": described(job.reader),
            "history": self.history,
            "without_gradient": self._without_gradient(),
            "parameters": self.size,
            "ratio": self.size / sum(x.numel() for x in self.backbone.model.parameters()),
            "seconds": round(self.seconds, 3),
            "tokens": self._all_tokens(),
            "peak_memory": peak(self.backbone.model.device),
        }
        backbone = {
            "name": self.backbone.name,
            "family": self.backbone.family,
            "fingerprint": self.backbone.fingerprint,
            "tokenizer": self.backbone.reading,
        }
        weights = {n: x.detach().cpu() for n, x in best.weights.items() if n not in self.constants}
        constants = {n: best.weights.get(n, x).cpu() for n, x in self.constants.items()}
        return Delta(job.expression, weights, constants, backbone, {}, record)

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        """Adam's moments by their names in torch and by tensor."""
        matrices, k = self.row.matrices, self.row.index
        views = matrices.layout.views
        return {"exp_avg": views(matrices.first[k]), "exp_avg_sq": views(matrices.second[k])}

    def _without_gradient(self) -> list[str]:
        """The tensors that never had a gradient: both of their moments are zero still."""
        first, second = self._moments().values()
        return sorted(n for n in self.weights if not (first[n].any() or second[n].any()))

    def _all_tokens(self) -> int:
        return sum(self.job.processes.gathered(self.tokens, self.backbone.model.device))

    def _scheduled(self) -> dict[str, Tensor]:
        """The constants that a schedule sets: a score is of the weights with those of the same step."""
        updated = tuple(prefix for prefix, part in self._updating())
        return {n: x.clone() for n, x in self.constants.items() if n.startswith(updated)}

    def _updating(self) -> list[tuple[str, Updates]]:
        """The parts of this stage that have a schedule, with their prefixes."""
        stage = f"{self.job.stage}."
        return [
            (p, part) for p, part in parts(self.job.expression) if isinstance(part, Updates) and p.startswith(stage)
        ]

    def _update(self) -> None:
        own = {**self.frozen, **self.weights, **self.constants}
        for prefix, part in self._updating():
            new = part.update(part_of(own, prefix), part_of(self.gradients, prefix), self.step, self.recipe.steps)
            self.constants |= {prefix + n: x for n, x in named(part, "update", new).items()}


def advance(learners: Sequence[Learner], losses: Tensor) -> None:
    """One step of the optimiser for each learner, whose gradients are in their rows; one that is not finite ends.

    Args:
        losses: `(learners,)`.
    """
    norms, values = clip([learner.row for learner in learners], [learner.recipe.clip for learner in learners], losses)
    going = []
    for learner, norm, loss in zip(learners, norms, values, strict=True):
        if math.isfinite(norm) and math.isfinite(loss):
            going.append((learner, loss))
        else:
            learner.failure = learner.diverged(f"loss {loss:g} and gradient norm {norm:g}")
    step([learner.row for learner, _ in going], [learner.recipe.factor(learner.step) for learner, _ in going])
    for learner, loss in going:
        learner.stepped(loss)


POOL = 8
"""How many batches are sorted by length together."""

_STATE = ("weights", "constants", "exp_avg", "exp_avg_sq", "best")


def _batches(reader: Reader, recipe: Recipe, seed: int) -> Iterator[tuple[list[int], tuple[int, int]]]:
    """For every step the rows, and the longest input and answer among them, from task, recipe and seed alone.

    Rows of like length go together: each epoch is shuffled, cut into pools of `POOL` batches, and each pool is sorted
    by length. The batches of a mixture are of one of its tasks each, whose candidates they share.
    """
    lengths = [reader.lengths(row) for row in reader.rows("train")]
    source = generator(seed, "batches")
    steps = 0
    while True:
        order = torch.randperm(len(lengths), generator=source).tolist()
        epoch = []
        for group in _parts_of(reader, order):
            size = min(recipe.batch, len(group))
            for start in range(0, len(group), POOL * size):
                pool = sorted(group[start : start + POOL * size], key=lambda i: (lengths[i], i))
                epoch += [pool[k : k + size] for k in range(0, len(pool) - size + 1, size)]
        for which in torch.randperm(len(epoch), generator=source).tolist():
            if steps == recipe.steps:
                return
            rows = epoch[which]
            yield rows, (max(lengths[i][0] for i in rows), max(lengths[i][1] for i in rows))
            steps += 1


def _parts_of(reader: Reader, order: list[int]) -> list[list[int]]:
    """An order of training rows, apart for each task of a mixture."""
    if len(reader.task.parts) < 2:
        return [order]
    names = [mixed_rows.part_of(example) for example in reader.task.examples("train")]
    groups: dict[str, list[int]] = {part.name: [] for part in reader.task.parts}
    for index in order:
        groups[names[index]].append(index)
    return [group for group in groups.values() if group]

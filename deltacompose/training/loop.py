"""Training one stage of a composition, for a bank of deltas at once.

Each delta has its own batches, optimiser, learning rates and record; all that a bank shares is the pass through the
backbone. So what a delta becomes does not depend on its neighbours but for rounding, where a device multiplies larger
matrices in another order, and one that diverges fails alone. A bank that is interrupted goes on as the same bank, from
one step: its passes are what they would have been, and its deltas equal to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from deltacompose.attach.attachment import Attachment, attach
from deltacompose.attach.bound import Stacked
from deltacompose.backbone.backbone import Backbone, evaluating
from deltacompose.delta.delta import Delta
from deltacompose.errors import Diverged
from deltacompose.method.contract import Penalizes, Prepares, Tensors
from deltacompose.method.weights import generator, parts, penalty
from deltacompose.scoring import Batch, Reader
from deltacompose.task.task import score
from deltacompose.training.evaluation import is_banked, predict_many, prefix_of, tokens_at_once
from deltacompose.training.flat import Matrices, copy
from deltacompose.training.learner import Job, Learner, advance
from deltacompose.training.memory import count_anew

State = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""All that a delta needs to go on in another process: tensors, and what JSON can hold."""


class Checkpoints(Protocol):
    """Where a bank's training leaves off and goes on again."""

    def save(self, states: Sequence[State]) -> None:
        """Keeps a state of each job, all taken at one moment, in the place of those before."""

    def load(self) -> Mapping[int, State]:
        """States that were saved together, by the number of their job."""
        ...


def train(
    backbone: Backbone, jobs: Sequence[Job], checkpoints: Checkpoints | None = None, budget: int | None = None
) -> list[Delta | Exception]:
    """Trains a bank: jobs of one expression, each on its own task, seed and recipe.

    Args:
        checkpoints: where training leaves off after each evaluation and goes on when started again.
        budget: how many tokens of input one pass through the backbone may hold; None chooses by device. A training that
            goes on keeps the one that it had.

    Returns:
        For each job the delta, or the error that ended it alone.
    """
    count_anew(backbone.model.device)
    learners = [Learner(backbone, job) for job in jobs]
    budget = budget or tokens_at_once(backbone)
    for index, (tensors, info) in (checkpoints.load() if checkpoints else {}).items():
        learners[index].restore(tensors, info)
        budget = info.get("budget", budget)  # passes of another size would round otherwise than those before
    _share_constants(learners)
    join(learners)
    attachment = attach(backbone, jobs[0].expression)
    try:
        # Recomputing runs every layer again in the backward pass, where a stand-in would not be.
        prefix: AbstractContextManager[object] = nullcontext()
        prefix = prefix if jobs[0].recipe.checkpointing else prefix_of(attachment, jobs[0].processes)
        with frozen(backbone.model), evaluating(backbone.model), prefix:
            while running := [learner for learner in learners if learner.running]:
                _evaluate_due(attachment, learners, budget, checkpoints)
                with recomputing(backbone.model) if jobs[0].recipe.checkpointing else nullcontext():
                    for group in _groups(attachment, running, budget):
                        learn(attachment, group)
            # The last step's, after which no learner is running.
            _evaluate_due(attachment, learners, budget, checkpoints)
    finally:
        attachment.detach()
    return [learner.failure or learner.delta() for learner in learners]


def _evaluate_due(
    attachment: Attachment, learners: Sequence[Learner], budget: int, checkpoints: Checkpoints | None
) -> None:
    """Evaluates the learners that are due, those of one task in shared passes, and keeps their states."""
    due: dict[Reader, list[Learner]] = {}
    for learner in (learner for learner in learners if learner.due):
        due.setdefault(learner.job.reader, []).append(learner)
    for reader, together in due.items():
        first, tensors = together[0].job, [{**learner.kept(), **learner.constants} for learner in together]
        predictions = predict_many(attachment, first.expression, tensors, reader, "val", first.processes)
        for learner, own in zip(together, predictions, strict=True):
            if isinstance(own, Diverged):
                learner.failure = learner.diverged(str(own))
            else:
                learner.evaluated(score(reader.task, reader.task.examples("val"), own).value, own)
    if checkpoints and due:
        states = [learner.state() for learner in learners]
        checkpoints.save([(tensors, {**info, "budget": budget}) for tensors, info in states])


def learn(attachment: Attachment, group: Sequence[tuple[Learner, Batch]]) -> None:
    """One step for some learners in one pass; their losses are summed, so each gets the gradient of its own."""
    start, learners = time.perf_counter(), [learner for learner, _ in group]
    first, processes = learners[0].job, learners[0].job.processes
    join(learners)
    rank = [processes.rank] if processes.size > 1 else []
    seeds = [generator(learner.job.seed, "step", learner.step, *rank).initial_seed() for learner in learners]
    leaves, tensors = _tensors(learners)
    attachment.put(tensors, seeds)
    losses = first.reader.loss(_joined([batch for _, batch in group]), len(group))
    if any(isinstance(part, Penalizes) for _, part in parts(first.expression)):
        own = _unstacked(tensors)
        terms = [torch.as_tensor(penalty(first.expression, t, first.stage)) for t in own]
        losses = losses + torch.stack(terms).to(losses.device) / processes.size
    if processes.size > 1:  # ranks may hold unequal numbers of rows, so a plain mean over ranks would be biased
        losses = losses * losses.new_tensor([learner.portion for learner in learners])
    # No two deltas share a leaf, so the gradient of the sum holds the gradient of each. Tensors that this batch
    # does not reach (a prompt of the decoder in a pass of the encoder alone) have none.
    gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
    *summed, whole = processes.summed([*gradients, losses.detach()])
    _take(learners, summed)
    for learner in learners:
        learner.count_tokens()
    advance(learners, losses.detach() if whole is None else whole)
    seconds = (time.perf_counter() - start) / len(group)
    for learner in learners:
        learner.seconds += seconds


def join(learners: Sequence[Learner]) -> None:
    """Puts the weights of learners that pass together into rows of one bank's matrices, where they are not yet."""
    if any(learner.row.matrices is not learners[0].row.matrices for learner in learners):
        apart = {id(learner.row.matrices): learner.row.matrices for learner in learners}
        alone = [matrices for matrices in apart.values() if len(matrices.weights) == 1]
        if len(alone) < len(learners):
            raise ValueError("learners of different banks cannot pass together")
        matrices = Matrices.joined(alone)  # a copy, once per training: afterwards rows are views of these matrices
        for index, learner in enumerate(learners):
            learner.place(matrices, index)


def _tensors(learners: Sequence[Learner]) -> tuple[dict[str, Tensor], Tensors | Stacked]:
    """The leaves that are trained, and what the edits see: of one delta its tensors, of several their stacks."""
    if len(learners) == 1:
        return learners[0].weights, learners[0].tensors()
    matrices, rows = learners[0].row.matrices, [learner.row.index for learner in learners]
    leaves = matrices.leaves(None if rows == list(range(len(matrices.weights))) else rows)
    job = learners[0].job
    if any(isinstance(part, Prepares) and prefix.startswith(f"{job.stage}.") for prefix, part in parts(job.expression)):
        each = [learner.tensors({n: x[k] for n, x in leaves.items()}) for k, learner in enumerate(learners)]
        return leaves, Stacked.of(each)
    rest = {n: matrices.stack(n, [learner.rest[n] for learner in learners]) for n in learners[0].rest}
    return leaves, Stacked(len(learners), {**rest, **leaves})


def _unstacked(tensors: Tensors | Stacked) -> list[Tensors]:
    if not isinstance(tensors, Stacked):
        return [tensors]
    return [{n: x[k] for n, x in tensors.tensors.items()} for k in range(tensors.size)]


def _take(learners: Sequence[Learner], gradients: Sequence[Tensor | None]) -> None:
    if len(learners) == 1:
        copy(list(learners[0].gradients.values()), gradients)
        return
    matrices, rows = learners[0].row.matrices, [learner.row.index for learner in learners]
    matrices.take_gradients(gradients, None if rows == list(range(len(matrices.weights))) else rows)


def _joined(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _groups(attachment: Attachment, learners: Sequence[Learner], budget: int) -> Iterator[list[tuple[Learner, Batch]]]:
    """Learners at one step whose next batches pass together, padded to one length, as the budget of tokens allows.

    Those that are behind catch up apart, so that the others' passes are what they would be without them. With dropout
    only batches of one length pass together: a mask is drawn for the padded batch, and must not depend on the bank.
    """
    banked = is_banked(attachment, learners[0].job.expression)
    alike: dict[Any, list[Learner]] = {}
    for learner in learners:
        lengths = learner.lengths if attachment.drops else None
        alike.setdefault((learner.step, learner.kind, lengths), []).append(learner)
    for same in alike.values():
        # Sorted, so that texts of like length are padded together.
        for group in _within(sorted(same, key=lambda learner: learner.lengths), budget if banked else 0):
            lengths = _longest([learner.lengths for learner in group])
            yield [(learner, learner.batch(lengths)) for learner in group]


def _within(learners: Sequence[Learner], budget: int) -> list[list[Learner]]:
    """Neighbours in groups whose padded batches hold at most so many tokens; a group has one learner at least."""
    groups: list[list[Learner]] = []
    for learner in learners:
        tokens = 0
        if groups:
            together = [*groups[-1], learner]
            tokens = sum(other.rows for other in together) * sum(_longest([other.lengths for other in together]))
        if not groups or tokens > budget:
            groups.append([])
        groups[-1].append(learner)
    return groups


def _longest(lengths: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(inputs for inputs, _ in lengths), max(answers for _, answers in lengths)


def _share_constants(learners: Sequence[Learner]) -> None:
    """Constants that are equal become one tensor, so that a bank holds them once: a projection, not K copies of it."""
    first = learners[0].constants
    for learner in learners[1:]:
        for name, x in learner.constants.items():
            if name in first and torch.equal(x, first[name]):
                learner.constants[name] = first[name]


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """No parameter of the model takes a gradient; afterwards those do that did before."""
    flags = [(x, x.requires_grad) for x in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for x, flag in flags:
            x.requires_grad_(flag)


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """The model's activations computed anew in the backward pass (not re-entrant), its own dropout still zero.

    transformers recomputes the modules that bear its flag, and those only in training mode: that mode is given to them
    alone, with every dropout rate that they read at zero, so that the pass is the same as without recomputing.
    It is for steps of training alone: a model that recomputes keeps no cache, which evaluation needs.
    """
    # transformers 5 began with the names `gradient_checkpointing_...`, of which its later versions warn.
    what = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    able = [module for module in model.modules() if hasattr(module, _FLAG)]
    before = [(module, _FLAG, getattr(module, _FLAG)) for module in able]
    before += [(module, "training", module.training) for module in able]
    configs = {id(config): config for module in able if (config := getattr(module, "config", None)) is not None}
    owners = [*able, *configs.values()]
    rates = [(owner, name, rate) for owner in owners for name, rate in vars(owner).items() if _is_rate(name, rate)]
    getattr(model, f"{what}_checkpointing_enable")({"use_reentrant": False})
    try:
        for owner, name, _ in rates:
            setattr(owner, name, 0.0)
        for module in able:
            module.training = bool(getattr(module, _FLAG))
        yield
    finally:
        getattr(model, f"{what}_checkpointing_disable")()
        model.disable_input_require_grads()
        for owner, name, value in [*rates, *before]:
            setattr(owner, name, value)


_FLAG = "gradient_checkpointing"
"""Name of transformers' flag on modules whose activations can be recomputed."""


def _is_rate(name: str, value: object) -> bool:
    """Whether an attribute of a module or a configuration is a rate of dropout, or of whole layers dropped."""
    return "drop" in name and isinstance(value, int | float) and not isinstance(value, bool)

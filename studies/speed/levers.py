"""Each lever on and off, in one run: what deltacompose does against the same work without it, or against peft."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import steps
import torch
from steps import against_peft, backbone_of, bank_of, padded, training
from timing import Row, interleaved, ratio
from words import single_token_tasks, words

import deltacompose as dc
from deltacompose.attach.frozen_prefix import frozen_prefix
from deltacompose.backbone import Backbone
from deltacompose.scoring import Reader, reader
from deltacompose.scoring.rows import highest
from deltacompose.training import learn, learner
from deltacompose.training.evaluation import evaluate, evaluate_many
from deltacompose.training.learner import Job, Learner

TOGETHER = 10
"""Steps between two looks at the frozen weights: a training has hundreds."""

ALL = ("tiny-t5", "embedded", "t5-small", "gpt2-like")


def against_bare_loop(shape: str, bank: int, batch: int, precision: str, rounds: int) -> Iterator[Row]:
    """A step of a bank of K deltas against K steps of peft in a bare loop."""
    with against_peft(shape, bank, batch, precision) as arms:
        times = interleaved({"ours": arms.ours, "theirs": arms.theirs}, rounds)
    lever = "one delta" if bank == 1 else f"bank of {bank}"
    peer = "peft in a bare loop" if bank == 1 else f"{bank} peft loops in turn"
    yield ratio(lever, peer, f"{shape}, batch {batch}", precision, times, difference=arms.difference)


def bank_on_and_off(shape: str, bank: int, batch: int, precision: str, rounds: int) -> Iterator[Row]:
    """A step of a bank against the same deltas in turn."""
    read, together, rows = bank_of(shape, bank, batch, precision)
    own = [padded(read, each) for each in rows]
    _, apart, _ = bank_of(shape, bank, batch, precision)
    with training(read.backbone, together[0].job.expression) as attachment:
        group = list(zip(together, own, strict=True))
        arms = {
            "ours": lambda: learn(attachment, group),
            "theirs": lambda: [learn(attachment, [pair]) for pair in zip(apart, own, strict=True)],
        }
        times = interleaved(arms, rounds)
    yield ratio(f"bank of {bank}", "the same deltas in turn", f"{shape}, batch {batch}", precision, times)


def flat_on_and_off(shape: str, bank: int, batch: int, precision: str, rounds: int) -> Iterator[Row]:
    """A step over rows of matrices against one that clips and moves every tensor of every delta by itself."""
    read, flat, rows = bank_of(shape, bank, batch, precision)
    _, single, _ = bank_of(shape, bank, batch, precision)
    own = [padded(read, each) for each in rows]
    with training(read.backbone, flat[0].job.expression) as attachment:
        step = _step_by_tensor(attachment, read, single, own)
        group = list(zip(flat, own, strict=True))
        times = interleaved({"ours": lambda: learn(attachment, group), "theirs": step}, rounds)
    setting = f"{shape}, K = {bank}, batch {batch}"
    yield ratio("flat step, fused AdamW", "AdamW and clipping of each tensor", setting, precision, times)


def _step_by_tensor(
    attachment: Any, read: Reader, learners: Sequence[Learner], own: Sequence[Any]
) -> Callable[[], None]:
    """The same pass as `learn`, and then torch's AdamW without its fused form, and a check of every tensor."""
    size = len(learners)
    leaves = [{n: x.detach().clone().requires_grad_() for n, x in each.weights.items()} for each in learners]
    optimisers = [torch.optim.AdamW(each.values(), lr=steps.RATE, weight_decay=0.0, foreach=False) for each in leaves]
    joined = {name: torch.cat([batch[name] for batch in own]) for name in own[0]}

    def step() -> None:
        tensors = [{**one.rest, **each} for one, each in zip(learners, leaves, strict=True)]
        attachment.put(tensors if size > 1 else tensors[0])
        loss = read.loss(joined, size).sum()
        gradients = iter(torch.autograd.grad(loss, [x for each in leaves for x in each.values()]))
        for each, optimiser in zip(leaves, optimisers, strict=True):
            for x in each.values():
                x.grad = next(gradients)
            torch.nn.utils.clip_grad_norm_(each.values(), 1.0, foreach=False)
            if all(bool(torch.isfinite(x.grad).all()) for x in each.values() if x.grad is not None):
                optimiser.step()
        float(loss.detach())

    return step


def prefix_on_and_off(shape: str, batch: int, precision: str, rounds: int) -> Iterator[Row]:
    """Steps whose frozen layers below are computed once for each text against steps through every layer."""
    backbone = backbone_of(shape, precision)
    task = dc.tasks()[steps.TASK].limited(train=batch * 4, val=1, test=1)
    read = reader(backbone, task, steps.TOKENS)
    crossed = f"lora(rank={steps.RANK}, places=('cross_attention.query', 'cross_attention.value'))"
    deltas = {"last layer": "last_layers(n=1)"} | ({"decoder only": crossed} if len(backbone.streams) > 1 else {})
    for name, text in deltas.items():
        yield _prefixed(read, shape, name, text, batch, precision, rounds)


def _prefixed(read: Reader, shape: str, name: str, text: str, batch: int, precision: str, rounds: int) -> Row:
    backbone, expression = read.backbone, dc.parse(text)
    rates = {"lora": steps.RATE, "last_layers": steps.RATE}
    recipe = dc.Recipe(steps=steps.STEPS, batch=batch, learning_rates=rates, warmup=0.0)
    every, kept = (Learner(backbone, Job(expression, read, 0, recipe)) for _ in range(2))
    rows = padded(read, list(range(batch)))
    with training(backbone, expression) as attachment:
        touched = attachment.first_touched()

        def all_layers() -> None:
            for _ in range(TOGETHER):
                learn(attachment, [(every, rows)])

        def with_kept_states() -> None:
            with frozen_prefix(backbone, touched):
                for _ in range(TOGETHER):
                    learn(attachment, [(kept, rows)])

        with_kept_states()  # reads the texts, and compares a pass with a full one
        all_layers()
        difference = max(float((every.weights[n] - x).detach().abs().max()) for n, x in kept.weights.items())
        times = interleaved({"ours": with_kept_states, "theirs": all_layers}, rounds)
    lever, setting = f"frozen prefix kept, {name}", f"{shape}, batch {batch}"
    return ratio(lever, "the same steps through every layer", setting, precision, times, difference=difference)


def buckets_on_and_off(shape: str, batch: int, precision: str, rounds: int, count: int = 24) -> Iterator[Row]:
    """The first steps of a plan of batches of like lengths against those of batches drawn at random."""
    backbone = backbone_of(shape, precision, words())
    read = reader(backbone, dc.tasks()[steps.TASK].limited(train=512, val=1, test=1), 64)
    expression = dc.parse(f"lora(rank={steps.RANK})")
    recipe = dc.Recipe(steps=count, batch=batch, learning_rates={"lora": 1e-5}, warmup=0.0)
    job = Job(expression, read, 0, recipe)
    sorted_plan = Learner(backbone, job)
    with _pools(1):
        random_plan = Learner(backbone, job)

    def walk(own: Learner) -> Callable[[], None]:
        def through() -> None:
            own.step = 0
            for _ in range(count):
                learn(attachment, [(own, own.batch())])

        return through

    with training(backbone, expression) as attachment:
        times = interleaved({"ours": walk(sorted_plan), "theirs": walk(random_plan)}, rounds)
    shares = {"padding": _padding(read, sorted_plan), "padding_without": _padding(read, random_plan)}
    setting = f"{shape}, batch {batch}, up to 64 tokens"
    yield ratio("length buckets", "batches drawn at random", setting, precision, times, **shares)


@contextmanager
def _pools(size: int) -> Iterator[None]:
    """Within, plans sort so many batches by length together; of one alone there is nothing to sort."""
    before = learner.POOL
    learner.POOL = size
    try:
        yield
    finally:
        learner.POOL = before


def _padding(read: Reader, own: Learner) -> float:
    """Padded tokens over real ones, of the inputs."""
    rows = read.rows("train")
    padded_tokens = sum(len(indices) * longest for indices, (longest, _) in own.batches)
    return padded_tokens / sum(len(rows[i].input) for indices, _ in own.batches for i in indices)


def banked_evaluation(shape: str, sources: int, precision: str, rounds: int) -> Iterator[Row]:
    """The evaluation of several deltas in shared passes against one after another."""
    backbone = backbone_of(shape, precision, words())
    task = single_token_tasks(train=32, val=8, test=96)[-1]
    deltas = random_deltas(backbone, task, sources)
    read = reader(backbone, task, 64)
    arms = {
        "ours": lambda: evaluate_many(read, deltas, "test"),
        "theirs": lambda: [evaluate(read, delta, "test") for delta in deltas],
    }
    times = interleaved(arms, rounds)
    same = [own.predictions == other.predictions for own, other in zip(arms["ours"](), arms["theirs"](), strict=True)]
    yield ratio(f"bank of {sources} sources", "one source after another", f"{shape}, 96 rows", precision, times,
                equal_predictions=all(same))  # fmt: skip


def best_first(shape: str, precision: str, rounds: int) -> Iterator[Row]:
    """Ranking that scores the best candidate to its end against ranking by the scores of all candidates."""
    backbone = backbone_of(shape, precision, words(most=4000))
    task = dc.tasks()["intent"].limited(train=32, val=8, test=32)
    read = reader(backbone, task, 64)
    rows = read.rows("test")
    with torch.no_grad():
        times = interleaved({"ours": lambda: read.rank(rows), "theirs": lambda: highest(read.scores(rows))}, rounds)
        same = read.rank(rows) == highest(read.scores(rows))
    setting = f"{shape}, 7 candidates of 2 to 4 words"
    yield ratio("best candidate first", "every candidate to its end", setting, precision, times, equal_predictions=same)


def half_precision(shape: str, bank: int, batch: int, rounds: int) -> Iterator[Row]:
    """A step on a frozen backbone in bfloat16, deltas in fp32, against one in float32."""
    arms = {}
    for arm, precision in (("ours", "bfloat16"), ("theirs", "float32")):
        read, learners, rows = bank_of(shape, bank, batch, precision)
        group = [(own, padded(read, each)) for own, each in zip(learners, rows, strict=True)]
        context = training(read.backbone, learners[0].job.expression)
        arms[arm] = (context, context.__enter__(), group)
    try:
        steps_of = {name: _learning(attachment, group) for name, (_, attachment, group) in arms.items()}
        times = interleaved(steps_of, rounds)
    finally:
        for context, _, _ in arms.values():
            context.__exit__(None, None, None)
    yield ratio("frozen backbone in bf16", "the same in fp32", f"{shape}, K = {bank}, batch {batch}", "bfloat16", times)


def _learning(attachment: Any, group: Any) -> Callable[[], None]:
    return lambda: learn(attachment, group)


def random_deltas(backbone: Backbone, task: Any, count: int) -> list[Any]:
    """Deltas of LoRA that have taken one step."""
    recipe = {"steps": 1, "batch": 4, "evaluate_every": 1, "limit": 64}
    return [dc.train(backbone, steps.lora_of(backbone), task, seed, **recipe) for seed in range(count)]

"""Cost of passes through a backbone: floating-point operations and bytes, counted from its shape.

A matrix of p parameters takes 2·p operations for each token that meets it, and as many again for the gradient of its
input (Kaplan et al. 2020, arXiv 2001.08361, section 2.1, without the gradient of the frozen weights). Embeddings are
looked up and cost nothing; the output head counts where it is used. A delta's own matrices, a percent of that or
less, are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "nf4": 0.5625}
"""Bytes of one frozen weight; four bits carry a scale of 32 bits for every 64 weights (Dettmers et al. 2023)."""


@dataclass(frozen=True)
class StackShape:
    """One stack of layers.

    Attributes:
        parameters: of all its layers; embeddings are not among them.
        attention: the width of all queries, summed over layers and attentions.
        width: of the states.
        inner: of a feed-forward network, twice that of a gated one.
        crossed: those of its parameters that meet the other stack's tokens: keys and values of cross attention.
        idle: those of its parameters that a token does not meet: the experts to which it is not sent.
    """

    parameters: int
    layers: int
    width: int
    inner: int
    heads: int
    attention: int
    crossed: int = 0
    idle: int = 0

    @property
    def met(self) -> int:
        """The parameters that each token meets."""
        return self.parameters - self.idle


@dataclass(frozen=True)
class Shape:
    """A backbone as far as its costs go.

    Attributes:
        total: all parameters, the embeddings too.
        kind: of the backbone.
        stacks: in forward order.
        head: parameters of the output head, tied or not; 0 where there is none.
        vocabulary: how many tokens the head knows.
    """

    total: int
    kind: str
    stacks: Mapping[str, StackShape]
    head: int = 0
    vocabulary: int = 0


@dataclass(frozen=True)
class Lengths:
    """One example of a task in tokens, on the average.

    Attributes:
        input: real tokens of the input; `padded`, with the padding that training puts in.
        answer: tokens of the answer that is trained on.
        candidates: how many are ranked; 0 where text is generated.
        candidate: tokens of one candidate.
        shared: whether all examples have the same candidates.
        longest: the most tokens that are generated.
    """

    input: float
    padded: float
    answer: float
    candidates: float = 0.0
    candidate: float = 0.0
    shared: bool = True
    longest: float = 0.0


@dataclass(frozen=True)
class DeltaShape:
    """A composition as far as its costs go.

    Attributes:
        trained: parameters of the stage that is trained.
        prompts: soft tokens put before each stream, of all stages.
        dense: parameters of the backbone whose change is formed in full, and so has a gradient.
    """

    trained: int = 0
    prompts: Mapping[str, int] = field(default_factory=dict)
    dense: int = 0


def training(shape: Shape, lengths: Lengths, delta: DeltaShape, batch: int, checkpointing: bool = False) -> float:
    """Operations of one step of one delta: forward, and backward to the activations; again forward if recomputed."""
    once = _LEARN[shape.kind](shape, lengths, delta, batch)
    tokens = batch * (lengths.padded + sum(delta.prompts.values()))
    return once * (3 if checkpointing else 2) + 2 * delta.dense * tokens


def evaluation(shape: Shape, lengths: Lengths, delta: DeltaShape, rows: int, together: int = 32) -> float:
    """Operations of predicting so many examples, `together` in one pass."""
    if lengths.candidates:
        return _RANK[shape.kind](shape, lengths, delta, rows, together)
    return _generated(shape, lengths, delta, rows)


def memory(shape: Shape, lengths: Lengths, delta: DeltaShape, batch: int, how: Memory) -> float:
    """Bytes that the training of a bank takes: weights, activations, deltas with gradients and optimiser, logits.

    A frozen matrix keeps nothing for the backward pass; norms, attention and activation functions keep what they read.
    """
    tokens = _tokens(shape, lengths, delta)
    kept = sum(_activations(stack, tokens[name], how) for name, stack in shape.stacks.items())
    head = batch * (lengths.answer or 1.0) * shape.vocabulary * (how.bytes + 8)
    step = batch * kept * how.bytes + head + how.bytes * delta.dense
    return frozen_bytes(shape, how) + how.bank * delta_bytes(delta) + passing(lengths, batch, how) * step


def passing(lengths: Lengths, batch: int, how: Memory) -> int:
    """How many deltas of a bank pass together: as many as the tokens of one pass allow, and one at least."""
    together = how.budget / max(1.0, batch * (lengths.padded + lengths.answer))
    return max(1, min(how.bank, math.floor(min(how.bank, together))))


def bank_bytes(delta: DeltaShape, step: float, bank: int, together: int, alike: int = 1) -> float:
    """Bytes of the training of a bank besides the frozen weights.

    All deltas hold what the optimiser reads. Steps are taken by some deltas at a time, which are copied, with their
    gradients, if they are not the whole bank. An evaluation holds two copies of the deltas of one task in place of a
    step.

    Args:
        step: bytes that one delta's step takes, its gradients among them.
        together: how many deltas pass at once.
        alike: how many are of one task, so that they are evaluated together.
    """
    copies = 8.0 * delta.trained
    steps = together * (step + (copies if 1 < together < bank else 0.0))
    return bank * delta_bytes(delta) + max(steps, min(bank, alike) * copies)


def delta_bytes(delta: DeltaShape) -> float:
    """Bytes that one delta takes in training, in fp32: weights, gradients, two moments, and the best so far."""
    return 20.0 * delta.trained


def frozen_bytes(shape: Shape, how: Memory) -> float:
    """Bytes of the frozen weights of one process; what lies outside the layers is never in eight or four bits."""
    outside = shape.total - sum(stack.parameters for stack in shape.stacks.values())
    return how.weights * held(shape, how.shards) + max(0.0, how.bytes - how.weights) * outside


def held(shape: Shape, shards: int = 1) -> float:
    """How many frozen weights are in one process.

    Of layers in shards that is its part, and the two that are whole at a time, the one at work and the next, each
    twice, because it is copied out of the buffer in which it came.
    """
    layers = sum(stack.parameters for stack in shape.stacks.values())
    largest = max((stack.parameters / stack.layers for stack in shape.stacks.values()), default=0.0)
    return shape.total - layers + min(layers, layers / shards + (4 * largest if shards > 1 else 0.0))


@dataclass(frozen=True)
class Memory:
    """How a backbone is held: bytes of a weight and of an activation, deltas in a bank, recomputed or not, in how many
    shards, and how many tokens a pass of the bank may have."""

    weights: float = 4.0
    bytes: float = 4.0
    bank: int = 1
    checkpointing: bool = False
    shards: int = 1
    budget: float = math.inf


def _activations(stack: StackShape, tokens: float, how: Memory) -> float:
    """Numbers kept for one example: eight widths a layer, three inner widths, and the scores of each head."""
    layer = tokens * (8 * stack.width + 3 * stack.inner + stack.heads * tokens)
    return layer + stack.layers * tokens * stack.width if how.checkpointing else stack.layers * layer


def _tokens(shape: Shape, lengths: Lengths, delta: DeltaShape) -> dict[str, float]:
    """How many tokens of one training example each stack sees."""
    first, last = next(iter(shape.stacks)), list(shape.stacks)[-1]
    tokens = {first: lengths.padded, last: lengths.answer}
    if first == last:
        tokens = {first: lengths.padded + (lengths.answer if shape.kind == "decoder" else 0.0)}
    return {name: count + delta.prompts.get(name, 0) for name, count in tokens.items()}


def _pass(stack: StackShape, sequences: float, tokens: float, seen: float | None = None) -> float:
    """Sequences through a stack; `seen` is how many tokens each token attends to, all of its own if None."""
    return sequences * tokens * (2 * stack.met + 4 * stack.attention * (tokens if seen is None else seen))


def _encoder_learns(shape: Shape, lengths: Lengths, delta: DeltaShape, batch: int) -> float:
    stack, prompt = shape.stacks["encoder"], delta.prompts.get("encoder", 0)
    own = _pass(stack, batch, lengths.padded + prompt)
    if shape.head:
        return own + batch * lengths.candidate * 2 * shape.head
    groups = 1 if lengths.shared else batch
    return own + _pass(stack, groups * lengths.candidates, lengths.candidate + prompt)


def _encoder_ranks(shape: Shape, lengths: Lengths, delta: DeltaShape, rows: int, together: int) -> float:
    stack, prompt = shape.stacks["encoder"], delta.prompts.get("encoder", 0)
    own = _pass(stack, rows, lengths.input + prompt)
    if shape.head:
        return own + rows * lengths.candidate * 2 * shape.head
    groups = -(-rows // together) if lengths.shared else rows
    return own + _pass(stack, groups * lengths.candidates, lengths.candidate + prompt)


def _decoder_learns(shape: Shape, lengths: Lengths, delta: DeltaShape, batch: int) -> float:
    tokens = lengths.padded + lengths.answer + delta.prompts.get("decoder", 0)
    return _pass(shape.stacks["decoder"], batch, tokens) + batch * (lengths.answer + 1) * 2 * shape.head


def _decoder_ranks(shape: Shape, lengths: Lengths, delta: DeltaShape, rows: int, together: int) -> float:
    stack, read = shape.stacks["decoder"], lengths.input + delta.prompts.get("decoder", 0)
    answered = lengths.candidates * lengths.candidate
    return _pass(stack, rows, read) + _pass(stack, rows, answered, read) + rows * (1 + answered) * 2 * shape.head


def _pair_learns(shape: Shape, lengths: Lengths, delta: DeltaShape, batch: int) -> float:
    read = lengths.padded + delta.prompts.get("encoder", 0)
    return _pass(shape.stacks["encoder"], batch, read) + batch * _decoded(shape, delta, read, lengths.answer, 1)


def _pair_ranks(shape: Shape, lengths: Lengths, delta: DeltaShape, rows: int, together: int) -> float:
    read = lengths.input + delta.prompts.get("encoder", 0)
    decoded = _decoded(shape, delta, read, lengths.candidate, lengths.candidates)
    return _pass(shape.stacks["encoder"], rows, read) + rows * decoded


def _decoded(shape: Shape, delta: DeltaShape, read: float, answered: float, times: float) -> float:
    """So many answers to one example by the decoder of a pair, each with the keys and values of what was read."""
    stack = shape.stacks["decoder"]
    own = (answered + delta.prompts.get("decoder", 0)) * (2 * (stack.met - stack.crossed) + 4 * stack.attention * read)
    return times * (own + 2 * stack.crossed * read + answered * 2 * shape.head)


def _generated(shape: Shape, lengths: Lengths, delta: DeltaShape, rows: int) -> float:
    """Every input read once, and as many tokens said as the longest known answer has."""
    longest = Lengths(lengths.input, lengths.input, lengths.longest)
    return _LEARN[shape.kind](shape, longest, delta, rows)


_LEARN = {"encoder": _encoder_learns, "decoder": _decoder_learns, "encoder-decoder": _pair_learns}
_RANK = {"encoder": _encoder_ranks, "decoder": _decoder_ranks, "encoder-decoder": _pair_ranks}

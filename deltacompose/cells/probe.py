"""Arrays for the measures of similarity that need the model: cells of kind `probe`.

One cell holds one array. `activations`, `gradients` and `drawn_gradients` are of a delta on its own task; `features`,
`probabilities` and `predictions` are of a delta on a target, with the target's true answers. All read training and
development data alone, so that a measure never sees what the transfer that it predicts is read from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from deltacompose.analysis.similarity.stored_arrays import FILE, LABELS, PREDICTED
from deltacompose.attach.attachment import attach
from deltacompose.backbone.backbone import Backbone, Place, evaluating
from deltacompose.cells.context import Inputs, Result, each
from deltacompose.composition import parse
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.method.weights import generator, init_constants, init_weights, prepared
from deltacompose.scoring import Reader, Row
from deltacompose.study.recipe import Recipe
from deltacompose.training.learner import Job

_ROWS = 32
"""How many inputs of like length go through the backbone at once."""


@dataclass(frozen=True)
class ProbeSpec:
    """Spec of a probe cell.

    Attributes:
        array: the name of the array that is collected.
        target, split: of arrays of a delta on every task.
        examples: the number of training examples of arrays of gradients.
        limit: the longest input in tokens.
    """

    array: str
    composition: str
    source: str
    seed: int
    limit: int
    target: str = ""
    split: str = "val"
    examples: int = 0

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The spec of a cell, from plain data."""
        return cls(**{name: spec[name] for name in cls.__dataclass_fields__ if name in spec})


def probe(inputs: Inputs) -> Result:
    """Collects the array that a cell's spec names; the result has its shape and the number of examples behind it."""
    with evaluating(inputs.backbone.model):
        return _PROBES[inputs.cell.spec["array"]](inputs)


carry = each(probe)


def activations(backbone: Backbone, delta: Delta) -> Tensor:
    """Activations inside the feed-forward networks, `(layers, neurons)`, for an input without a text.

    Su et al. 2022 (arXiv 2111.06719, section 5.2) feed the mask token alone, or start the decoder, with the prompt in
    force, so that what is active is due to the prompt. Here the encoder (or decoder) reads the tokenizer's mask token,
    or nothing but its special tokens where it has none, and the activation is that at the mask, else at the last token.
    """
    places = backbone.places("ffn.activation")
    seen: dict[str, Tensor] = {}
    ids, position = _blank(backbone)
    with delta.attached(backbone), torch.no_grad():
        handles = [_listening(backbone, place, seen) for place in places]
        try:
            backbone.read(ids)
        finally:
            for handle in handles:
                handle.remove()
    stacks = {place.name: position if place.stack == backbone.streams[0] else -1 for place in places}
    rows = [seen[place.name].flatten(0, -2)[stacks[place.name]].float().cpu() for place in places]
    if len({len(row) for row in rows}) > 1:
        raise BadInput(f"the feed-forward layers of {backbone.name} differ in width: their neurons cannot be stacked")
    return torch.stack(rows)


def gradients(job: Job, examples: int) -> Tensor:
    """The loss gradient, averaged over training examples, at the weights that training starts from, `(parameters,)`.

    All tasks start from the same weights for one seed, so their gradients are taken at one point (Du et al. 2018,
    arXiv 1812.02224, compare them at shared parameters).
    """
    backbone, reader = job.reader.backbone, job.reader
    constants = init_constants(backbone, job.expression, job, job.stage)
    leaves = _leaves(backbone, init_weights(backbone, job.expression, job.seed))
    attachment = attach(backbone, job.expression)
    total: Tensor | None = None
    try:
        rows = _drawn_rows(reader, job.seed, examples)
        for row in rows:
            t = {**leaves, **{name: x.to(backbone.model.device) for name, x in constants.items()}}
            attachment.put(prepared(job.expression, t, generator(job.seed, "prepare")))
            loss = reader.loss(reader.collate([row], reader.lengths(row)), 1).sum()
            flat = _flat(leaves, torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True))
            total = flat if total is None else total + flat
    finally:
        attachment.detach()
    return _some(total) / len(rows)


def fisher(reader: Reader, delta: Delta, seed: int, examples: int) -> Tensor:
    """The Fisher diagonal of a delta's weights, `(parameters,)`: E_x E_{y∼p(y|x)} (∂ log p(y|x))².

    Per example, with answers drawn from the model itself (Achille et al. 2019, arXiv 1902.03545, equation 1). A choice
    task draws among its candidates; a generation task draws each token after the true ones before it.
    """
    backbone = reader.backbone
    leaves, source = _leaves(backbone, delta.weights), generator(seed, "answers")
    attachment = attach(backbone, delta.expression)
    total: Tensor | None = None
    try:
        rows = _drawn_rows(reader, seed, examples)
        for row in rows:
            attachment.put({**leaves, **delta.constants})
            log_p = _drawn(reader, row, source)
            flat = _flat(leaves, torch.autograd.grad(log_p, list(leaves.values()), materialize_grads=True))
            total = flat.square() if total is None else total + flat.square()
    finally:
        attachment.detach()
    return _some(total) / len(rows)


def features(reader: Reader, delta: Delta, split: str) -> Tensor:
    """Pooled states of every input of a split with a delta attached, `(examples, width)`."""
    with delta.attached(reader.backbone):
        return _of_each(reader.features, reader.rows(split))


def probabilities(reader: Reader, source: Reader, delta: Delta, split: str) -> Tensor:
    """Probabilities of the answers of a delta's own task on a target's inputs, `(examples, source labels)`.

    Raises:
        BadInput: the source is not a choice task, or its candidates differ from example to example.
    """
    if source.task.kind != "choice":
        raise BadInput(f"{source.task.name!r} is a generation task and has no labels of its own")
    own = tuple(map(source.answer_tokens, source.task.candidates))
    rows = [Row(row.input, row.answer, own) for row in reader.rows(split)]
    with delta.attached(reader.backbone):
        return F.softmax(_of_each(reader.scores, rows), -1)


def _activations(inputs: Inputs) -> Result:
    return _kept(inputs, activations(inputs.backbone, inputs.trained(ProbeSpec.of(inputs.cell.spec).source)), 1)


def _gradients(inputs: Inputs) -> Result:
    spec = ProbeSpec.of(inputs.cell.spec)
    reader, expression = inputs.reader(spec.source), parse(spec.composition, inputs.methods)
    array = gradients(Job(expression, reader, spec.seed, Recipe(limit=spec.limit)), spec.examples)
    return _kept(inputs, array[None], min(spec.examples, len(reader.rows("train"))))


def _drawn_gradients(inputs: Inputs) -> Result:
    """Kept as one row whose square is the mean square, which is all that the Fisher diagonal is made of."""
    spec = ProbeSpec.of(inputs.cell.spec)
    reader = inputs.reader(spec.source)
    diagonal = fisher(reader, inputs.trained(spec.source), spec.seed, spec.examples)
    return _kept(inputs, diagonal.sqrt()[None], min(spec.examples, len(reader.rows("train"))))


def _features(inputs: Inputs) -> Result:
    spec = ProbeSpec.of(inputs.cell.spec)
    reader = inputs.reader(spec.target)
    return _answered(inputs, reader, features(reader, inputs.trained(spec.source), spec.split))


def _probabilities(inputs: Inputs) -> Result:
    spec = ProbeSpec.of(inputs.cell.spec)
    reader, delta = inputs.reader(spec.target), inputs.trained(spec.source)
    return _answered(inputs, reader, probabilities(reader, inputs.reader(spec.source), delta, spec.split))


def _predictions(inputs: Inputs) -> Result:
    spec = ProbeSpec.of(inputs.cell.spec)
    reader = inputs.reader(spec.target)
    with inputs.trained(spec.source).attached(inputs.backbone):
        predictions = reader.predict(spec.split, processes=inputs.processes)

    def write(folder: Path) -> None:
        _write_json(folder / LABELS, [example.target for example in reader.task.examples(spec.split)])
        _write_json(folder / PREDICTED, predictions)

    return {"examples": len(predictions)}, write


_PROBES: Mapping[str, Callable[[Inputs], Result]] = {
    "activations": _activations,
    "gradients": _gradients,
    "drawn_gradients": _drawn_gradients,
    "features": _features,
    "probabilities": _probabilities,
    "predictions": _predictions,
}


def _kept(inputs: Inputs, array: Tensor, examples: int) -> Result:
    name = inputs.cell.spec["array"]

    def write(folder: Path) -> None:
        save_file({name: array.detach().float().cpu().contiguous()}, folder / FILE)

    return {"shape": list(array.shape), "examples": examples}, write


def _answered(inputs: Inputs, reader: Reader, array: Tensor) -> Result:
    labels = [example.target for example in reader.task.examples(inputs.cell.spec["split"])]

    def write(folder: Path) -> None:
        save_file({inputs.cell.spec["array"]: array.detach().float().cpu().contiguous()}, folder / FILE)
        _write_json(folder / LABELS, labels)

    return {"shape": list(array.shape), "examples": len(labels)}, write


def _write_json(path: Path, data: list[str]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def _blank(backbone: Backbone) -> tuple[Tensor, int]:
    """An input without a text, `(1, tokens)`, and the position, counted from the end, at which it is looked at."""
    tokenizer = backbone.tokenizer
    if tokenizer is None:
        raise BadInput(f"{backbone.name} has no tokenizer; give one to load_backbone(model, tokenizer)")
    mask = tokenizer.mask_token_id if tokenizer.mask_token else None
    ids = list(tokenizer(tokenizer.mask_token if mask is not None else "")["input_ids"])
    if not ids:
        ids = [next(i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if i is not None)]
    position = ids.index(mask) - len(ids) if mask in ids else -1
    return torch.tensor([ids], device=backbone.model.device), position


def _listening(backbone: Backbone, place: Place, seen: dict[str, Tensor]) -> Any:
    """A hook that keeps what goes into a place's module, or comes out of it, under the place's name."""
    if place.port == "input":

        def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[place.name] = args[0]

        return backbone.module(place).register_forward_pre_hook(before)

    def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen[place.name] = output

    return backbone.module_until(place).register_forward_hook(after)


def _leaves(backbone: Backbone, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in the order of their names, as what gradients are taken of."""
    device = backbone.model.device
    return {name: weights[name].detach().to(device, torch.float32).requires_grad_() for name in sorted(weights)}


def _flat(leaves: Mapping[str, Tensor], gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([x.detach().flatten().cpu() for _, x in zip(leaves, gradients, strict=True)])


def _some(total: Tensor | None) -> Tensor:
    if total is None:
        raise BadInput("a probe needs at least one training example")
    return total


def _drawn_rows(reader: Reader, seed: int, examples: int) -> list[Row]:
    rows = reader.rows("train")
    drawn = torch.randperm(len(rows), generator=generator(seed, "examples"))[:examples]
    return [rows[index] for index in drawn.tolist()]


def _drawn(reader: Reader, row: Row, source: torch.Generator) -> Tensor:
    """log p(y|x) of an answer y that is drawn from the model's own p(y|x)."""
    if row.candidates:
        log_p = F.log_softmax(reader.scores([row])[0].float(), -1)
        return log_p[int(torch.multinomial(log_p.detach().exp().cpu(), 1, generator=source))]
    log_p = F.log_softmax(reader.logits(reader.collate([row], reader.lengths(row)))[0].float(), -1)
    drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=source)
    return log_p.gather(-1, drawn.to(log_p.device)).sum()


def _of_each(function: Callable[[list[Row]], Tensor], rows: list[Row]) -> Tensor:
    """A function of rows on all of them, in passes over inputs of like length; in the order of the rows, in fp32."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].input))
    with torch.no_grad():
        chunks = [order[k : k + _ROWS] for k in range(0, len(rows), _ROWS)]
        joined = torch.cat([function([rows[i] for i in chunk]).float().cpu() for chunk in chunks])
    result = torch.empty_like(joined)
    result[torch.tensor(order)] = joined
    return result

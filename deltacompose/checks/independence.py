"""Checks that a row's result depends on its own tokens alone: not on other rows, on padding, or on the model's mode."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltacompose.attach.attachment import attached
from deltacompose.backbone.backbone import Backbone
from deltacompose.checks.batches import LENGTHS, default_side, forward, padded, quiet, random_rows
from deltacompose.checks.runner import Check
from deltacompose.checks.subject import Subject, shared

SOME = (0, 4, 8)
"""The rows that are read again without the others."""
MORE = 7
"""Columns of padding that a wider batch has more."""
ROUNDING = 1e-4
"""The largest difference of two numbers, relative to the largest number, that is the order of additions."""


@dataclass(frozen=True)
class Layout:
    """How rows of tokens become one batch.

    Attributes:
        rows: which rows, in which order.
        wider: columns of padding beyond the longest row.
        filler: the token at padded positions; None is the padding token.
    """

    rows: tuple[int, ...] = tuple(range(len(LENGTHS)))
    wider: int = 0
    side: str = ""
    filler: int | None = None


OTHER_ROWS: Mapping[str, Layout] = {
    "in another order": Layout(rows=tuple(reversed(range(len(LENGTHS))))),
    "without most of the others": Layout(rows=SOME),
}
OTHER_PADDING: Mapping[str, Layout] = {
    f"padded by {MORE} tokens more": Layout(wider=MORE),
    "padded on the left": Layout(side="left"),
    "padded on the right": Layout(side="right"),
    "padded with another token": Layout(filler=77),
}


def independent_rows(subject: Subject) -> None:
    """A row's output depends on no other row of its batch, in whatever order and however many they are."""
    _compare(subject, OTHER_ROWS, "a row of {rows} in a batch {how} gives another output, by {far:.1e} of its size")


def independent_of_padding(subject: Subject) -> None:
    """A row's output depends neither on how much padding there is, nor on its side, nor on the token that fills it."""
    sentence = (
        "an input {how} gives another output at its own tokens, by {far:.1e} of its size; an edit must leave padding "
        "out where it looks at several tokens"
    )
    _compare(subject, OTHER_PADDING, sentence)


def same_in_every_mode(subject: Subject) -> None:
    """Without dropout it gives one output, whether the model is in training mode and whether gradients are recorded."""
    model, trained = subject.backbone.model, subject.alone
    modes = [(module, module.training) for module in model.modules()]
    with attached(subject.backbone, trained.expression, trained.weights, trained.constants):
        with torch.enable_grad():
            recorded = forward(subject.backbone, subject.batch).detach()
        if any(getattr(module, "p", 0) and isinstance(module, torch.nn.Dropout) for module in model.modules()):
            training = subject.output  # the backbone's own dropout would be the difference
        else:
            try:
                model.train()
                with torch.no_grad(), quiet():
                    training = forward(subject.backbone, subject.batch)
            finally:
                for module, mode in modes:
                    module.training = mode
    for how, output in (("where gradients are recorded", recorded), ("in training mode", training)):
        if _far(output, subject.output) > ROUNDING:
            raise subject.broken(f"{how} its edits give another output than in evaluation; dropout is the edit's own")


def _compare(subject: Subject, others: Mapping[str, Layout], sentence: str) -> None:
    """Compares layouts with the plain one, where the untouched backbone itself gives one output for both."""
    trained, backbone = subject.alone, subject.backbone
    rows = random_rows(backbone, LENGTHS)
    with quiet(), torch.no_grad():
        fair = {how: layout for how, layout in others.items() if _is_fair(subject.family, layout)}
        with attached(backbone, trained.expression, trained.weights, trained.constants):
            plain = _outputs(backbone, rows, Layout())
            for how, layout in fair.items():
                far = _farthest(_outputs(backbone, rows, layout), plain)
                if not far <= ROUNDING:
                    raise subject.broken(sentence.format(how=how, far=far, rows=len(rows)))


@functools.cache
def _is_fair(family: str, layout: Layout) -> bool:
    """Whether the untouched backbone gives its rows the same output in this layout: it may count padding itself."""
    backbone = shared(family)
    rows = random_rows(backbone, LENGTHS)
    return _farthest(_outputs(backbone, rows, layout), _outputs(backbone, rows, Layout())) <= ROUNDING


def _outputs(backbone: Backbone, rows: Sequence[Tensor], layout: Layout) -> dict[int, Tensor]:
    """The states of each row at its own tokens; behind a decoder's encoder, at the answer's."""
    chosen = [rows[k] for k in layout.rows]
    width = max(LENGTHS) + layout.wider
    batch = padded(backbone, chosen, width, layout.side or default_side(backbone), layout.filler)
    if backbone.kind == "encoder-decoder":
        batch["decoder_input_ids"] = torch.stack([rows[k][:2] for k in layout.rows])
        mask = torch.ones_like(batch["decoder_input_ids"])
    else:
        mask = batch["attention_mask"]
    states = forward(backbone, batch)
    return {k: states[i][mask[i] == 1] for i, k in enumerate(layout.rows)}


def _farthest(some: Mapping[int, Tensor], plain: Mapping[int, Tensor]) -> float:
    return max(_far(x, plain[k]) for k, x in some.items())


def _far(x: Tensor, y: Tensor) -> float:
    if x.shape != y.shape:
        return float("inf")
    far = float((x - y).abs().max() / y.abs().max().clamp(min=1e-30))
    return far if far == far else float("inf")


CHECKS = (Check(independent_rows), Check(independent_of_padding), Check(same_in_every_mode))

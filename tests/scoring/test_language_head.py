"""A decoder's language head gets states that lie side by side, and only those whose scores are read."""

from __future__ import annotations

import pytest
import torch
from passes import backbone_of

from deltacompose.backbone.pico import pico_backbone
from deltacompose.backbone.pico_families import FAMILIES
from deltacompose.scoring import reader
from deltacompose.task import Example, Task

TEXTS = ["a", "the sea", "it rains again"]
ROWS = tuple(Example(str(k), text, "low" if k else "top") for k, text in enumerate(TEXTS))
TASK = Task("words", "made", "choice", "accuracy", lambda split: ROWS, "{input} is", {"low": "low", "top": "top"})
DECODERS = sorted(family for family in FAMILIES if pico_backbone(family).kind == "decoder")


@pytest.mark.parametrize("family", DECODERS)
def test_the_language_head_multiplies_states_that_lie_side_by_side(family):
    """Else each row would be multiplied by a copy of the head's weight."""
    backbone = backbone_of(family)
    read = reader(backbone, TASK)
    rows = read.rows("train")
    batch = read.collate(rows, (max(len(r.input) for r in rows), max(len(r.answer) for r in rows)))
    seen = []

    def see(module, args):
        seen.append((args[0].is_contiguous(), args[0].shape[1]))

    handle = backbone.model.get_output_embeddings().register_forward_pre_hook(see)
    try:
        with torch.no_grad():
            logits = read.logits(batch)
            read.begin(rows)
    finally:
        handle.remove()
    answers = batch["answer"].shape[1]
    assert logits.shape[:2] == batch["answer"].shape
    assert seen == [(True, answers + 1), (True, 1)]

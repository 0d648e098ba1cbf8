"""How a backbone reads a task: examples become tokens, tokens a loss in training and predictions in evaluation.

No head is added. An encoder ranks candidates by the similarity of their pooled states to the input's (`encoder`), or,
if it was loaded with its masked-language head, by how well they fill a mask (`masked_lm`); a decoder (`likelihood`) and
a sequence-to-sequence model (`encoder_decoder`) rank by likelihood and generate. `reader` chooses one by the backbone's
`kind` and head.

`rows` is what all readers share; `ranking` has rules for candidates of unequal length; `best_first` skips candidates
that cannot win; `as_trained` reads a task as a delta was trained on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deltacompose.backbone.backbone import Backbone, evaluating
from deltacompose.backbone.pretrained import CLASSES, HEADS
from deltacompose.errors import BadInput
from deltacompose.scoring.as_trained import templated
from deltacompose.scoring.encoder import EncoderReader
from deltacompose.scoring.encoder_decoder import EncoderDecoderReader
from deltacompose.scoring.likelihood import DecoderReader
from deltacompose.scoring.masked_lm import MaskedReader
from deltacompose.scoring.rows import Batch, Reader, Row
from deltacompose.task.task import Task

__all__ = ["Batch", "Reader", "Row", "answers", "reader"]

_READERS: dict[str, type[Reader]] = {
    "encoder": EncoderReader,
    "encoder with head": MaskedReader,
    "decoder": DecoderReader,
    "encoder-decoder": EncoderDecoderReader,
}


def reader(backbone: Backbone, task: Task, limit: int = 128) -> Reader:
    """The task as this kind of backbone reads it.

    >>> type(reader(pico_backbone("bert"), dc.tasks()["sentiment_movie"], 32)).__name__
    'EncoderReader'
    """
    if backbone.kind not in _READERS:
        raise BadInput(
            f"{backbone.name} is a {backbone.kind} and reads no text; tasks need an encoder, a decoder, or both"
        )
    _check_head(backbone)
    if backbone.kind == "encoder" and task.ranking not in (None, "sum"):
        raise BadInput(
            f"task {task.name!r} ranks candidates by {task.ranking}, a rule of likelihoods, and {backbone.name} is an "
            "encoder, which compares states; leave out `ranking`"
        )
    headed = f"{backbone.kind} with head"
    kind = headed if headed in _READERS and any(place.kind == "head" for place in backbone.places()) else backbone.kind
    return _READERS[kind](backbone, task, limit)


def _check_head(backbone: Backbone) -> None:
    """Refuses a model whose head is not that which tasks are read with: a classifier's, a span's, or a missing one."""
    model, kind = backbone.model, backbone.kind
    name = type(model).__name__
    if kind != "encoder":
        if not model.can_generate():
            raise BadInput(
                f"cannot read tasks with {name} because it has no language head, which ranks and generates answers; "
                f"load the checkpoint with transformers.{CLASSES[kind]}"
            )
        return
    if model.base_model is model:  # without a head, causal states are pooled all the same
        return
    if getattr(model.config, "is_decoder", False):
        raise BadInput(
            f"cannot read tasks with {name} because its configuration makes a decoder of an encoder; "
            "load it with is_decoder=False"
        )
    if not any(place.kind == "head" for place in backbone.places()):
        raise BadInput(
            f"cannot read tasks with {name} because a delta here is all that is learned, without a classifier's head; "
            f"give its encoder, model.base_model, or load it with transformers.{HEADS['mlm']}"
        )


def answers(
    backbone: Backbone, texts: Sequence[str], tokens: int, limit: int = 128, template: str = "{input}"
) -> list[str]:
    """Texts that a backbone generates for inputs, greedily, with whatever is attached to it.

    Args:
        tokens: the most new tokens.
        limit: the longest input in tokens; longer ones are truncated in the middle.
        template: what each input is put into.
    """
    blank = Task("text", "none", "generation", "exact_match", lambda split: ())
    read = reader(backbone, blank, limit)
    texts = [templated(text, template) for text in texts]
    with torch.no_grad(), evaluating(backbone.model):
        return read.generate([Row(read.input_tokens(text), ()) for text in texts], tokens)

"""Checks that what a backbone generates, position by position, is what it scores when the text is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deltacompose.attach.attachment import attached
from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.pico_hostile import WORDS
from deltacompose.checks.batches import batch, forward, quiet, reads_scripts
from deltacompose.checks.runner import Check
from deltacompose.checks.subject import Subject
from deltacompose.scoring import reader
from deltacompose.scoring.rows import Row
from deltacompose.task.task import Task

NEW = 3
"""Tokens that are generated."""

WAYS: tuple[tuple[str, int, bool, str], ...] = (
    ("greedily with a cache", 1, True, "left"),
    ("greedily without a cache", 1, False, "left"),
    ("by beams with a cache", 2, True, "left"),
    ("by beams without a cache", 2, False, "left"),
    ("greedily with a cache", 1, True, "right"),
    ("greedily without a cache", 1, False, "right"),
    ("by beams with a cache", 2, True, "right"),
)
"""How it is searched, the number of beams, whether with a cache, and on which side the input is padded."""
TOLERANCE = 1e-5
"""The largest difference of two logits, relative to the largest logit, that is rounding."""


def generated_scores(subject: Subject) -> None:
    """Generated scores equal teacher-forced ones, with and without cache, greedily and by beams, padded on any side."""
    trained = subject.alone
    taught: dict[tuple[str, tuple[int, ...]], Tensor] = {}  # most ways generate what another way has generated
    in_force = attached(subject.backbone, trained.expression, trained.weights, trained.constants)
    with quiet(), in_force, torch.no_grad():
        for how, beams, cache, side in WAYS:
            inputs = batch(subject.backbone, seed=1, side=side)
            if side == "left":
                inputs.pop("position_ids", None)  # generate finds them from the mask; padded on the right, wrongly
            sequences, logits = _generated(subject, inputs, beams, cache)
            key = (side, tuple(sequences.flatten().tolist()))
            if key not in taught:
                taught[key] = _taught(subject, inputs, sequences)
            far = float((logits - taught[key]).abs().max() / logits.abs().max())
            if not far <= TOLERANCE:
                raise subject.broken(
                    f"generating {how}, padded on the {side}, its scores differ by {far:.1e} of the largest logit from "
                    f"those of the same text read at once; at most {TOLERANCE:.0e} is rounding"
                )


def greedy_answers(subject: Subject) -> None:
    """An answer is the most likely token, one after another, whatever generation settings the checkpoint ships."""
    trained, backbone = subject.alone, subject.backbone
    read = reader(backbone, Task("answers", "checks", "generation", "exact_match", lambda split: ()))
    texts = WORDS[:3] if reads_scripts(backbone) else ("a dark night", "noon", "the sea")
    rows = [Row(read.input_tokens(text), ()) for text in texts]
    with quiet(), attached(backbone, trained.expression, trained.weights, trained.constants), torch.no_grad():
        answers = read.generate(rows, NEW)
        expected = [_greedy(backbone, row.input) for row in rows]
    decoded = [text.strip() for text in backbone.tokenizer.batch_decode(expected, skip_special_tokens=True)]
    for text, answer, right in zip(texts, answers, decoded, strict=True):
        if answer != right:
            raise subject.broken(
                f"its answer to {text!r} is {answer!r}, and the most likely tokens one after another are {right!r}; "
                "an evaluation must state every generation setting itself"
            )


def _greedy(backbone: Backbone, ids: Sequence[int]) -> list[int]:
    """Up to `NEW` tokens, each the most likely one behind those before it; one that ends is left out."""
    settings, decodes_apart = backbone.model.generation_config, backbone.kind == "encoder-decoder"
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    start = [settings.decoder_start_token_id] if decodes_apart else list(ids)
    new: list[int] = []
    for _ in range(NEW):
        read = torch.tensor([start + new])
        inputs = {"input_ids": torch.tensor([ids]), "decoder_input_ids": read} if decodes_apart else {"input_ids": read}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        token = int(forward(backbone, inputs)[0, -1].argmax())
        if token in ends:
            break
        new.append(token)
    return new


def aligned_logits(subject: Subject) -> None:
    """Logits, or an encoder's states, stand at the input's positions; the model's own loss is that of the labels."""
    trained, backbone = subject.alone, subject.backbone
    in_force = attached(backbone, trained.expression, trained.weights, trained.constants)
    with quiet(), in_force, torch.no_grad():
        states = forward(backbone, subject.batch)
        ids = subject.batch.get("decoder_input_ids", subject.batch["input_ids"])
        if states.shape[:2] != ids.shape:
            raise subject.broken(f"its output has {states.shape[1]} positions for an input of {ids.shape[1]} tokens")
        if backbone.kind == "encoder":
            return
        labels = ids if backbone.kind == "encoder-decoder" else _real(subject.batch)
        loss = backbone.model(**subject.batch, labels=labels, use_cache=False).loss
    shift = 0 if backbone.kind == "encoder-decoder" else 1
    expected = torch.nn.functional.cross_entropy(
        states[:, : states.shape[1] - shift].flatten(0, 1), labels[:, shift:].flatten()
    )
    if not torch.allclose(loss, expected, rtol=1e-5):
        raise subject.broken(
            f"the model's loss with labels is {float(loss):.6g}, and that of its logits {float(expected):.6g}"
        )


def _real(inputs: Mapping[str, Tensor]) -> Tensor:
    return inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)


def _generated(subject: Subject, prompted: Mapping[str, Tensor], beams: int, cache: bool) -> tuple[Tensor, Tensor]:
    """New tokens `(rows, new)`, and the logits that they were chosen from `(rows, new, vocabulary)`."""
    inputs = {name: x for name, x in prompted.items() if name != "decoder_input_ids"}
    generation: Any = subject.backbone.model.generate(
        **inputs,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        num_beams=beams,
        use_cache=cache,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=subject.backbone.model.config.pad_token_id,
    )
    rows = torch.arange(len(generation.sequences))
    chosen = [generation.beam_indices[:, k] if beams > 1 else rows for k in range(NEW)]
    logits = torch.stack([step[beam] for step, beam in zip(generation.logits, chosen, strict=True)], 1)
    return generation.sequences[:, -NEW:], logits


def _taught(subject: Subject, inputs: Mapping[str, Tensor], new: Tensor) -> Tensor:
    """The logits of the same tokens in one forward pass."""
    backbone = subject.backbone
    if backbone.kind == "encoder-decoder":
        start = torch.full_like(new[:, :1], backbone.model.config.decoder_start_token_id)
        return forward(backbone, {**inputs, "decoder_input_ids": torch.cat([start, new[:, :-1]], 1)})
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(new)], 1)
    ids = torch.cat([inputs["input_ids"], new], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    read = forward(backbone, {"input_ids": ids, "attention_mask": mask, "position_ids": positions})
    return read[:, -NEW - 1 : -1]


def _generates(subject: Subject) -> bool:
    return subject.backbone.kind != "encoder"


CHECKS = (
    Check(generated_scores, when=_generates),
    Check(greedy_answers, when=_generates),
    Check(aligned_logits),
)

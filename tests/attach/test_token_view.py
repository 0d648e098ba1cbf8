"""An edit that asks for it is given the mask and the positions of the tokens at its place, in every kind of pass."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from fixededits import Fixed
from picofamilies import TABLES, backbone, backbone_of, model, read
from torch import Tensor

from deltacompose.attach import attach, attached
from deltacompose.backbone.loading import load_backbone
from deltacompose.backbone.pico_diffusion import pico_denoiser
from deltacompose.composition import composition
from deltacompose.errors import BadInput
from deltacompose.method.contract import Edit, OutputEdit, TokenEdit
from deltacompose.training.loop import recomputing

IDS = torch.tensor([[0, 0, 5, 50, 60], [70, 80, 90, 100, 110]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


class Notes:
    """What a change was given behind the output, pass by pass."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, ...]] = []

    def __call__(self, t: Any, x: Tensor, y: Tensor, *tokens: Tensor) -> Tensor:
        assert all(one.shape == y.shape[:-1] for one in tokens)
        self.seen.append(tokens)
        return y


def noted(name: str, place: str, *more: Edit, **given: Any) -> tuple[list[Any], list[Any]]:
    """Mask and positions at a place in one pass."""
    of, notes = backbone(name), Notes()
    edit = OutputEdit(of.place(place), notes, needs=("mask", "positions"))
    with attached(of, composition(Fixed((edit, *more))), {}, {}) as attached_model, torch.no_grad():
        attached_model(**{"input_ids": IDS, "attention_mask": MASK, **given})
    [(mask, positions)] = notes.seen
    assert mask.dtype == torch.bool
    return mask.int().tolist(), positions.tolist()


def test_positions_count_tokens_that_are_not_padding():
    mask, positions = noted("mistral", "decoder.1.ffn")
    assert mask == MASK.tolist()
    assert positions[0][2:] == [0, 1, 2]
    assert positions[1] == [0, 1, 2, 3, 4]


def test_a_prompts_rows_are_tokens_with_positions_below_zero():
    mask, positions = noted("mistral", "decoder.1.ffn", TokenEdit("decoder", lambda t: torch.ones(2, 16)))
    assert mask == [[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
    assert positions[0][2:] == [-2, -1, 0, 1, 2]
    assert positions[1] == [-2, -1, 0, 1, 2, 3, 4]


def test_without_a_mask_all_are_tokens():
    assert noted("mistral", "decoder.0.attention", attention_mask=None)[0] == [[1] * 5] * 2


@pytest.mark.parametrize(("place", "more"), [("embedding", {}), ("head", {}), ("head", {"logits_to_keep": 2})])
def test_outside_of_the_stack_a_prompt_is_not_seen(place, more):
    prompt = TokenEdit("decoder", lambda t: torch.ones(2, 16))
    mask, positions = noted("mistral", place, prompt, **more)
    kept = more.get("logits_to_keep", 5)
    assert mask == MASK[:, -kept:].tolist()
    assert positions[1] == list(range(5))[-kept:]


def test_cross_attention_sees_the_encoders_tokens_and_its_own():
    prompt = TokenEdit("encoder", lambda t: torch.ones(2, 16))
    given = {"input_ids": IDS.flip(1), "attention_mask": MASK.flip(1), "decoder_input_ids": IDS[:, 1:]}
    mask, positions = noted("t5", "decoder.1.cross_attention.key", prompt, **given)
    assert mask == [[1, 1, 1, 1, 1, 0, 0], [1] * 7]
    assert positions[1] == [-2, -1, 0, 1, 2, 3, 4]
    assert noted("t5", "decoder.1.cross_attention.query", prompt, **given)[1] == [[0, 1, 2, 3]] * 2
    assert noted("t5", "encoder.0.ffn", prompt, **given)[0] == mask


def test_generation_over_a_cache_goes_on_counting():
    of, notes = backbone("gpt2"), Notes()
    edits = (
        OutputEdit(of.place("decoder.0.ffn"), notes, needs=("positions", "mask")),
        TokenEdit("decoder", lambda t: torch.ones(2, 16)),
    )
    with attached(of, composition(Fixed(edits)), {}, {}) as attached_model:
        attached_model.generate(input_ids=IDS, attention_mask=MASK, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    first, *rest = [positions.tolist() for positions, _ in notes.seen]
    assert first[1] == [-2, -1, 0, 1, 2, 3, 4]
    assert rest == [[[3], [5]], [[4], [6]]]
    assert all(bool(mask.all()) for _, mask in notes.seen[1:])


def test_the_first_tokens_are_the_same_with_and_without_a_cache():
    """An edit at chosen positions, as LoReFT's, in a left-padded batch."""
    of = backbone("gpt2")

    def first_two(t: Any, x: Tensor, y: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return y + 3 * (mask & (positions >= 0) & (positions < 2))[..., None]

    term = composition(Fixed((OutputEdit(of.place("decoder.0.layer"), first_two, needs=("mask", "positions")),)))
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with attached(of, term, {}, {}) as attached_model:
        cached = attached_model.generate(input_ids=IDS, attention_mask=MASK, **how)
        anew = attached_model.generate(input_ids=IDS, attention_mask=MASK, use_cache=False, **how)
        alone = attached_model.generate(input_ids=IDS[:1, 2:], attention_mask=MASK[:1, 2:], **how)
    assert torch.equal(cached, anew)
    assert torch.equal(cached[:1, 2:], alone)


def pooled(t: Any, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Adds a scaled mean over the tokens of a row."""
    return y + t["shared.scale"] * (y * mask[..., None]).sum(-2, True) / mask[..., None].sum(-2, True)


@pytest.mark.parametrize("vmap", [True, False])
def test_each_delta_of_a_bank_is_given_the_tokens_of_its_own_rows(vmap):
    of = backbone("roberta")
    term = composition(Fixed((OutputEdit(of.place("encoder.0.ffn"), pooled, vmap=vmap, needs=("mask",)),)))
    ts = [{"0.0.shared.scale": torch.tensor(float(k + 1))} for k in range(2)]
    attachment = attach(of, term)
    try:
        attachment.put(ts)
        with torch.no_grad():
            bank = of.model(input_ids=IDS, attention_mask=MASK).last_hidden_state
            for k, t in enumerate(ts):
                attachment.put(t)
                alone = of.model(input_ids=IDS[k : k + 1], attention_mask=MASK[k : k + 1]).last_hidden_state
                torch.testing.assert_close(bank[k : k + 1], alone)
    finally:
        attachment.detach()


def test_a_mean_over_tokens_does_not_see_padding():
    of = backbone("roberta")
    term = composition(Fixed((OutputEdit(of.place("encoder.0.ffn"), pooled, needs=("mask",)),)))
    with attached(of, term, {"0.0.shared.scale": torch.tensor(1.0)}, {}) as attached_model, torch.no_grad():
        padded = attached_model(input_ids=IDS, attention_mask=MASK).last_hidden_state[0, 2:]
        alone = attached_model(input_ids=IDS[:1, 2:], attention_mask=MASK[:1, 2:]).last_hidden_state[0]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_with_checkpointing_each_of_two_passes_is_run_again_with_its_own_tokens():
    of = backbone_of(model("mistral"))
    scale = torch.ones((), requires_grad=True)
    term = composition(Fixed((OutputEdit(of.place("decoder.0.ffn"), pooled, needs=("mask",)),)))
    gradients = []
    for checkpointing in (nullcontext(), recomputing(of.model)):
        with attached(of, term, {"0.0.shared.scale": scale}, {}) as attached_model, checkpointing:
            one = attached_model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits
            two = attached_model(input_ids=IDS[:, :4], attention_mask=MASK[:, 1:], use_cache=False).logits
            loss = one[:, -1].square().sum() + two[:, -1].square().sum()
            gradients.append(torch.autograd.grad(loss, scale)[0])
    torch.testing.assert_close(*gradients)


def test_flattened_rows_are_given_flattened_tokens():
    mask = noted("opt", "decoder.0.ffn.up")[0]
    flat = mask if not isinstance(mask[0], list) else [x for row in mask for x in row]
    assert flat == MASK.flatten().tolist()


def test_the_tokens_of_a_denoiser_or_of_a_mask_of_four_axes_are_refused():
    unet = load_backbone(pico_denoiser("UNet2DConditionModel"), tables=TABLES)
    edit = OutputEdit(unet.places("ffn")[0], Notes(), needs=("mask",))
    with pytest.raises(BadInput, match="a denoiser reads no tokens; an edit there cannot see their mask"):
        attach(unet, composition(Fixed((edit,))))
    with pytest.raises(BadInput, match=r"need an attention mask of shape \(batch, tokens\), not one of 4 axes"):
        noted("mistral", "decoder.0.ffn", attention_mask=torch.zeros(2, 1, 5, 5))


def test_where_tokens_are_not_in_the_order_of_the_batch_an_edit_that_needs_them_is_refused():
    with pytest.raises(BadInput, match="needs the mask and the positions of tokens of shape"):
        noted("longformer", "encoder.0.attention.query")


def test_lora_and_its_like_ask_for_nothing_and_no_stream_is_hooked():
    of = backbone("mistral")
    attachment = attach(of, read("lora + adapter"))
    try:
        assert attachment._attachments.streams == {}
    finally:
        attachment.detach()

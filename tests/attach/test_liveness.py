"""Every edit is shown to act when it is attached, or refused by name, and the look leaves no trace."""

from __future__ import annotations

import pytest
import torch
from fixededits import Fixed
from picofamilies import TABLES, backbone, backbone_of, model, read
from torch._subclasses.fake_tensor import FakeTensorMode

from deltacompose import api
from deltacompose.attach import attach, attached, liveness
from deltacompose.backbone.loading import load_backbone
from deltacompose.backbone.pico import pico_backbone
from deltacompose.backbone.pico_diffusion import denoiser_batch, pico_denoiser
from deltacompose.backbone.quiet import few_ids, quiet
from deltacompose.checks.detaching import snapshot
from deltacompose.composition import composition
from deltacompose.errors import BadInput
from deltacompose.method.catalogue import count
from deltacompose.method.contract import OutputEdit
from deltacompose.method.weights import init_weights


@pytest.mark.parametrize("text", ["prefix(length=2)", "prefix(length=2) + bitfit", "bitfit >> prefix(length=2)"])
@pytest.mark.parametrize("name", ["deberta-v2", "big_bird", "falcon", "bloom", "mpt", "xglm", "led", "longformer"])
def test_a_prefix_on_an_attention_that_would_not_see_it_is_refused_by_name(name, text):
    made = backbone(name)
    before = snapshot(made.model)
    with pytest.raises(BadInput, match=r"^prefix cannot act at \w+\.0\.attention and .* transformers' attention"):
        attach(made, read(text))
    assert before.difference(snapshot(made.model)) == ""


def test_training_a_composition_with_a_dead_prefix_is_refused_before_the_first_step():
    with pytest.raises(BadInput, match=r"prefix cannot act at encoder.0.attention and 1 more place of Deberta"):
        api.train(backbone("deberta-v2"), "bitfit + prefix(length=2)", api.tasks()["sentiment_movie"], steps=1)


def test_a_model_that_has_shapes_alone_is_planned_with_and_not_run():
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.random.fork_rng(devices=[]):
        of = backbone_of(model("gemma"))
    assert not liveness.can_be_shown(of)
    with mode:
        assert count(read("prompt(length=3)"), of) == 3 * 16


def test_an_edit_at_a_module_that_no_pass_runs_is_refused_by_name():
    made = model("mistral")
    made.model.layers[1].mlp.spare = torch.nn.Linear(16, 16)
    of = backbone_of(made)
    place = of.place("decoder.1.ffn.up")
    idle = type(place)(**vars(place) | {"module": "model.layers.1.mlp.spare"})
    with pytest.raises(BadInput, match=r"^fixed cannot act at decoder.1.ffn.up of MistralForCausalLM because a pass"):
        attach(of, composition(Fixed((OutputEdit(idle, lambda t, x, y: y + 1),))))


def test_an_edit_whose_change_is_lost_is_refused_by_name():
    made = model("mistral")
    made.model.layers[1].mlp.down_proj.weight.data.zero_()
    of = backbone_of(made)
    with pytest.raises(BadInput, match=r"ffn.up .* a change there is lost on the way to the output"):
        attach(of, composition(Fixed((OutputEdit(of.place("decoder.1.ffn.up"), lambda t, x, y: y + 1),))))
    attach(of, composition(Fixed((OutputEdit(of.place("decoder.0.ffn.up"), lambda t, x, y: y + 1),)))).detach()


def test_the_look_is_taken_once_for_a_model_and_draws_no_numbers():
    of = backbone_of(model("mistral"))
    passes = []
    of.model.lm_head.register_forward_hook(lambda *_: passes.append(1))
    drawn = torch.get_rng_state()
    for _ in range(2):
        attach(of, read("lora + bitfit + prefix(length=2) + prompt(length=2)")).detach()
    assert passes == []
    assert torch.equal(torch.get_rng_state(), drawn)
    known = dict(liveness._REACHES[of.model])
    attach(of, read("lora + bitfit")).detach()
    assert liveness._REACHES[of.model] == known


def test_a_model_in_training_mode_with_dropout_and_a_bank_attached_is_what_it_was():
    of = backbone_of(model("mistral"))
    of.model.train()
    of.model.model.layers[0].self_attn.attention_dropout = 0.5
    before = snapshot(of.model)
    bank = attach(of, read("lora + prefix(length=2)"))
    try:
        attach(of, read("adapter + prompt(length=2)")).detach()
        assert all(module.training for module in of.model.modules())
        bank.put([init_weights(of, read("lora + prefix(length=2)"), seed=k) for k in range(2)])
        attach(of, read("ia3")).detach()
    finally:
        bank.detach()
    assert before.difference(snapshot(of.model)) == ""


def test_a_model_that_changes_itself_in_a_short_pass_is_what_it_was():
    """BigBird replaces its sparse attention by a full one, for good, on inputs that are short."""
    made = backbone_of(model("big_bird"))
    attention = made.model.encoder.layer[0].attention.self
    with quiet(made.model), torch.no_grad():
        made.model(few_ids(made.model.config, 261, 1, 4, torch.device("cpu")))
        assert made.model.attention_type == "original_full"
    assert made.model.attention_type == "block_sparse"
    assert made.model.encoder.layer[0].attention.self is attention


@pytest.mark.parametrize("name", ["longformer", "led"])
def test_a_bank_where_rows_do_not_come_first_is_refused_and_single_deltas_are_right(name):
    """Longformer's projections see `(tokens, batch, width)`."""
    made, lora = backbone(name), read("lora(rank=2)")
    attachment = attach(made, lora)
    try:
        t = init_weights(made, lora)
        attachment.put([t])
        with pytest.raises(BadInput, match="does not see the rows of a batch one after another; 2 deltas cannot"):
            attachment.put([t, t])
    finally:
        attachment.detach()


def test_a_routed_expert_acts_although_few_tokens_choose_it():
    with attached(backbone("mixtral"), read("bitfit"), init_weights(backbone("mixtral"), read("bitfit"))):
        pass


def test_what_no_pass_can_show_in_advance_is_shown_by_the_first():
    """A denoiser reads no tokens; its first pass finds the edits that it does not run."""
    of = load_backbone(pico_denoiser("UNet2DConditionModel"), tables=TABLES)
    place = of.places("ffn.up")[0]
    idle = type(place)(**vars(place) | {"module": "idle"})
    of.model.idle = torch.nn.Linear(2, 2)
    attachment = attach(of, composition(Fixed((OutputEdit(idle, lambda t, x, y: y),))))
    try:
        attachment.put({})
        with pytest.raises(BadInput, match=f"the edit at {place.name} cannot act because a pass of UNet2D"):
            of.model(**denoiser_batch("UNet2DConditionModel"))
    finally:
        attachment.detach()


def test_what_the_look_knows_of_one_model_is_not_said_of_another():
    text = read("prefix(length=2)")
    attach(pico_backbone("llama"), text).detach()
    with pytest.raises(BadInput, match="prefix cannot act"):
        attach(backbone_of(model("bloom")), text)

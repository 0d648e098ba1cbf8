"""Edits in force: against references that know nothing of them, undone exactly, in banks, while being interrupted."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from fixededits import Fixed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from deltacompose import plugins
from deltacompose.attach import attach, attached
from deltacompose.attach.bound import BoundTensors
from deltacompose.backbone import Backbone, bind
from deltacompose.backbone.pico import LIMIT, pico_backbone
from deltacompose.checks.batches import batch, forward
from deltacompose.checks.detaching import snapshot
from deltacompose.checks.gradients import Pass, apart, distance, farthest, together
from deltacompose.composition import Term, composition, parse
from deltacompose.errors import BadInput
from deltacompose.method import KeyValueEdit, OutputEdit, TokenEdit, WeightEdit
from deltacompose.method.weights import generator, init_weights

METHODS = plugins.load(disabled=True).methods
FAMILIES = ("t5", "bert", "gpt2", "llama")
FIVE = "prompt(length=4) + prefix(length=3) + lora(rank=2) + bitfit + adapter(bottleneck=4)"
every_family = pytest.mark.parametrize("family", FAMILIES)

shared = functools.cache(pico_backbone)


@functools.cache
def in_double(family: str) -> Backbone:
    backbone = pico_backbone(family)
    backbone.model.double()
    return backbone


def read(text: str) -> Term:
    return parse(text, METHODS)


def weights_of(backbone: Backbone, term: Term, noise: float = 0.1, seed: int = 0) -> dict[str, Tensor]:
    """Weights as if trained."""
    drawn = init_weights(backbone, term, seed)
    return {
        n: x + noise * torch.randn(x.shape, generator=generator(seed, "noise", n)) for n, x in sorted(drawn.items())
    }


def output(backbone: Backbone, **inputs: Any) -> Tensor:
    with torch.no_grad():
        return forward(backbone, {**batch(backbone, 0), **inputs})


def output_with(backbone: Backbone, term: Term, weights: dict[str, Tensor], **inputs: Any) -> Tensor:
    with attached(backbone, term, weights, {}):
        return output(backbone, **inputs)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Keys and values


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_prefix_is_a_cache_whose_positions_are_not_counted(family):
    """The cache of transformers with the positions said: the same function by another way."""
    backbone = shared(family)
    prefix = read("prefix(length=3)")
    t = weights_of(backbone, prefix, 0.0)
    given = batch(backbone, 0)
    cache = DynamicCache()
    for place in backbone.places("attention"):
        keys, values = (
            t[f"0.0.{place.name}.{name}"].expand(len(given["input_ids"]), -1, -1, -1) for name in ("keys", "values")
        )
        cache.update(keys, values, place.layer)
    with torch.no_grad():
        mask = F.pad(given["attention_mask"], (3, 0), value=1)
        expected = backbone.model(**given | {"attention_mask": mask}, past_key_values=cache).logits
    found = output_with(backbone, prefix, t)
    real = given["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)
    assert distance(found[real], output(backbone)[real]) > 0.01


def reference_attention(
    module: nn.Module, states: Tensor, read_states: Tensor, bias: Tensor, prefix: tuple[Tensor, Tensor]
) -> Tensor:
    """T5's attention as its paper has it, with keys and values put before: no scaling, a bias added to the scores."""

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (4, 4)).transpose(1, 2)

    query, key, value = heads(module.q(states)), heads(module.k(read_states)), heads(module.v(read_states))
    keys, values = (x.expand(len(states), -1, -1, -1) for x in prefix)
    scores = query @ torch.cat([keys, key], 2).mT + F.pad(bias, (keys.shape[2], 0))
    return module.o((scores.softmax(-1) @ torch.cat([values, value], 2)).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "where", ["encoder.0.attention", "encoder.1.attention", "decoder.0.attention", "decoder.1.cross_attention"]
)
def test_a_prefix_in_t5_keeps_the_bias_of_relative_positions_and_the_mask(where):
    backbone = shared("t5")
    place = backbone.place(where)
    module = backbone.module(place)
    given = batch(backbone, 0)
    seen: dict[str, Tensor] = {}

    def note(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        crossed = kwargs.get("key_value_states")
        seen["states"] = args[0] if args else kwargs["hidden_states"]
        seen["read"] = seen["states"] if crossed is None else crossed
        seen["out"] = out[0]

    prefix = normal(4, 3, 4), normal(4, 3, 4, seed=1)
    fixed = composition(Fixed((KeyValueEdit(place, lambda t: prefix),)))
    handle = module.register_forward_hook(note, with_kwargs=True)
    with attached(backbone, fixed, {}, {}):
        output(backbone)
    handle.remove()
    tokens, others = seen["states"].shape[1], seen["read"].shape[1]
    mask = given["attention_mask"] if "decoder" not in where or "cross" in where else torch.ones(3, others)
    bias = (1 - mask[:, None, None].float()) * -1e9
    if "cross" not in where:
        first = backbone.model.get_submodule(f"{place.stack}.block.0.layer.0.SelfAttention")
        bias = bias + first.compute_bias(tokens, others, device="cpu")
    if where.startswith("decoder") and "cross" not in where:
        bias = bias + torch.full((tokens, others), -1e9).triu(1)
    expected = reference_attention(module, seen["states"], seen["read"], bias.detach(), prefix)
    torch.testing.assert_close(seen["out"], expected, rtol=1e-4, atol=1e-5)


@every_family
def test_the_mask_is_not_lost_while_prefixes_are_in_force(family):
    """Without a mask function of the same name transformers drops the mask and says nothing."""
    backbone = shared(family)
    prefix = read("prefix(length=2)")
    given = batch(backbone, 0)
    row = {name: x[1:2] for name, x in given.items()}
    kept = given["attention_mask"][1].bool()
    alone = {n: x[:, kept] if x.shape[1] == len(kept) and "decoder" not in n else x for n, x in row.items()}
    t = weights_of(backbone, prefix, 0.0)
    with attached(backbone, prefix, t, {}), torch.no_grad():
        assert "deltacompose" in ALL_MASK_ATTENTION_FUNCTIONS
        padded, whole = forward(backbone, row), forward(backbone, alone)
    real = padded if family == "t5" else padded[:, kept]
    torch.testing.assert_close(real, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("leaving_first", [0, 1])
def test_models_of_one_configuration_take_and_lose_prefixes_in_any_order(leaving_first):
    """They share the record of which attention function is used."""
    one = pico_backbone("gpt2")
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(one.model.config).eval()
    assert model.config is one.model.config
    two = bind(model, one.table)
    backbones, prefix = (one, two), read("prefix(length=2)")
    before = [(output(b), snapshot(b.model)) for b in backbones]
    attachments = []
    for k, backbone in enumerate(backbones):
        attachments.append(attach(backbone, prefix))
        attachments[k].put(weights_of(backbone, prefix))
    with_prefix = [output(b) for b in backbones]
    attachments[leaving_first].detach()
    real = batch(one, 0)["attention_mask"].bool()
    torch.testing.assert_close(output(backbones[leaving_first])[real], before[leaving_first][0][real])
    assert torch.equal(output(backbones[1 - leaving_first]), with_prefix[1 - leaving_first])
    attachments[1 - leaving_first].detach()
    for backbone, (untouched, state) in zip(backbones, before, strict=True):
        assert torch.equal(output(backbone), untouched)
        assert state.difference(snapshot(backbone.model)) == ""


def test_a_prefix_on_another_attention_than_eager_or_sdpa_is_refused_before_any_pass(monkeypatch):
    """A pass would compile that attention, which takes half a minute."""
    backbone = pico_backbone("llama")
    monkeypatch.setattr(backbone.model.base_model, "forward", None)
    backbone.model.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(
        BadInput, match="prefixes need the attention 'eager' or 'sdpa', and LlamaForCausalLM uses 'flex"
    ):
        attach(backbone, read("prefix"))


def test_prefixes_in_eager_attention_are_those_in_sdpa():
    backbone, prefix = pico_backbone("llama"), read("prefix(length=2)")
    t = weights_of(backbone, prefix)
    sdpa = output_with(backbone, prefix, t)
    backbone.model.set_attn_implementation("eager")
    torch.testing.assert_close(output_with(backbone, prefix, t), sdpa, rtol=1e-4, atol=1e-5)
    assert backbone.model.config._attn_implementation == "eager"


# Prompts


@every_family
def test_a_prompt_is_input_embeddings_put_before_those_of_the_tokens(family):
    backbone, prompt = shared(family), read("prompt(length=3)")
    t = weights_of(backbone, prompt)
    given = batch(backbone, 0)
    [rows] = t.values()
    embed, padding = backbone.model.get_input_embeddings(), (given["attention_mask"].cumsum(1) == 0).sum(1)

    def joined(prompt: Tensor, tokens: Tensor) -> Tensor:
        """The prompt directly before each row's first token, whatever padding stands on its left."""
        each = zip(padding.tolist(), prompt, tokens, strict=True)
        return torch.stack([torch.cat([row[:start], own, row[start:]]) for start, own, row in each])

    inputs: dict[str, Any] = {
        "inputs_embeds": joined(rows.expand(3, -1, -1), embed(given["input_ids"])),
        "attention_mask": joined(torch.ones(3, 3, dtype=torch.long), given["attention_mask"]),
    }
    if family == "t5":
        inputs["decoder_input_ids"] = given["decoder_input_ids"]
    if "position_ids" in given:
        inputs["position_ids"] = joined(torch.arange(3).expand(3, -1), given["position_ids"] + 3)
    with torch.no_grad():
        expected = backbone.model(**inputs)
    expected = expected.last_hidden_state[:, 3:] if family == "bert" else expected.logits
    found = output_with(backbone, prompt, t)
    if family not in ("t5", "bert"):
        expected = torch.stack(
            [torch.cat([x[:k], x[k + 3 :]]) for k, x in zip(padding.tolist(), expected, strict=True)]
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("text", ["prompt(length=3)", "prefix(length=3)", FIVE])
def test_a_padded_row_gives_with_a_cache_what_it_gives_alone(family, text):
    """The padding on the left, positions from the mask, two steps over the cache."""
    backbone, term = shared(family), read(text)
    given = batch(backbone, 0)
    mask, ids = given["attention_mask"], given["input_ids"]
    new = torch.tensor([[40, 41]] * len(ids))
    with attached(backbone, term, weights_of(backbone, term), {}), torch.no_grad():
        start = backbone.model(**given, use_cache=True, logits_to_keep=1)
        whole = F.pad(mask, (0, 2), value=1)
        positions = (whole.cumsum(1) - 1)[:, -2:]
        rest = backbone.model(
            input_ids=new, attention_mask=whole, position_ids=positions, past_key_values=start.past_key_values
        ).logits
        for row, real in enumerate(mask.bool()):
            alone = torch.cat([ids[row, real], new[row]])[None]
            expected = backbone.model(input_ids=alone, use_cache=False).logits[0, -3:]
            found = torch.cat([start.logits[row], rest[row]])
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_berts_pooler_reads_the_first_real_token():
    backbone, prompt = shared("bert"), read("prompt(length=3) + adapter")
    with attached(backbone, prompt, weights_of(backbone, prompt), {}) as model, torch.no_grad():
        found = model(**batch(backbone, 0))
        assert torch.equal(found.pooler_output, model.pooler(found.last_hidden_state))


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "GPT2Model"), ("bert", "BertModel")])
def test_a_prompt_and_an_input_beyond_the_table_of_positions_are_our_error(family, kind):
    backbone, prompt = shared(family), read("prompt(length=8)")
    ids = torch.full((1, LIMIT - 7), 40)
    with attached(backbone, prompt, weights_of(backbone, prompt), {}) as model, torch.no_grad():
        model(input_ids=ids[:, 1:])
        with pytest.raises(
            BadInput, match=f"a prompt of 8 and an input of 505 .* make 513, .* 512 positions of {kind}"
        ):
            model(input_ids=ids)


def test_generation_that_grows_beyond_the_table_of_positions_is_our_error():
    backbone, prompt = shared("gpt2"), read("prompt(length=8)")
    ids = torch.full((1, LIMIT - 9), 40)
    with (
        attached(backbone, prompt, weights_of(backbone, prompt), {}) as model,
        pytest.raises(BadInput, match="make 513"),
    ):
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, min_new_tokens=4)


def test_a_prompt_needs_a_mask_of_rows_and_tokens():
    backbone, prompt = shared("llama"), read("prompt")
    mask = torch.zeros(1, 1, 4, 4)
    with attached(backbone, prompt, weights_of(backbone, prompt), {}) as model, pytest.raises(BadInput, match="4 axes"):
        model(input_ids=torch.full((1, 4), 40), attention_mask=mask)


# Weights


@every_family
def test_changed_weights_in_force_are_the_model_that_has_them(family):
    """Tied ones too: T5's embedding is its encoder's, its decoder's and its head's."""
    backbone, full = shared(family), read("full")
    t = weights_of(backbone, full)
    changed = copy.deepcopy(backbone.model)
    with torch.no_grad():
        for name, x in t.items():
            where, _, parameter = name.removeprefix("0.0.").rpartition(".")
            path, own, transposed, part = backbone.parameter_location(backbone.place(where), parameter)
            held = changed.get_submodule(path).get_parameter(own)
            x = x.mT if transposed else x
            piece = held if part is None else held.unflatten(-1, (len(part.sizes), -1))[..., part.index, :]
            piece.add_(x)
    expected = output(bind(changed, backbone.table))
    torch.testing.assert_close(output_with(backbone, full, t), expected, rtol=1e-4, atol=1e-4)


@every_family
def test_a_weight_edit_by_its_factors_is_the_dense_one(family):
    backbone = shared(family)
    lora = read("lora(rank=2, places=('*attention.query', '*attention.value', 'ffn.up', 'ffn.down'))")
    dense = Fixed(tuple(replace(edit, factors=None) for edit in next(p for _, p in lora.parts()).edits(backbone)))
    t = weights_of(backbone, lora)
    torch.testing.assert_close(
        output_with(backbone, composition(dense), t), output_with(backbone, lora, t), rtol=1e-4, atol=1e-5
    )


@every_family
def test_a_bank_of_tied_embeddings_is_that_many_models(family):
    """The table is held by several modules, as an embedding and as the head's matrix."""
    backbone = in_double(family)
    place = backbone.places("embedding")[0]
    norm = backbone.places("*norm")[0]
    edits = (
        WeightEdit(place, "weight", lambda t, frozen: t[f"{place.name}.weight"]),
        WeightEdit(norm, "weight", lambda t, frozen: t[f"{norm.name}.weight"]),
    )
    fixed = composition(Fixed(edits))
    shapes = {f"0.0.{p.name}.weight": backbone.parameter(p, "weight").shape for p in (place, norm)}
    ts = [{n: 0.1 * normal(*shape, seed=k).double() for n, shape in shapes.items()} for k in range(3)]
    batches = [batch(backbone, k) for k in range(3)]
    far, where = farthest(together(backbone, fixed, ts, {}, batches), apart(backbone, fixed, ts, {}, batches))
    assert far < 1e-9, where


def test_a_bank_at_a_bias_of_positions_is_refused_and_not_mixed():
    backbone = shared("t5")
    place = backbone.place("encoder.0.attention.positions")
    attachment = attach(backbone, composition(Fixed((WeightEdit(place, "weight", lambda t, frozen: frozen),))))
    try:
        attachment.put([{}])
        with pytest.raises(BadInput, match=r"encoder.0.attention.positions is looked up once .*; 2 deltas cannot"):
            attachment.put([{}, {}])
    finally:
        attachment.detach()


def test_dropout_on_a_dense_weight_edit_is_refused():
    backbone = shared("bert")
    edit = WeightEdit(backbone.place("encoder.0.ffn.up"), "weight", lambda t, frozen: frozen, dropout=0.5)
    before = snapshot(backbone.model)
    with pytest.raises(BadInput, match=r"encoder\.0\.ffn\.up: dropout needs a weight edit of low rank"):
        attach(backbone, composition(Fixed((edit,))))
    assert before.difference(snapshot(backbone.model)) == ""


def test_a_batch_that_a_bank_cannot_share_out_is_refused():
    backbone, lora = shared("gpt2"), read("lora")
    attachment = attach(backbone, lora)
    try:
        attachment.put([weights_of(backbone, lora, seed=k) for k in range(2)])
        with pytest.raises(ValueError, match="a bank of 2 deltas needs batches of a multiple of 2 rows, not 3"):
            output(backbone)
    finally:
        attachment.detach()


# Undone exactly


@every_family
def test_ctrl_c_in_mid_forward_leaves_the_backbone_as_it_was(family):
    backbone = shared(family)
    before, untouched = snapshot(backbone.model), output(backbone)
    term = read(f"{FIVE} >> full")
    t = weights_of(backbone, term)
    place = backbone.places("ffn.down")[-1]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handle = backbone.module(place).register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), attached(backbone, term, t, {}):
        output(backbone)
    handle.remove()
    assert before.difference(snapshot(backbone.model)) == ""
    assert torch.equal(output(backbone), untouched)
    assert torch.isfinite(output_with(backbone, term, t)).all()


def test_an_error_in_an_edit_leaves_the_backbone_as_it_was():
    backbone = shared("t5")
    before = snapshot(backbone.model)

    def fail(t: Any, x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("no")

    term = read("full") + Fixed((OutputEdit(backbone.place("decoder.1.ffn"), fail),))
    with pytest.raises(RuntimeError, match="no"), attached(backbone, term, weights_of(backbone, term), {}):
        output(backbone)
    assert before.difference(snapshot(backbone.model)) == ""


ATOMS = ("lora(rank=2)", "adapter(bottleneck=2)", "bitfit", "prompt(length=2)", "prefix(length=2)", "full")


@settings(max_examples=15, deadline=None)
@given(data=st.data(), family=st.sampled_from(FAMILIES))
def test_stacks_come_and_go_in_any_order(data, family):
    """At each moment the output is that of the stacks that are left, attached anew in the order in which they came."""
    backbone = shared(family)
    before, untouched = snapshot(backbone.model), output(backbone)
    attachments: list[tuple[Term, Any]] = []
    for _ in range(data.draw(st.integers(2, 4), label="stacks")):
        texts = data.draw(st.lists(st.sampled_from(ATOMS), min_size=1, max_size=2), label="stages")
        attachments.append(put_in_force(backbone, read(" >> ".join(texts))))
    while attachments:
        attachments.pop(data.draw(st.integers(0, len(attachments) - 1), label="leaves"))[1].detach()
        found = output(backbone) if attachments else None
        left = [term for term, _ in attachments]
        for _, attachment in attachments:
            attachment.detach()
        assert before.difference(snapshot(backbone.model)) == ""
        assert torch.equal(output(backbone), untouched)
        attachments = [put_in_force(backbone, term) for term in left]
        assert found is None or torch.equal(output(backbone), found)


def put_in_force(backbone: Backbone, term: Term) -> tuple[Term, Any]:
    attachment = attach(backbone, term)
    attachment.put(weights_of(backbone, term))
    return term, attachment


def test_the_hosts_own_module_that_is_called_like_ours_is_left_alone():
    backbone = pico_backbone("gpt2")
    backbone.model.transformer.h[0].mlp.lora_down = nn.Linear(2, 2)
    untouched, before = output(backbone), snapshot(backbone.model)
    lora = read("lora")
    output_with(backbone, lora, weights_of(backbone, lora))
    assert before.difference(snapshot(backbone.model)) == ""
    assert torch.equal(output(backbone), untouched)


# Banks


@every_family
def test_a_bank_of_four_of_five_methods_has_the_losses_and_gradients_of_four_runs(family):
    """A run trains a bank of one. The last weights of each are far from their start."""
    backbone, five = shared(family), read(FIVE)
    ts = [weights_of(backbone, five, seed=k) for k in range(4)]
    batches = [batch(backbone, k) for k in range(4)]
    found = together(backbone, five, ts, {}, batches)
    runs = [together(backbone, five, [t], {}, [one]) for t, one in zip(ts, batches, strict=True)]
    expected = Pass(torch.cat([run.losses for run in runs]), [run.gradients[0] for run in runs])
    far, where = farthest(found, expected)
    assert far <= 1e-6, where
    assert len({float(loss) for loss in expected.losses}) == 4


@every_family
def test_a_bank_in_fp32_is_four_deltas_in_force_alone_as_far_as_rounding_lets_one_see(family):
    """Every tensor's difference relative to that tensor's own norm, however small its gradient is.

    A delta in force alone takes another way than a bank and rounds elsewhere. On BERT, GPT-2 and Llama the largest
    difference is 2e-7 (measured), and 1e-6 is asked for. On T5, whose attention scores are not scaled down, one in five
    tensors differs by more than 1e-6, the farthest by 4.5e-6: but there the separate runs are themselves up to 4.7e-6
    from the same runs in double precision, so no two ways of adding up could agree better, and twice that is asked for.
    """
    backbone, five = shared(family), read(FIVE)
    ts = [weights_of(backbone, five, seed=k) for k in range(4)]
    batches = [batch(backbone, k) for k in range(4)]
    alone = apart(backbone, five, ts, {}, batches)
    exact = apart(in_double(family), five, [{n: x.double() for n, x in t.items()} for t in ts], {}, batches)
    rounding = max(distance(x.double(), y) for x, y in in_pairs(alone, exact))
    far = max(distance(x, y) for x, y in in_pairs(together(backbone, five, ts, {}, batches), alone))
    assert far <= (2 * rounding if family == "t5" else 1e-6), (far, rounding)
    assert distance(together(backbone, five, ts, {}, batches).losses, alone.losses) <= 1e-6
    assert rounding < 1e-5


def in_pairs(found: Pass, expected: Pass) -> Iterator[tuple[Tensor, Tensor]]:
    """The losses and the gradients of two passes, tensor by tensor; none is expected to be nothing but rounding."""
    yield found.losses, expected.losses
    for a, b in zip(found.gradients, expected.gradients, strict=True):
        for name, x in b.items():
            assert x.any() or not a[name].any(), name
            yield a[name], x


@every_family
def test_a_bank_of_four_of_five_methods_is_four_deltas_in_force_alone(family):
    """In double precision, where rounding is nothing: one delta in force by itself takes another way than a bank."""
    backbone, five = in_double(family), read(FIVE)
    ts = [{n: x.double() for n, x in weights_of(backbone, five, seed=k).items()} for k in range(4)]
    batches = [batch(backbone, k) for k in range(4)]
    far, where = farthest(together(backbone, five, ts, {}, batches), apart(backbone, five, ts, {}, batches))
    assert far < 1e-12, where


@every_family
def test_a_bank_has_prompts_before_both_streams_and_dropout_of_its_own_for_each_delta(family):
    backbone = in_double(family)
    streams = [f"prompt(length={k + 2}, stream={name!r})" for k, name in enumerate(backbone.streams)]
    term = read(" + ".join([*streams, "lora(rank=2, dropout=0.4)"]))
    ts = [{n: x.double() for n, x in weights_of(backbone, term, seed=k).items()} for k in range(3)]
    batches = [batch(backbone, k) for k in range(3)]
    together_, apart_ = together(backbone, term, ts, {}, batches), apart(backbone, term, ts, {}, batches)
    assert farthest(together_, apart_)[0] < 1e-12
    with attached(backbone, term, ts[0], {}):
        dry = forward(backbone, batches[0])
    attachment = attach(backbone, term)
    wet = []
    for seed in (1, 1, 2):
        attachment.put(ts[0], [seed])
        wet.append(forward(backbone, batches[0]))
    attachment.detach()
    assert torch.equal(wet[0], wet[1])
    assert len({float(x.sum()) for x in (dry, *wet)}) == 3


def test_a_token_edit_of_another_stream_is_refused_by_name():
    backbone = shared("gpt2")
    with pytest.raises(BadInput, match=r"no stream 'encoder'; .*streams: decoder"):
        attach(backbone, composition(Fixed((TokenEdit("encoder", lambda t: normal(2, 16)),))))


def test_an_edit_reads_the_tensors_of_its_own_place_and_not_those_of_places_inside_it():
    own = ("encoder.prompt", "encoder.1.attention.down", "encoder.1.attention.query.down", "encoder.10.attention.down")
    held = BoundTensors()
    held.put({f"{prefix}{name}": torch.zeros(1) for prefix in ("0.1.", "0.10.") for name in (*own, "shared.scale")})
    assert set(held.of("0.1.", "encoder")) == {"encoder.prompt", "shared.scale"}
    assert set(held.of("0.1.", "encoder.1.attention")) == {"encoder.1.attention.down", "shared.scale"}
    assert set(held.of("0.10.", "encoder.1.attention.query")) == {"encoder.1.attention.query.down", "shared.scale"}


def test_a_parameter_that_is_replaced_between_two_attachments_is_changed_where_it_is_now():
    backbone = pico_backbone("bert")
    full = read("full(places=('ffn.norm',))")
    before = run_with(backbone, full)
    norm = backbone.module(backbone.place("encoder.0.ffn.norm"))
    norm.weight = nn.Parameter(2 * norm.weight.detach(), requires_grad=False)
    assert not torch.equal(run_with(backbone, full), before)


def run_with(backbone: Backbone, term: Term) -> Tensor:
    with attached(backbone, term, weights_of(backbone, term)), torch.no_grad():
        return forward(backbone, batch(backbone, seed=0))

"""The native methods: their counts, their settings, what makes each the method of its paper, and the table of all."""

import doctest
import importlib
import json
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from deltacompose_plugins import (
    EXPRESSIONS,
    IA3,
    METHODS,
    Adapter,
    Compacter,
    DiffPruning,
    Full,
    Intrinsic,
    IntrinsicPrompt,
    LastLayers,
    LoRA,
    Masked,
    Norm,
    ParallelAdapter,
    Prefix,
    Prompt,
    PTuning,
    Selective,
    VeRA,
)
from deltacompose_plugins.methods.addition import compacter
from deltacompose_plugins.methods.reparameterization import projections
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

from deltacompose.attach import attach, attached
from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks.batches import batch, forward, tiny
from deltacompose.cli import app
from deltacompose.composition import Part, composition, parse
from deltacompose.errors import BadInput
from deltacompose.method.catalogue import COLUMNS, count, table
from deltacompose.method.weights import finalized, generator, init_constants, init_weights, penalty, prepared
from deltacompose.plugins import load
from deltacompose.plugins.members import Member, Members
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.training import train
from deltacompose.training.learner import Job, Learner

NATIVE = {name: target for name, target in METHODS.items() if name != "peft"}
KNOWN = load(disabled=True)


@pytest.fixture(scope="module")
def rows():
    return {row["method"]: row for row in table({name: KNOWN.methods[name] for name in NATIVE})}


def job(backbone, method, seed=0, **recipe):
    how = Recipe(**{"steps": 8, "batch": 4, "warmup": 0.0, "evaluate_every": 8, "keep": "last", **recipe})
    return Job(composition(method), reader(backbone, tiny()), seed, how)


def trained(backbone, method, **recipe):
    (delta,) = train(backbone, [job(backbone, method, **recipe)])
    return delta


def moved(weights, size=0.1):
    source = torch.Generator().manual_seed(1)
    return {name: x + size * torch.randn(x.shape, generator=source) for name, x in weights.items()}


def output(backbone, method, weights, constants=None):
    with attached(backbone, method, weights, constants), torch.no_grad():
        return forward(backbone, batch(backbone, seed=0))


# The table


@pytest.mark.parametrize("name", NATIVE)
def test_the_closed_form_of_a_methods_parameters_is_their_number(name):
    module = importlib.import_module(NATIVE[name].partition(":")[0])
    failed, attempted = doctest.testmod(module)
    assert attempted >= 3
    assert not failed


def test_the_table_has_a_row_for_every_method(rows):
    assert list(rows) == list(NATIVE)
    assert all(tuple(row) == COLUMNS for row in rows.values())
    assert all(row["formula"] and "arXiv" in row["source"] for row in rows.values())


def test_the_table_counts_on_t5_bases_shape(rows):
    d, inner, layers, vocabulary = 768, 3072, 12, 32128
    attentions, sublayers = 3 * layers, 5 * layers
    whole = vocabulary * d + attentions * 4 * d * d + 2 * layers * 2 * d * inner + (sublayers + 2) * d + 2 * 32 * 12
    known = {
        "full": whole,
        "lora": attentions * 2 * 8 * 2 * d,
        "adapter": sublayers * (2 * 16 * d + 16 + d),
        "prompt": 10 * d,
        "prefix": attentions * 2 * 10 * d,
        "norm": (sublayers + 2) * d,
        "ia3": attentions * 2 * d + 2 * layers * inner,
        "vera": attentions * 2 * (d + 256),
        "intrinsic": 200 + 2 * layers,
    }
    assert {name: rows[name]["parameters"] for name in known} == known
    assert 220e6 < whole < 225e6


def test_the_table_says_what_can_be_merged_and_banked(rows):
    yes = {"norm", "last_layers", "selective", "diff_pruning", "masked", "lora", "vera", "intrinsic", "full"}
    assert {name for name, row in rows.items() if row["mergeable"] == "yes"} == yes
    assert [name for name, row in rows.items() if row["mergeable"] == "where it has biases"] == ["bitfit"]
    assert {name for name, row in rows.items() if row["banked"] == "no"} == {"diff_pruning", "full"}


def test_a_method_that_needs_a_setting_has_a_row_without_a_number(rows):
    assert rows["intrinsic_prompt"]["parameters"] is None


@pytest.mark.parametrize("family", ["t5", "bert", "gpt2", "llama", "t5-gated", "gpt-neox", "opt"])
@pytest.mark.parametrize("name", [name for name in NATIVE if name != "intrinsic_prompt"])
def test_every_method_has_weights_and_edits_on_every_family(name, family):
    backbone, method = pico_backbone(family), KNOWN.methods[name](**({"bottleneck": 8} if name == "compacter" else {}))
    assert init_weights(backbone, method)
    assert method.edits(backbone)


def test_the_paper_expressions_are_compositions():
    mam = parse("mam", KNOWN.methods, KNOWN.expressions)
    assert list(EXPRESSIONS) == ["mam"]
    assert mam.parts
    assert [part for _, part in mam.parts()] == [Prefix(length=30), ParallelAdapter(bottleneck=512, scale=4.0)]


# What makes each the method of its paper


def test_a_change_of_all_parameters_is_the_same_as_other_parameters():
    """Tied embeddings, fused matrices and transposed ones included."""
    for family in ("t5", "gpt2", "bert"):
        backbone, other = pico_backbone(family), pico_backbone(family)
        weights = moved(init_weights(backbone, Full()), 0.05)
        for name, change in weights.items():
            place, _, parameter = name.removeprefix("0.0.").rpartition(".")
            other.parameter(other.place(place), parameter).add_(change)
        with torch.no_grad():
            expected = forward(other, batch(other, seed=0))
        assert torch.allclose(output(backbone, Full(), weights), expected, atol=2e-5)


def test_last_layers_are_the_decoders_in_a_sequence_to_sequence_model():
    names = {name.split(".")[2] + "." + name.split(".")[3] for name in init_weights(pico_backbone("t5"), LastLayers())}
    assert names == {"decoder.1"}


@given(st.floats(0.01, 1), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_selective_tuning_takes_its_share_of_the_modules(fraction, seed):
    backbone = pico_backbone("bert")
    method = Selective(modules=("*attention.query", "ffn.up"), fraction=fraction, seed=seed)
    chosen = {name.rpartition(".")[0] for name in method.init(backbone, torch.Generator())}
    assert len(chosen) == max(1, round(fraction * 4))
    assert chosen == {name.rpartition(".")[0] for name in method.init(backbone, torch.Generator())}


def test_another_seed_selects_other_modules():
    backbone = pico_backbone("t5")
    chosen = [frozenset(init_weights(backbone, Selective(seed=seed))) for seed in range(5)]
    assert len(set(chosen)) > 1


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_compacters_matrices_are_sums_of_kronecker_products(n, p, q, k, l):  # noqa: E741
    a, b = torch.randn(n, p, q), torch.randn(n, k, l)
    expected = sum(torch.kron(x, y) for x, y in zip(a, b, strict=True))
    assert torch.allclose(compacter.kronecker(a, b), expected, atol=1e-6)


def test_all_adapters_of_a_compacter_share_their_small_matrices():
    weights = init_weights(pico_backbone("bert"), Compacter(n=2, bottleneck=4))
    assert [name for name in weights if name.startswith("0.0.shared")] == ["0.0.shared.A"]


def test_adapters_train_norms_if_asked():
    backbone = pico_backbone("bert")
    assert count(Adapter(norms=True), backbone) == count(Adapter(), backbone) + count(Norm(), backbone)


def test_a_parallel_adapter_reads_the_sublayers_input_and_a_serial_one_its_output():
    t = {"x.down": torch.eye(3), "x.down_bias": torch.zeros(3), "x.up": torch.eye(3), "x.up_bias": torch.zeros(3)}
    read, gave = torch.rand(1, 2, 3), torch.rand(1, 2, 3)
    assert torch.equal(ParallelAdapter(scale=2.0)._change("x", t, read, gave), gave + 2 * read)
    assert torch.equal(Adapter()._change("x", t, read, gave), 2 * gave)


def test_the_rows_of_a_dora_matrix_keep_their_norms():
    backbone, method = pico_backbone("gpt2"), LoRA(dora=True)
    t = {name.removeprefix("0.0."): x for name, x in moved(init_weights(backbone, method)).items()}
    for edit in method.edits(backbone):
        frozen = backbone.parameter(edit.place, "weight")
        norms = (frozen + edit.change(t, frozen)).norm(dim=1)
        assert torch.allclose(norms, frozen.norm(dim=1) + t[f"{edit.place.name}.magnitude"], atol=1e-5)


def test_a_networks_prompt_and_the_prompt_it_is_folded_into_are_one():
    for method in (PTuning(length=3), PTuning(length=3, encoder="mlp"), Prefix(length=3, mlp=5)):
        backbone = pico_backbone("t5")
        weights = moved(init_weights(backbone, method))
        folded = finalized(method, weights)
        with attached(backbone, method, folded, finalized=True), torch.no_grad():
            after = forward(backbone, batch(backbone, seed=0))
        assert torch.equal(after, output(backbone, method, weights))
        if isinstance(method, PTuning):
            assert {name: x.shape for name, x in folded.items()} == {"0.0.encoder.prompt": (3, 16)}


# Sparse changes


def test_a_gate_is_open_as_often_as_the_penalty_counts():
    """Hard-concrete gates (Guo et al. 2021): P(z > 0) is what the penalty sums."""
    method = DiffPruning(penalty_weight=1.0, fraction=1.0)
    for alpha in (-0.012, -0.006, 0.0):
        t = {"x.weight_change": torch.ones(200_000), "x.weight_gate": torch.full((200_000,), alpha)}
        drawn = method.prepare(t, torch.Generator().manual_seed(0))["x.weight_delta"]
        assert abs(float((drawn > 0).float().mean()) - float(method.penalty(t))) < 4e-3
        assert drawn.min() >= 0
        assert drawn.max() <= 1


def test_diff_pruning_keeps_its_fraction_and_nothing_else():
    backbone = pico_backbone("bert")
    method = DiffPruning(fraction=0.02, places=("ffn.up",))
    delta = trained(backbone, method)
    kept = torch.cat([x.flatten() for x in delta.weights.values()])
    assert all(name.endswith("_delta") for name in delta.weights)
    assert int((kept != 0).sum()) == round(0.02 * kept.numel())


def test_the_penalty_closes_gates():
    backbone = pico_backbone("bert")

    def share_open(weight):
        method = DiffPruning(penalty_weight=weight, places=("ffn.up",))
        learner = Learner(backbone, job(backbone, method))
        for _ in range(4):
            own = penalty(learner.job.expression, learner.tensors(), 0)
            leaves = list(learner.weights.values())
            learner.learn(own.detach(), torch.autograd.grad(own, leaves, materialize_grads=True))
        ends = learner.tensors()
        return float(DiffPruning(penalty_weight=1.0).penalty(ends).detach())

    assert share_open(0.0) == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert share_open(1.0) < share_open(0.0) - 0.02


def masked_entries(method, constants):
    return set(constants["0.0.shared.index"].tolist())


def test_the_magnitude_mask_is_of_the_largest_weights():
    backbone, method = pico_backbone("llama"), Masked(criterion="magnitude", fraction=0.1, places=("ffn.down",))
    flat = torch.cat([backbone.parameter(place, "weight").flatten() for place in backbone.places("ffn.down")]).abs()
    chosen = masked_entries(method, init_constants(backbone, method))
    assert chosen == set(flat.topk(round(0.1 * len(flat))).indices.tolist())


@pytest.mark.parametrize("criterion", ["gradient", "fisher", "sensitivity"])
def test_a_mask_found_on_data_is_of_the_largest_scores(criterion):
    """Against gradients in the backbone's own parameters."""
    backbone = pico_backbone("llama")
    method = Masked(criterion=criterion, fraction=0.05, places=("ffn.down",), examples=8)
    work = job(backbone, method)
    chosen = masked_entries(method, init_constants(backbone, method, work))
    parameters = [backbone.module(place).weight.requires_grad_() for place in backbone.places("ffn.down")]
    rows, total = work.reader.rows("train"), 0
    each = [[k] for k in range(8)] if criterion == "fisher" else [list(range(8))]
    for indices in each:
        longest = [max(lengths) for lengths in zip(*(work.reader.lengths(rows[k]) for k in indices), strict=True)]
        loss = work.reader.loss(work.reader.batch("train", indices, tuple(longest)), 1).sum()
        gradient = torch.cat([x.flatten() for x in torch.autograd.grad(loss, parameters)])
        total = total + (gradient**2 if criterion == "fisher" else gradient)
    if criterion == "sensitivity":
        total = total * torch.cat([x.detach().flatten() for x in parameters])
    expected = set(total.abs().topk(len(chosen)).indices.tolist())
    assert len(chosen & expected) >= 0.98 * len(expected), "only ties may be broken otherwise"


def test_a_mask_is_found_over_the_stages_before():
    backbone, method = pico_backbone("bert"), Masked(fraction=0.02, examples=8)
    first = trained(backbone, LoRA(), steps=8)
    strong = {name: 40 * x for name, x in first.weights.items()}
    alone = Job(composition(method), reader(backbone, tiny()), 0, Recipe())
    after = Job(LoRA() >> method, reader(backbone, tiny()), 0, Recipe(), type(first)(composition(LoRA()), strong))
    found = [method.constants(backbone, work)["shared.index"] for work in (alone, after)]
    assert not torch.equal(*found)
    assert torch.equal(method.constants(backbone, alone)["shared.index"], found[0])


def test_a_masks_change_stands_where_the_mask_is():
    backbone, method = pico_backbone("t5"), Masked(criterion="magnitude", fraction=0.01)
    constants = init_constants(backbone, method)
    t = {"shared.values": torch.arange(1.0, 1 + len(constants["0.0.shared.index"]))}
    t["shared.index"] = constants["0.0.shared.index"]
    whole = torch.cat([e.change(t, backbone.parameter(e.place, e.parameter)).flatten() for e in method.edits(backbone)])
    assert torch.equal(whole[t["shared.index"]], t["shared.values"])
    assert int((whole != 0).sum()) == len(t["shared.values"])


def test_a_choice_made_again_is_of_what_moved_most_and_can_come_back():
    backbone, method = pico_backbone("bert"), Masked(fraction=0.01, examples=4, reselect=3)
    learner = Learner(backbone, job(backbone, method, steps=8))
    n = len(learner.weights["0.0.shared.values"])
    assert n == 2 * learner.constants["0.0.shared.chosen"].sum()
    seen = []
    for step in range(8):
        values = learner.weights["0.0.shared.values"]
        gradients = [torch.randn(n, generator=torch.Generator().manual_seed(step))]
        learner.learn(torch.zeros(()), gradients)
        seen.append(learner.constants["0.0.shared.chosen"].clone())
        if step + 1 in (2, 4, 6):
            size = values.detach().abs()
            assert size[seen[-1] > 0].min() >= size[seen[-1] == 0].max()
    changed = [step + 1 for step in range(1, 8) if not torch.equal(seen[step], seen[step - 1])]
    assert changed == [2, 4, 6]
    assert all(x.sum() == n / 2 for x in seen)
    kept = learner.kept()["0.0.shared.values"]
    assert int((kept != 0).sum()) <= n // 2


def test_candidates_that_are_not_chosen_change_nothing_and_have_a_gradient():
    backbone, method = pico_backbone("bert"), Masked(criterion="magnitude", fraction=0.01, reselect=1)
    constants = init_constants(backbone, method)
    values = (0.3 * torch.ones(len(constants["0.0.shared.index"]))).requires_grad_()
    out = constants["0.0.shared.chosen"] == 0
    with attached(backbone, method, {"0.0.shared.values": values}, constants):
        forward(backbone, batch(backbone, seed=0)).square().sum().backward()
    assert bool((values.grad[out] != 0).any())
    without = {"0.0.shared.values": values.detach().masked_fill(out, 0)}
    again = {"0.0.shared.values": values.detach()}
    assert torch.equal(output(backbone, method, without, constants), output(backbone, method, again, constants))


# Random and learned subspaces


@pytest.mark.parametrize("projection", ["sketch", "fastfood", "dense"])
def test_an_intrinsic_change_is_linear_and_keeps_lengths(projection):
    backbone, d = pico_backbone("bert"), 30
    method = Intrinsic(d=d, projection=projection, per_layer=False, places=("*attention.*",))
    constants = {name.removeprefix("0.0."): x for name, x in init_constants(backbone, method).items()}

    def changed(theta):
        t = {"shared.theta": theta, **constants}
        return torch.cat(
            [e.change(t, backbone.parameter(e.place, e.parameter)).flatten() for e in method.edits(backbone)]
        )

    columns = torch.stack([changed(unit) for unit in torch.eye(d)])
    theta = torch.randn(d, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(changed(theta), theta @ columns, atol=1e-5)
    assert abs(float(columns.square().sum(1).mean()) - 1) < 0.05


def test_every_layer_has_a_scale_of_its_own():
    backbone, method = pico_backbone("t5"), Intrinsic(d=10)
    assert init_weights(backbone, method)["0.0.shared.scales"].shape == (4,)
    constants = init_constants(backbone, method)
    theta = {"0.0.shared.theta": torch.ones(10)}
    off = output(backbone, method, {**theta, "0.0.shared.scales": torch.zeros(4)}, constants)
    assert torch.equal(
        off,
        output(backbone, method, {"0.0.shared.theta": torch.zeros(10), "0.0.shared.scales": torch.ones(4)}, constants),
    )


def test_the_projection_depends_on_its_seed_alone():
    backbone = pico_backbone("bert")
    one, again, other = (init_constants(backbone, Intrinsic(d=10, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(x, again[name]) for name, x in one.items())
    assert any(not torch.equal(x, other[name]) for name, x in one.items())


def test_a_bank_holds_a_shared_projection_once_and_trains_as_if_alone():
    backbone, method = pico_backbone("bert"), Intrinsic(d=10)
    jobs = [job(backbone, method, seed) for seed in (0, 1, 2)]
    apart = [train(backbone, [one])[0] for one in jobs]
    for one, alone in zip(train(backbone, jobs), apart, strict=True):
        for name, x in alone.weights.items():
            assert torch.allclose(one.weights[name], x, atol=1e-5)
    attachment = attach(backbone, method)
    constants, weights = init_constants(backbone, method), [init_weights(backbone, method, seed) for seed in range(3)]
    attachment.put([{**own, **constants} for own in weights])
    attachment.detach()
    held = {name: x.stride(0) for name, x in attachment.bound_tensors.tensors.items()}
    assert {name for name, stride in held.items() if stride == 0} == set(constants)


def test_masks_that_differ_in_a_bank_stay_each_deltas_own():
    backbone, method = pico_backbone("bert"), Masked(fraction=0.02, examples=4)
    jobs = [job(backbone, method, seed) for seed in (0, 1)]
    apart = [train(backbone, [one])[0] for one in jobs]
    bank = train(backbone, jobs)
    assert not torch.equal(*(one.constants["0.0.shared.index"] for one in bank))
    for one, alone in zip(bank, apart, strict=True):
        assert torch.equal(one.constants["0.0.shared.index"], alone.constants["0.0.shared.index"])
        assert torch.allclose(one.weights["0.0.shared.values"], alone.weights["0.0.shared.values"], atol=1e-5)


def test_vera_shares_its_matrices_between_layers_and_shapes():
    backbone, method = pico_backbone("llama"), VeRA(rank=5, places=("*attention.*y", "ffn.up"))
    constants = init_constants(backbone, method)
    assert {name: tuple(x.shape) for name, x in constants.items()} == {"0.0.shared.A": (5, 16), "0.0.shared.B": (32, 5)}


@pytest.fixture
def decoder(tmp_path):
    def write(**tensors):
        path = tmp_path / "prompts.safetensors"
        save_file(tensors, path)
        return path

    return write


def test_an_intrinsic_prompt_is_what_its_decoder_makes_of_d_numbers(decoder):
    backbone = pico_backbone("bert")
    network = {"hidden_weight": torch.randn(7, 3), "hidden_bias": torch.randn(7)}
    network |= {"output_weight": torch.randn(5 * 16, 7), "output_bias": torch.randn(5 * 16)}
    method = IntrinsicPrompt.of(decoder(**network, encoder_weight=torch.randn(3, 80)))
    assert count(method, backbone) == 3
    z = torch.randn(3)
    prompt = projections.decode(network, z).view(5, 16)
    found = output(backbone, method, {"0.0.encoder.z": z})
    assert torch.allclose(found, output(backbone, Prompt(length=5), {"0.0.encoder.prompt": prompt}), atol=1e-6)


# Misuse


def test_an_intrinsic_prompts_file_is_the_one_that_was_meant(decoder):
    backbone = pico_backbone("bert")
    path = decoder(mean=torch.zeros(32), basis=torch.eye(2, 32))
    method = IntrinsicPrompt.of(path)
    assert parse(str(method), KNOWN.methods) == composition(method)
    decoder(mean=torch.ones(32), basis=torch.eye(2, 32))
    with pytest.raises(BadInput, match=r"has sha256='[0-9a-f]{64}', and the setting is '[0-9a-f]{64}'"):
        init_weights(backbone, method)


def test_an_intrinsic_prompts_file_must_hold_a_decoder_of_the_backbones_width(decoder):
    backbone = pico_backbone("bert")
    with pytest.raises(BadInput, match="decodes to 30 numbers, no rows of 16"):
        init_weights(backbone, IntrinsicPrompt.of(decoder(mean=torch.zeros(30), basis=torch.eye(2, 30))))
    with pytest.raises(BadInput, match="holds mean, which is not a decoder"):
        init_weights(backbone, IntrinsicPrompt.of(decoder(mean=torch.zeros(30))))
    path = decoder(mean=torch.zeros(32))
    path.write_text("no tensors here, only text that is long enough")
    with pytest.raises(BadInput, match=r"prompts\.safetensors is "):
        init_weights(backbone, IntrinsicPrompt.of(path))
    with pytest.raises(BadInput, match="no decoder can be read from file='' "):
        init_weights(backbone, IntrinsicPrompt())


MISUSES = {
    "last_layers: n=3, and the decoder of t5 has 2 layers": lambda t5: LastLayers(n=3).init(t5, generator(0)),
    "compacter: n=3 must divide the bottleneck 24 and the width 16": lambda t5: Compacter(n=3).init(t5, generator(0)),
    "masked finds its mask on training data and was given none": lambda t5: Masked().constants(t5),
    "p_tuning: bert has no stream 'decoder'; streams: encoder": lambda t5: PTuning(stream="decoder").edits(
        pico_backbone("bert")
    ),
    "init_from='text' needs a text and a backbone with a tokenizer": lambda t5: Prompt(init_from="text").init(
        t5, generator(0)
    ),
    "has a weight of 1 axes; a low rank needs a matrix": lambda t5: LoRA(places=("ffn.norm",)).init(t5, generator(0)),
    "no place 'attn'": lambda t5: IA3(places=("attn",)).edits(t5),
    "fraction=0.0": lambda t5: Masked(fraction=0.0),
    "criterion='luck'": lambda t5: Masked(criterion="luck"),
    "projection='hadamard'": lambda t5: Intrinsic(projection="hadamard"),
    "n=0": lambda t5: LastLayers(n=0),
    "penalty_weight=-1.0": lambda t5: DiffPruning(penalty_weight=-1.0),
}


@pytest.mark.parametrize("message", MISUSES)
def test_misuse_is_told_in_a_sentence(message):
    with pytest.raises(BadInput) as error:
        MISUSES[message](pico_backbone("t5"))
    assert message in str(error.value)


@dataclass(frozen=True)
class Bare(Part):
    name: ClassVar[str] = "bare"
    category: ClassVar[str] = "addition"


@dataclass(frozen=True)
class Elsewhere(LoRA):
    name: ClassVar[str] = "elsewhere"

    places: tuple[str, ...] = ("pooler",)


@dataclass(frozen=True)
class Valued(LoRA):
    """Its rank is found from the pretrained values."""

    name: ClassVar[str] = "valued"

    def init(self, backbone, generator):
        rank = int(backbone.parameter(backbone.places(*self.places)[0], "weight").sum() > 0) + 1
        return LoRA(rank=rank).init(backbone, generator)


FAULTS = {
    "gone": ("no_such_module_at_all:Gone", "cannot be used: method gone of somewhere 1.0 cannot be read: ModuleNotF"),
    "bare": (Bare, "cannot be used: bare is not a deltacompose.method.Method"),
    "elsewhere": (Elsewhere, "not on T5: no place 'pooler' in t5; places: "),
    "valued": (Valued, ""),
    "lora": (LoRA, ""),
}


def test_a_faulty_methods_row_keeps_its_fault_and_the_others_have_theirs(monkeypatch, tmp_path):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path))  # which remembers the listing of the installed methods
    members = Members({name: Member("method", name, what, "somewhere 1.0") for name, (what, _) in FAULTS.items()})
    monkeypatch.setattr("deltacompose.registry.methods", lambda: members)
    rows = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert [(row["name"], row["fault"][: len(FAULTS[row["name"]][1])]) for row in rows] == [
        (name, fault) for name, (_, fault) in FAULTS.items()
    ]
    assert [row["category"] for row in rows] == [None, "addition", *["reparameterization"] * 3]
    assert [row["parameters"] is None for row in rows] == [True, True, True, True, False]
    printed = CliRunner().invoke(app, ["methods"]).stdout.splitlines()
    assert printed[0].split()[-1] == "fault"
    assert printed[1].split()[0] == "gone"


def test_prepared_gates_differ_by_step_and_not_by_run():
    backbone, method = pico_backbone("bert"), DiffPruning(places=("ffn.up",))
    t = {**moved(init_weights(backbone, method))}
    one, again, other = (prepared(method, t, generator(seed, "prepare")) for seed in (0, 0, 1))
    name = next(name for name in one if name.endswith("_delta"))
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])
    assert math.isfinite(float(one[name].sum()))

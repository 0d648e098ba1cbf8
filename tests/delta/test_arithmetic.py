"""Trained deltas combined: laws of the sums, the papers' worked rules, the search, and what cannot be combined."""

from functools import partial

import pytest
import torch
from deltacompose_plugins import LoRA, Prompt, VeRA
from hypothesis import given
from hypothesis import strategies as st

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks.batches import tiny
from deltacompose.composition import composition
from deltacompose.delta import Delta
from deltacompose.delta.arithmetic import (
    combined,
    dense,
    few_shot,
    loss_of,
    loss_on,
    mean,
    task_arithmetic,
    ties,
    weighted,
    weighted_deltas,
)
from deltacompose.delta.merge import active_edits, answer, change_of, probe
from deltacompose.errors import BadInput
from deltacompose.method.contract import KeyValueEdit, OutputEdit, TokenEdit, WeightEdit
from deltacompose.method.weights import init_constants, init_weights
from deltacompose.scoring import reader

floats = st.floats(-4, 4, width=32)
vectors = st.lists(st.lists(floats, min_size=6, max_size=6), min_size=1, max_size=4)


def tensors(rows) -> list[dict]:
    return [{"a": torch.tensor(row[:2]), "b": torch.tensor(row[2:]).view(2, 2)} for row in rows]


def flat(weights) -> torch.Tensor:
    return torch.cat([weights["a"], weights["b"].flatten()])


def trained(backbone, term, seed: int, **record) -> Delta:
    weights = init_weights(backbone, term, seed)
    source = torch.Generator().manual_seed(seed)
    moved = {name: x + 0.3 * torch.randn(x.shape, generator=source) for name, x in weights.items()}
    known = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    return Delta(composition(term), moved, init_constants(backbone, term), known, {}, record)


@given(vectors)
def test_the_mean_is_the_weighted_sum_with_equal_weights_whatever_the_order(rows):
    expected = torch.tensor(rows).mean(0)
    torch.testing.assert_close(flat(mean(tensors(rows))), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(flat(mean(tensors(rows[::-1]))), expected, atol=1e-5, rtol=1e-5)


@given(vectors, st.lists(floats, min_size=6, max_size=6))
def test_task_arithmetic_with_coefficients_that_sum_to_one_needs_no_start(rows, start):
    weights, origin = tensors(rows), tensors([start])[0]
    each = [1 / len(rows)] * len(rows)
    made = task_arithmetic(weights, origin, each)
    torch.testing.assert_close(flat(made), flat(mean(weights)), atol=1e-5, rtol=1e-5)


@given(vectors)
def test_a_delta_alone_is_what_it_was(rows):
    weights = tensors(rows[:1])
    for made in (mean(weights), task_arithmetic(weights), ties(weights, density=1.0), weighted(weights, [1.0])):
        torch.testing.assert_close(flat(made), flat(weights[0]))


@given(vectors, st.lists(floats, min_size=6, max_size=6))
def test_equal_deltas_stay_equal(rows, start):
    weights, origin = tensors([rows[0]] * 3), tensors([start])[0]
    made = ties(weights, origin, density=1.0)
    torch.testing.assert_close(flat(made), flat(weights[0]), atol=1e-5, rtol=1e-5)


def test_ties_trims_elects_and_averages_as_in_the_paper():
    """By hand: halves of six entries kept, signs by the larger sum, means over those of that sign."""
    rows = [[3.0, -0.1, 2.0, -4.0, 0.2, 0.0], [-1.0, 5.0, 1.0, -2.0, 0.3, 0.1], [-6.0, 0.2, 4.0, 0.1, 0.0, 2.0]]
    # kept: [3, ., 2, -4, ., .], [., 5, ., -2, ., .] with a tie of 1.0 and -1.0 kept both, [-6, ., 4, ., ., 2]
    made = flat(ties(tensors(rows), density=0.5))
    torch.testing.assert_close(made, torch.tensor([-3.5, 5.0, (2 + 1 + 4) / 3, -3.0, 0.0, 2.0]))


def test_forgetting_subtracts_a_task():
    start, one = tensors([[1.0] * 6])[0], tensors([[3.0] * 6])
    assert flat(task_arithmetic(one, start, -1.0)).eq(-1.0).all()


def test_the_search_finds_the_coefficients_that_made_the_target():
    source = torch.Generator().manual_seed(0)
    weights = [{"x": torch.randn(40, generator=source)} for _ in range(3)]
    target = weighted(weights, [0.8, -0.5, 0.0])["x"]
    found = few_shot(weights, lambda w: float((w["x"] - target).pow(2).mean()), evaluations=200, size=0.0)
    assert found.coefficients == pytest.approx((0.8, -0.5, 0.0), abs=0.05)
    assert found.loss == pytest.approx(0.0, abs=0.01)
    again = few_shot(weights, lambda w: float((w["x"] - target).pow(2).mean()), evaluations=200, size=0.0)
    assert again == found


def test_a_search_over_more_deltas_than_evaluations_begins_with_one_of_each():
    weights = [{"x": torch.ones(2)} for _ in range(6)]
    assert few_shot(weights, lambda w: float(w["x"].sum()), evaluations=3).evaluations == 8


def test_the_search_stays_within_its_bound_and_budget_and_is_never_worse_than_nothing():
    weights = [{"x": torch.ones(4)}, {"x": -torch.ones(4)}]
    found = few_shot(weights, lambda w: -float(w["x"].sum()), evaluations=15, bound=1.0)
    assert all(abs(c) <= 1.0 for c in found.coefficients)
    assert found.evaluations <= 15
    assert found.loss < 0
    assert few_shot(weights, lambda w: float(w["x"].abs().sum()), evaluations=10).coefficients == (0.0, 0.0)


def test_weights_are_sought_by_the_loss_on_a_few_examples_of_a_task():
    backbone = pico_backbone("t5")
    read = reader(backbone, tiny())
    method = LoRA(rank=2, places=("*attention.query", "ffn.up", "ffn.down"))
    deltas = [trained(backbone, method, seed) for seed in range(2)]
    loss = loss_on(read, deltas[0], range(4))
    rows = [read.rows("train")[index] for index in range(4)]
    longest = [max(lengths) for lengths in zip(*map(read.lengths, rows))]
    with torch.no_grad(), deltas[0].attached(backbone):
        expected = float(read.loss(read.collate(rows, tuple(longest)), 1))
    assert loss(deltas[0].weights) == pytest.approx(expected, rel=1e-6)
    found = few_shot([delta.weights for delta in deltas], loss, evaluations=20)
    zeros = {name: torch.zeros_like(x) for name, x in deltas[0].weights.items()}
    assert found.loss <= loss(zeros)


def test_a_combined_delta_attaches_and_says_how_it_came_about(tmp_path):
    backbone = pico_backbone("bert")
    term = dc.parse("full(places=('*attention.query',))")
    deltas = [trained(backbone, term, seed, task=task) for seed, task in enumerate(("one", "two"))]
    merged = combined(deltas, partial(ties, density=0.5), backbone)
    assert merged.record == {"combined": ["one", "two"], "how": "ties"}
    with torch.no_grad(), merged.attached(backbone):
        live = answer(backbone.model, probe(backbone))
    assert not torch.allclose(live, answer(backbone.model, probe(backbone)))
    assert (merged.save(tmp_path) / "delta.json").exists()


# What the combined delta does


def effects(backbone, delta) -> dict[tuple[str, str], torch.Tensor]:
    """Effect of a delta at each place: ΔW, rows, keys and values, or the change of a fixed random output."""
    found: dict[tuple[str, str], torch.Tensor] = {}
    source = torch.Generator().manual_seed(0)
    for one in active_edits(delta, backbone):
        match one.edit:
            case WeightEdit(place=place, parameter=parameter):
                key, effect = (place.name, parameter), change_of(one, backbone)
            case TokenEdit(stream=stream):
                key, effect = (stream, "tokens"), one.edit.change(one.tensors)
            case KeyValueEdit(place=place):
                key, effect = (place.name, "keys and values"), torch.stack(one.edit.change(one.tensors))
            case OutputEdit(place=place):
                output = torch.randn(1, 3, backbone.width(place), generator=source)
                inner = torch.randn(1, 3, backbone.embedding_width, generator=source)
                key, effect = (place.name, "output"), one.edit.change(one.tensors, inner, output) - output
        found[key] = found.get(key, 0) + effect
    return found


SUMS = [
    "lora(rank=2)",
    "lora(rank=3, rslora=True)",
    "adapter(bottleneck=3, norms=True)",
    "parallel_adapter(bottleneck=3)",
    "intrinsic(d=6, per_layer=False)",
    "full(places=('*attention.query',))",
    "bitfit",
    "norm",
    "ia3",
    "prompt(length=2)",
    "prefix(length=2)",
    "masked(criterion='magnitude')",
    "last_layers",
    "lora(rank=2) + bitfit >> adapter(bottleneck=2)",
]
SCALES = ["vera(rank=3)", "compacter(n=2, bottleneck=4)", "intrinsic(d=6)"]


@pytest.mark.parametrize("text", [*SUMS, *SCALES])
@pytest.mark.parametrize("factor", [-1.0, 0.5, 2.0, 0.0])
def test_a_scaled_delta_does_so_many_times_what_the_delta_does(text, factor):
    backbone = pico_backbone("bert")
    delta = trained(backbone, dc.parse(text), 0)
    made = combined([delta], partial(task_arithmetic, coefficients=factor), backbone)
    assert made.expression == delta.expression
    one, scaled = effects(backbone, delta), effects(backbone, made)
    assert one.keys() == scaled.keys()
    for key, effect in one.items():
        torch.testing.assert_close(scaled[key], factor * effect, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", SUMS)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_weighted_sum_of_deltas_does_the_weighted_sum_of_what_they_do(text, family):
    backbone = pico_backbone(family)
    deltas = [trained(backbone, dc.parse(text), seed) for seed in range(3)]
    for how, coefficients in (
        (mean, [1 / 3] * 3),
        (partial(weighted, coefficients=[-1.0, 0.5, 2.0]), [-1.0, 0.5, 2.0]),
        (partial(task_arithmetic, coefficients=-0.3), [-0.3] * 3),
    ):
        made = effects(backbone, combined(deltas, how, backbone))
        each = [effects(backbone, delta) for delta in deltas]
        for key, effect in made.items():
            expected = sum(c * one[key] for c, one in zip(coefficients, each, strict=True))
            torch.testing.assert_close(effect, expected, rtol=1e-4, atol=1e-5)


def test_a_negated_lora_takes_back_what_it_does_and_can_be_saved(tmp_path):
    backbone = pico_backbone("llama")
    deltas = [trained(backbone, dc.parse("lora(rank=2, alpha=4.0)"), seed) for seed in range(2)]
    minus = combined(deltas[:1], partial(task_arithmetic, coefficients=-1.0), backbone)
    both = combined([deltas[0], minus], partial(weighted, coefficients=[1.0, 1.0]), backbone)
    assert str(both.expression) == "lora(rank=4, alpha=8.0)"
    with torch.no_grad():
        plain = answer(backbone.model, probe(backbone))
        with dc.load_delta(both.save(tmp_path)).attached(backbone):
            torch.testing.assert_close(answer(backbone.model, probe(backbone)), plain, rtol=1e-4, atol=1e-4)


def test_task_arithmetic_subtracts_what_the_start_does():
    backbone = pico_backbone("bert")
    deltas = [trained(backbone, dc.parse("lora(rank=2) + prompt(length=2)"), seed) for seed in range(3)]
    start, *others = deltas
    made = combined(others, partial(task_arithmetic, start=start.weights, coefficients=[0.5, -2.0]), backbone)
    each = [effects(backbone, delta) for delta in deltas]
    for key, effect in effects(backbone, made).items():
        expected = each[0][key] + 0.5 * (each[1][key] - each[0][key]) - 2.0 * (each[2][key] - each[0][key])
        torch.testing.assert_close(effect, expected, rtol=1e-4, atol=1e-5)


DENSE = [
    "lora(rank=2, dora=True)",
    "vera(rank=3)",
    "intrinsic(d=6)",
    "peft(type='loha', options='r=2')",
    "lora + bitfit",
]


@pytest.mark.parametrize("text", DENSE)
def test_a_delta_written_as_plain_changes_does_the_same_and_adds_up(text):
    backbone = pico_backbone("llama")
    deltas = [trained(backbone, dc.parse(text), seed) for seed in range(2)]
    plain = [dense(delta, backbone, dc.methods()["full"]) for delta in deltas]
    with torch.no_grad():
        for delta, other in zip(deltas, plain, strict=True):
            with delta.attached(backbone):
                live = answer(backbone.model, probe(backbone))
            with other.attached(backbone):
                torch.testing.assert_close(answer(backbone.model, probe(backbone)), live, rtol=1e-3, atol=1e-4)
    made = effects(backbone, combined(plain, partial(weighted, coefficients=[-1.0, 0.5]), backbone))
    each = [effects(backbone, delta) for delta in deltas]
    for key, effect in each[0].items():
        torch.testing.assert_close(made[key], -effect + 0.5 * each[1][key], rtol=1e-4, atol=1e-5)
    assert combined(plain, partial(ties, density=0.5), backbone).record["how"] == "ties"


def test_coefficients_are_sought_of_what_deltas_do():
    backbone = pico_backbone("t5")
    read = reader(backbone, tiny())
    deltas = [trained(backbone, LoRA(rank=2), seed) for seed in range(2)]
    loss = loss_of(read, range(4))
    found = few_shot(deltas, loss, evaluations=15, combine=weighted_deltas)
    assert loss(weighted_deltas(deltas, found.coefficients)) == pytest.approx(found.loss, rel=1e-5)
    assert found.loss <= loss(weighted_deltas(deltas, [0.0, 0.0]))


# Bad input


@pytest.mark.parametrize(
    ("text", "how", "said"),
    [
        ("lora(rank=2)", ties, r"cannot combine deltas of lora\(rank=2\) by ties because that is not a weighted sum"),
        ("lora(rank=2, dora=True)", mean, "because DoRA's change of a matrix is not linear"),
        ("vera(rank=3)", mean, "because each scales the rows of A differently"),
        ("compacter(n=2, bottleneck=4)", mean, "because each has matrices A of its own"),
        ("intrinsic(d=6)", mean, "because the scales of their layers differ"),
        ("peft(type='loha', options='r=2')", mean, "is not known to be linear in its tensors; .*arithmetic.dense"),
    ],
)
def test_what_no_settings_of_a_method_represent_is_refused_with_the_remedy(text, how, said):
    backbone = pico_backbone("bert")
    deltas = [trained(backbone, dc.parse(text), seed) for seed in range(2)]
    with pytest.raises(BadInput, match=said):
        combined(deltas, how, backbone)


def test_deltas_that_do_not_belong_together_are_refused():
    llama, bert = pico_backbone("llama"), pico_backbone("bert")
    lora = trained(llama, LoRA(rank=2), 0)
    with pytest.raises(BadInput, match=r"deltas of lora\(rank=2\) and of prompt cannot be combined"):
        combined([lora, trained(llama, Prompt(), 0)], mean)
    with pytest.raises(BadInput, match=r"deltas of LlamaForCausalLM and of BertModel cannot be combined"):
        combined([lora, trained(bert, LoRA(rank=2), 0)], mean)
    with pytest.raises(BadInput, match=r"was trained on LlamaForCausalLM .*, not on BertModel"):
        combined([lora], mean, bert)
    with pytest.raises(BadInput, match=r"there are no deltas to combine"):
        combined([], mean)


def test_deltas_with_other_projections_are_refused():
    backbone = pico_backbone("bert")
    one, other = (trained(backbone, VeRA(rank=2), seed) for seed in (0, 1))
    constants = {name: x + 1 for name, x in other.constants.items()}
    with pytest.raises(BadInput, match=r"differ in constants, as 0\.0\.shared\..*, so their weights mean different"):
        combined([one, Delta(other.expression, other.weights, constants, other.backbone)], mean)


def test_weights_of_other_names_and_shapes_and_settings_out_of_range_are_refused():
    one, wider = {"a": torch.ones(2)}, {"a": torch.ones(3)}
    with pytest.raises(BadInput, match=r"deltas 0 and 1 differ in names or shapes, as in a"):
        mean([one, wider])
    with pytest.raises(BadInput, match=r"1 coefficients for 2 deltas; each needs one"):
        weighted([one, one], [1.0])
    with pytest.raises(BadInput, match=r"density=0; it is the share of entries to keep"):
        ties([one], density=0)
    with pytest.raises(BadInput, match=r"evaluations=0; the search needs at least one"):
        few_shot([one], lambda w: 0.0, evaluations=0)
    with pytest.raises(BadInput, match=r"there are no weights to combine"):
        weighted([], [])

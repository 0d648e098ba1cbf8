"""Each check of the public suite fails for a member that is broken in just that way, and says so in one sentence."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import broken
import numpy as np
import pytest
from checks.test_faults import FAULTS
from checks.test_hostile import KINDS
from deltacompose_plugins.backbones import table, tables

from deltacompose import plugins
from deltacompose.analysis.similarity.measure import Measure
from deltacompose.backbone.pico import CONFIGURATIONS, pico
from deltacompose.checks import (
    METHOD_CHECKS,
    Broken,
    check_backbone_table,
    check_measure,
    check_method,
    check_task,
    hidden_inputs,
    parametrize_with_checks,
    training,
)
from deltacompose.checks.backbones import OnModel
from deltacompose.checks.measures import MEASURE_CHECKS, OfMeasure
from deltacompose.checks.other_process import Failed
from deltacompose.checks.runner import Unchecked, run
from deltacompose.checks.subject import Subject, anew
from deltacompose.checks.suite import TABLE_CHECKS, Suite
from deltacompose.checks.tasks import TASK_CHECKS, OfTask, alike_elsewhere
from deltacompose.errors import BadInput
from deltacompose.method import OutputEdit
from deltacompose.plugins.members import Member, Members
from deltacompose.task import Example, Task

CHECKS = {check.name: check for check in METHOD_CHECKS}
SHOWN = {fault.check for fault in FAULTS}
"""The checks that `test_faults` shows to fail."""
BUILTIN = plugins.load(disabled=True)

BROKEN = [
    ("declarations", broken.NoSuchCategory(), "bert", "says category = 'magic'; expected one of addition, spec"),
    (
        "frozen_settings",
        broken.SevenSettings(),
        "bert",
        r"has 7 settings, place, factor, c, d, e, f, g; expected at most",
    ),
    ("frozen_settings", broken.NotFrozen(), "bert", "NotFrozen is not a frozen dataclass"),
    ("refused_settings", broken.Unchecked(), "bert", r"setting 'place' takes anything, as an object\(\); call super"),
    ("text_round_trip", broken.Speechless(), "bert", "its text 'scale' reads back as 'scale', which is not the same"),
    (
        "repeatable_init",
        broken.Unrepeatable(),
        "bert",
        "init with one seed gives two different tensors 'encoder.0.ffn.s",
    ),
    (
        "repeatable_init",
        broken.DrawsInVain(),
        "bert",
        "draws from the generator and gives the same weights for another",
    ),
    ("own_generator", broken.DrawsGlobally(), "bert", "init draws from the global generator of torch"),
    ("named_tensors", broken.Misnamed(), "bert", "'encoder.layer.0.intermediate.scale' is named by no place"),
    (
        "fresh_tensors",
        broken.Doubled(),
        "bert",
        "'encoder.0.ffn.scale' is torch.float64 on cpu; expected torch.float32",
    ),
    (
        "fresh_tensors",
        broken.Sharing(),
        "bert",
        "down' shares its memory with the backbone's encoder.layer.0.attention",
    ),
    ("refused_places", broken.NoPlaceIsFine(), "bert", "place='nowhere' matches no place and is not an error"),
    ("counted", broken.Miscounting(), "bert", "count gives 16 parameters and init 32"),
    (
        "repeatable_constants",
        broken.RestlessConstants(),
        "bert",
        "constants are made twice and give two different .*noise",
    ),
    ("repeatable_preparation", broken.RestlessPreparation(), "bert", "prepare with one generator gives two different"),
    ("kept_tensors", broken.RestlessEnd(), "bert", "finalize gives two different tensors '0.0.encoder.0.ffn.scale'"),
    ("kept_tensors", broken.ForgetfulEnd(), "bert", "kept tensors cannot be checked: KeyError: 'encoder.0.ffn.scale'"),
    (
        "scalar_penalty",
        broken.PenaltyForEach(),
        "bert",
        r"penalty gives tensor\(.*; expected a tensor of one finite number",
    ),
    (
        "fitting_beginning",
        broken.EmptyBeginning(),
        "bert",
        r"carried gives tensors of shapes \{\}; expected finite ones",
    ),
    (
        "fitting_shapes",
        broken.Broadcasting(),
        "bert",
        r"OutputEdit at encoder.0.ffn gives shape \(3, 6, 1\); expected \(3",
    ),
    ("fitting_shapes", broken.OneHead(), "bert", r"KeyValueEdit at encoder.0.attention gives shape \(\(1, 2, 4\), \(1"),
    (
        "fitting_shapes",
        broken.Misreading(),
        "bert",
        "OutputEdit at encoder.0.ffn fails: KeyError: 'encoder.0.ffn.sclae'",
    ),
    (
        "neutral_start",
        broken.NotNeutral(),
        "bert",
        "its start moves the output by .* from the backbone's, .*neutral = False",
    ),
    (
        "neutral_over_a_trained_stage",
        broken.Overwriting(),
        "bert",
        r"moves the output by .* from a trained lora\(rank=2\)'s",
    ),
    ("effect", broken.Idle(), "bert", "with every weight moved the output is still the backbone's"),
    (
        "pure_changes",
        broken.InPlace(),
        "bert",
        "a forward pass changes its own tensor '0.0.encoder.0.ffn.scale' in place",
    ),
    (
        "pure_changes",
        broken.OverItsOutput(),
        "bert",
        "its OutputEdit at encoder.0.ffn changes what it is given in place; give a new tensor",
    ),
    (
        "pure_changes",
        broken.OverItsInput("attention.query"),
        "bert",
        "its OutputEdit at encoder.0.attention.query changes what it is given in place; give a new tensor",
    ),
    ("pure_changes", broken.Noisy(), "bert", "the same tensors give another output the second time"),
    (
        "low_rank_factors",
        broken.WrongFactors(),
        "gpt2",
        r"decoder.0.attention.query the product .* by 5.0e-01 of its size",
    ),
    (
        "merged_model",
        broken.WrongFactors(),
        "gpt2",
        "the merged model's output differs by .* from that of the attached delta",
    ),
    (
        "other_precision",
        broken.SinglePrecision(),
        "bert",
        "other precision cannot be checked: RuntimeError: .*same dtype",
    ),
    (
        "every_weight_learns",
        broken.Unread(),
        "bert",
        "the loss does not depend on '0.0.shared.unused'; nothing reads it",
    ),
    (
        "every_weight_learns",
        broken.Stuck(),
        "bert",
        "after 2 steps the gradient of '0.0.encoder.0.ffn.scale' is still zero",
    ),
    ("untouched_backbone", broken.Meddling(), "bert", "training it changes the backbone's own encoder.layer.0.interme"),
    (
        "untouched_backbone",
        broken.Thawing(),
        "bert",
        "backbone's encoder.layer.0.intermediate.dense.weight takes a grad",
    ),
    ("bank_equals_separate", broken.Branching(), "bert", "cannot be run in a bank .*vmap.* say vmap=False on the edit"),
    ("bank_equals_separate", broken.Counting(), "bert", "in a bank of 3 .* differs by .* of its size"),
    ("loop_equals_vmap", broken.FromTheStart(), "bert", "in a bank that loops over its 3 deltas .* differs by"),
    ("gradient_checkpointing", broken.Counting(), "bert", "with gradient checkpointing .* differs by"),
    (
        "exact_detachment",
        broken.Hooking(),
        "bert",
        "the number of hooks of encoder.layer.0.intermediate.dense was 0 and is 1",
    ),
    (
        "exact_detachment",
        broken.Moody(),
        "bert",
        "after detaching, the training mode of the model was False and is True",
    ),
    (
        "attached_again",
        broken.Worn(),
        "bert",
        "attached for the second time it gives another output than the first time",
    ),
    (
        "composes_at_once",
        broken.Detached("layer"),
        "bert",
        r"gradients of lora\(rank=2\) are all zero; it has no effect",
    ),
    (
        "composes_in_sequence",
        broken.Detached("layer"),
        "bert",
        r"scale\(place='layer'\) >> lora.* are all zero; it has no effect",
    ),
    ("same_in_either_order", broken.Worn(), "bert", r"scale \+ lora\(rank=2\) and lora\(rank=2\) \+ scale differ by"),
    (
        "composed_text",
        broken.Speechless(factor=2.0),
        "bert",
        r"'scale \+ lora\(rank=2\)' does not read back as the comp",
    ),
    (
        "generated_scores",
        broken.Positional(),
        "gpt2",
        "generating greedily with a cache, padded on the left, its scores",
    ),
    ("aligned_logits", broken.Shortening("head"), "gpt2", "its output has 5 positions for an input of 6 tokens"),
    (
        "spawned_worker",
        broken.local(),
        "bert",
        "does not reach a spawned worker: it cannot be sent: .* top of a module",
    ),
    (
        "alike_in_another_process",
        broken.OfThisProcess(),
        "bert",
        "in another process the same seed gives other tensors",
    ),
    ("saved_delta", broken.Remembering(), "bert", "the saved delta of scale gives other logits in a fresh process"),
]


@pytest.fixture(autouse=True)
def unspoilt():
    broken.CALLS.clear()
    yield
    anew()


@pytest.mark.parametrize(
    ("name", "method", "family", "message"), BROKEN, ids=[f"{b[0]}-{type(b[1]).__name__}" for b in BROKEN]
)
def test_a_check_fails_for_a_method_that_is_broken_in_its_way(name, method, family, message):
    assert CHECKS[name].says_something_of(Subject(method, family))
    with pytest.raises(Broken, match=message) as raised:
        CHECKS[name](Subject(method, family))
    assert str(raised.value).startswith(f"{method} on {family}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["bank_equals_separate", "loop_equals_vmap"])
def test_a_function_that_fails_by_itself_is_not_told_as_a_fault_of_the_bank(name):
    with pytest.raises(Broken, match=r"cannot be checked: KeyError: 'encoder\.0\.ffn\.sclae'$"):
        CHECKS[name](Subject(broken.Misreading(), "bert"))


def test_a_bank_that_loops_and_fails_is_not_advised_to_loop():
    with pytest.raises(
        Broken, match=r"cannot be run in a bank \(ValueError: the second delta.*\); say banked = False$"
    ):
        CHECKS["loop_equals_vmap"](Subject(broken.Unequal(), "bert"))


def giving(ability, gives):
    """A method one of whose functions gives something else than it should."""
    given = gives if callable(gives) else lambda self, *_, **__: gives
    return dataclass(frozen=True)(type("Giving", (broken.Good,), {ability: given}))()


@pytest.mark.parametrize(
    ("ability", "gives", "reason"),
    [
        ("init", None, "init of Giving gives a NoneType; expected tensors by name"),
        ("init", {"shared.x": 3.0}, "init of Giving gives a float as 'shared.x'; expected tensors by name"),
        ("constants", [1], "constants of Giving gives a list; expected tensors by name"),
        ("prepare", None, "prepare of Giving gives a NoneType; expected tensors by name"),
        ("finalize", None, "finalize of Giving gives a NoneType; expected tensors by name"),
        ("update", None, "update of Giving gives a NoneType; expected tensors by name"),
        ("edits", None, "edits of Giving gives a NoneType; expected a list of edits"),
        ("edits", ["x"], "edits of Giving gives a str; expected OutputEdit, WeightEdit, TokenEdit, KeyValueEdit"),
        ("edits", [OutputEdit("encoder.0.ffn", max)], "edits of Giving acts at 'encoder.0.ffn'; expected a place"),
        ("change", None, "its OutputEdit at encoder.0.ffn gives a NoneType; expected a tensor"),
        ("init", lambda *_: sys.exit(3), "fitting shapes cannot be checked: SystemExit: 3"),
    ],
)
def test_what_is_no_tensor_and_no_edit_is_told_in_one_sentence(ability, gives, reason):
    name = {"finalize": "kept_tensors", "update": "every_weight_learns"}.get(ability, "fitting_shapes")
    with pytest.raises(Broken, match=re.escape(reason)) as raised:
        CHECKS[name](Subject(giving(ability, gives), "bert"))
    assert "\n" not in str(raised.value)


def test_a_method_that_cannot_be_written_is_named_by_its_class():
    assert str(Subject(giving("__str__", lambda self: 1 / 0), "bert")) == "Giving on bert"


@pytest.mark.parametrize(
    ("check", "name", "reason"),
    [
        (
            "declarations",
            "lambda",
            "it says name = 'lambda'; expected letters, digits and '_', and no word of Python's",
        ),
        ("listed_by_its_name", "lora", r"the name 'lora' is that of method lora of deltacompose [^;]*; choose another"),
        ("listed_by_its_name", "mam", "the name 'mam' is that of expression mam of deltacompose"),
    ],
)
def test_a_name_that_python_or_another_member_has_is_refused(check, name, reason):
    method = dataclass(frozen=True)(type("Named", (broken.Good,), {"name": name}))()
    with pytest.raises(Broken, match=reason):
        CHECKS[check](Subject(method, "bert"))


def test_every_check_is_shown_to_fail_and_says_what_it_checks():
    shown = {name for name, *_ in (*BROKEN, *KINDS)} | {"listed_by_its_name", "acts_or_is_refused"}
    assert shown | (SHOWN & set(CHECKS)) == set(CHECKS)
    assert all(check.sentence.endswith(".") for check in METHOD_CHECKS)
    assert len(CHECKS) == len(METHOD_CHECKS)


def test_a_class_that_is_listed_under_another_name_is_found(monkeypatch):
    listed = Members({"other": Member("method", "other", "broken:Good", "somewhere 1.0")})
    monkeypatch.setattr(
        "deltacompose.checks.settings.plugins.load", lambda: SimpleNamespace(methods=listed, expressions=Members({}))
    )
    with pytest.raises(Broken, match=r"somewhere 1\.0 lists broken:Good as 'other'; expected the class's own 'scale'"):
        CHECKS["listed_by_its_name"](Subject(broken.Good(), "bert"))


SOUND = [broken.Good(), broken.Good("attention", 2.0), broken.GoodWeights()]


@pytest.mark.parametrize("method", SOUND, ids=str)
def test_a_strangers_sound_method_passes(method):
    check_method(method)


@parametrize_with_checks([broken.Good()], backbones=("bert",))
def test_a_strangers_sound_method_passes_each_check_by_itself(method, check):
    check(method)


# How checks are run


def test_all_failures_are_told_at_once_and_nothing_else():
    with pytest.raises(Broken) as raised:
        check_method(broken.Unread(), backbones=("bert", "gpt2"))
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("[every_weight_learns[bert]] scale on bert: the loss does not depend on")
    assert [line.partition("]]")[0] for line in lines] == ["[every_weight_learns[bert", "[every_weight_learns[gpt2"]


def test_one_mistake_is_told_once_where_it_is_and_the_other_checks_are_named():
    with pytest.raises(Broken) as raised:
        check_method(broken.Misreading(), backbones=("bert", "gpt2"))
    lines = str(raised.value).splitlines()
    told = [line for line in lines if "for the same reason" not in line]
    assert [line.partition(" scale ")[0] for line in told] == ["[fitting_shapes[bert]]", "[fitting_shapes[gpt2]]"]
    assert told[0] == lines[0]
    assert "its OutputEdit at encoder.0.ffn fails: KeyError: 'encoder.0.ffn.sclae'" in told[0]
    assert {"kept_tensors[bert]", "bank_equals_separate[bert]"} <= set(lines[1].strip("[").split("] ")[0].split(", "))
    assert len(lines) == 4


def test_a_mode_that_is_left_behind_is_found_after_other_checks_too():
    with pytest.raises(Broken, match=r"\[exact_detachment\[bert\]\] .* its edits leave the model in training mode"):
        check_method(broken.Moody(), backbones=("bert",))


def test_checks_that_fail_for_one_cause_are_named_with_their_backbones():
    def fails(family, sentence, error=Unchecked, cause="KeyError: 'x'"):
        def check():
            raise error(f"on {family}: {sentence}", cause)

        return check

    given = [
        ("zero[t5]", fails("t5", "zero cannot be checked", cause="IndexError: 3")),
        ("one[t5]", fails("t5", "one cannot be checked")),
        ("two[t5]", fails("t5", "it is wrong at x", Broken)),
        ("once", fails("t5", "once cannot be checked")),
        ("one[bert]", fails("bert", "one cannot be checked")),
        ("three[bert]", fails("bert", "it is something else", Broken, "")),
    ]
    with pytest.raises(Broken) as raised:
        run(given)
    assert str(raised.value).splitlines() == [
        "[two[t5]] on t5: it is wrong at x",
        "[one[t5, bert], once] for the same reason",
        "[three[bert]] on bert: it is something else",
        "[zero[t5]] on t5: zero cannot be checked",
    ]


def test_a_failure_that_is_expected_with_a_reason_is_none():
    check_method(broken.Unread(), backbones=("bert",), expected_failures={"every_weight_learns": "a spare"})
    check_method(broken.Unread(), backbones=("bert",), expected_failures={"every_weight_learns[bert]": "a spare"})


def test_a_failure_that_is_expected_and_does_not_come_is_told():
    with pytest.raises(Broken, match=r"\[effect\[bert\]\] passes although it is expected to fail \(it is new\)"):
        check_method(broken.Good(), backbones=("bert",), expected_failures={"effect": "it is new"})


def test_an_unknown_check_and_a_missing_reason_are_refused():
    with pytest.raises(BadInput, match="no check 'efect'; did you mean 'effect'"):
        check_method(broken.Good(), backbones=("bert",), expected_failures={"efect": "a slip"})
    with pytest.raises(BadInput, match="the check 'effect' is expected to fail without a reason"):
        check_method(broken.Good(), backbones=("bert",), expected_failures={"effect": ""})


def test_a_class_instead_of_a_method_is_refused():
    with pytest.raises(BadInput, match="is not a method; give an instance of a class made from"):
        check_method(broken.Good)
    with pytest.raises(BadInput, match="no pico model 'gpt-2'; did you mean 'gpt2'"):
        check_method(broken.Good(), backbones=("gpt-2",))


def test_what_a_broken_method_does_to_a_backbone_reaches_no_other_method():
    suite, bad, good = Suite(("bert",)), broken.Meddling(), broken.Good()
    untouched = Subject(good, "bert").untouched
    with pytest.raises(Broken):
        suite(CHECKS["untouched_backbone"], bad, "bert")
    assert np.array_equal(suite.subject(good, "bert").untouched, untouched)
    bad.edits(Subject(bad, "bert").backbone)
    assert np.array_equal(Subject(good, "bert").untouched, untouched)


def test_a_test_is_made_for_every_method_check_and_backbone_with_a_name_that_can_be_read():
    bad = broken.Unread()
    reasons = {"every_weight_learns[gpt2]": "a spare"}
    mark = parametrize_with_checks(
        [broken.Good(), bad],
        backbones=("bert", "gpt2"),
        expected_failures=lambda method: reasons if method is bad else {},
    )
    found = {one.id: one for one in mark.mark.args[1]}
    assert {"scale-declarations", "scale-effect[bert]", "scale-generated_scores[gpt2]"} <= set(found)
    assert not {"scale-generated_scores[bert]", "scale-merged_model[gpt2]", "scale-counted[bert]"} & set(found)
    marked = [one for one in mark.mark.args[1] if one.marks]
    assert [one.id for one in marked] == ["scale-every_weight_learns[gpt2]"]
    assert marked[0].marks[0].kwargs == {"reason": "a spare", "strict": True, "raises": Broken}
    with pytest.raises(Broken):
        marked[0].values[1](bad)


def test_runs_that_several_checks_compare_with_are_made_once(monkeypatch):
    one_by_one, steps, made = training._one_by_one, training._trained_gradients, Counter()
    subject = Subject(broken.Good(), "bert")

    def counted(subject_, backbone, bank):
        made["runs"] += backbone is subject.backbone
        return one_by_one(subject_, backbone, bank)

    def trained(subject_):
        made["trainings"] += 1
        return steps(subject_)

    monkeypatch.setattr(training, "_one_by_one", counted)
    monkeypatch.setattr(training, "_trained_gradients", trained)
    for name in ("bank_equals_separate", "loop_equals_vmap", "equal_deltas_in_a_bank"):
        CHECKS[name](subject)
    for name in ("every_weight_learns", "untouched_backbone"):
        CHECKS[name](subject)
    assert made == {"runs": 1, "trainings": 1}


def test_neighbours_are_trained_and_passed_once_for_all_methods_of_a_family():
    first, second = Subject(broken.Good(), "bert"), Subject(broken.GoodWeights(), "bert")
    for neighbour in first.neighbours:
        trained = first.trained(neighbour)
        assert second.trained(neighbour) is trained
        assert second.output_of(trained) is first.output_of(trained)
    assert first.alone is not second.alone
    anew()
    assert Subject(broken.Good(), "bert").trained(first.neighbours[0]) is not first.trained(first.neighbours[0])


# Tables


CONFIGURED = {model_type for model_type, _ in CONFIGURATIONS.values()}
ALONE = [name for name in tables() if CONFIGURED.isdisjoint(table(name).serves)]
"""The built-in tables that `test_families` does not check on each of the pico models that they serve."""


@pytest.mark.parametrize("name", [*ALONE, "gpt2"])
def test_every_built_in_table_passes(name):
    if table(name).kind == "denoiser":
        pytest.importorskip("diffusers")
    check_backbone_table(table(name))


def failures(check, *given):
    """The sentences of the checks that fail, by name."""
    with pytest.raises(Broken) as raised:
        check(*given)
    return {line.partition("]")[0][1:]: line for line in str(raised.value).splitlines()}


def failure(checks, name, subject):
    """The sentence by which the check of a name fails."""
    [check] = [check for check in checks if check.name == name]
    assert check.says_something_of(subject)
    with pytest.raises(Broken) as raised:
        check(subject)
    return str(raised.value)


def changed(name, places=None, stack=None, **whole):
    """A built-in table with some places, or some of what it says of its first stack, changed."""
    sound = table(name)
    first = next(iter(sound.stacks))
    spots = {place: (spot,) for place, spot in (places or {}).items()}
    stacks = {**sound.stacks, first: replace(sound.stacks[first], **stack or {})}
    return replace(sound, places={**sound.places, **spots}, stacks=stacks, **whole)


QUERY, KEY, VALUE = (f"decoder.{{layer}}.attention.{part}" for part in ("query", "key", "value"))
C_ATTN = "h.{layer}.attn.c_attn"
BROKEN_TABLES = [
    ("reads_back", changed("gpt2", stack={"width": 16.0}), "reads back cannot be checked: .*width is 16.0; expected"),
    ("serves_the_model", changed("gpt2", serves=("gpt3",)), "does not serve 'gpt2'; it serves gpt3"),
    ("every_place_is_passed", changed("t5", {"encoder.embedding": "shared"}), "encoder.embedding is at a module that"),
    (
        "every_place_is_passed",
        changed("gpt2", {"decoder.norm": "h.0.ln_1"}),
        "norm is passed where decoder.0.attention",
    ),
    (
        "true_widths",
        changed("gpt2", stack={"width": "n_inner"}),
        "decoder.0.attention has width 16 and the table gives 32",
    ),
    ("every_row_is_passed", replace(table("longformer"), unbatched=()), "do not begin with the 3 rows of the batch"),
    (
        "every_parameter_has_a_place",
        replace(table("gpt2"), places={k: x for k, x in table("gpt2").places.items() if not k.endswith("ffn.down")}),
        r"4 parameters lie at no place .*transformer\.h\.0\.mlp\.c_proj\.weight",
    ),
    (
        "before_the_residual",
        changed("gpt2", {"decoder.{layer}.ffn": "h.{layer}"}),
        r"decoder\.0\.ffn is more than its last projection decoder\.0\.ffn\.down",
    ),
    ("every_place_matters", changed("bert", {"head": "/pooler.dense"}), "a change at head does not change the output"),
    (
        "true_parts_of_attention",
        changed("gpt2", {QUERY: f"{C_ATTN}[1/3]", KEY: f"{C_ATTN}[0/3]"}),
        "query reaches the tok",
    ),
    ("true_parts_of_attention", changed("gpt2", {KEY: f"{C_ATTN}[0/3]"}), r"key reaches the tokens \[2\] alone"),
    ("true_parts_of_attention", changed("gpt2", {VALUE: f"{C_ATTN}[1/3]"}), "value do not give twice the attention"),
    ("prefixed_attentions", changed("gpt2", stack={"heads": 2}), "prefixed attentions cannot be checked: RuntimeError"),
    ("prompted_streams", changed("gpt2", stack={"limit": 7}), "prompted streams cannot be checked: a prompt of 2 and"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), BROKEN_TABLES)
def test_a_check_fails_for_a_table_that_is_wrong_in_its_way(name, wrong, message):
    assert re.search(message, failure(TABLE_CHECKS, name, OnModel(wrong, pico(wrong.name).requires_grad_(False))))


def test_a_place_that_does_more_than_its_matrix_is_found():
    model = pico("gpt2").requires_grad_(False)
    model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda module, args, output: 2 * output)
    found = failures(check_backbone_table, table("gpt2"), model)["true_matrices"]
    assert re.search("decoder.0.ffn.up does not compute input · weightᵀ", found)


def test_every_check_of_tables_is_shown_to_fail():
    names = {check.name for check in TABLE_CHECKS}
    shown = {name for name, *_ in BROKEN_TABLES} | {"true_matrices", "wholes_hold_their_parts"}
    assert shown | (SHOWN & names) == names


def test_a_table_that_fits_no_pico_model_needs_a_model():
    with pytest.raises(BadInput, match="there is no pico model of mamba; give a small model of that type"):
        check_backbone_table(changed("gpt2", serves=("mamba",)))
    with pytest.raises(Broken, match=r"puts decoder\.0\.ffn at 'transformer\.h\.0\.mpl', which is not a module"):
        check_backbone_table(changed("gpt2", {"decoder.{layer}.ffn": "h.{layer}.mpl"}))


# Tasks


@pytest.mark.parametrize("name", ["intent", "fact_qa", "past_tense"])
def test_built_in_tasks_pass(name):
    check_task(BUILTIN.tasks[name])


READS: Counter[str] = Counter()


def few(split, input="{split} word {k}", targets=("no", "yes"), **more):
    return tuple(
        Example(f"{split}{k}", input.format(split=split, k=k), targets[k % len(targets)], **more) for k in range(4)
    )


def restless(split):
    READS[split] += 1
    return tuple(reversed(few(split))) if READS[split] % 2 else few(split)


def of_this_process(split):
    return tuple(replace(one, input=f"{one.input} {os.getpid()}") for one in few(split))


def sound(read=few, **changes):
    verbalizer = {} if changes.get("kind") == "generation" else {"no": "dark", "yes": "light"}
    given = {"category": "tests", "kind": "choice", "metric": "accuracy", "source": "these tests", "licence": "none"}
    return Task("few", read=read, **given | {"verbalizer": verbalizer} | changes)


def generation(read, metric="exact_match"):
    return sound(read, kind="generation", metric=metric)


BROKEN_TASKS = [
    ("described", sound(category=" "), "task 'few': it says no category"),
    ("separate_splits", sound(partial(few, input="word {k}")), "the input 'word 0' stands in both 'train' and 'val'"),
    (
        "separate_splits",
        sound(lambda split: few(split) if split != "test" else ()),
        "has no examples in its 'test' split",
    ),
    ("repeatable_reading", sound(restless), "its 'train' split is read twice with different examples"),
    ("telling_texts", sound(partial(few, input="")), "example 'train0' of 'train' has an empty text or answer"),
    (
        "telling_texts",
        sound(partial(few, candidates=("a", "a"))),
        "example 'train0' of 'train' ranks the same words twice",
    ),
    (
        "true_scores",
        generation(partial(few, targets=("same",))),
        "chance on 'val' is 1; expected at least 0 and less than",
    ),
    ("alike_elsewhere", sound(lambda split: few(split)), "cannot be used in another process: it cannot be sent"),
    ("alike_elsewhere", sound(of_this_process), "in another process it has other examples"),
    ("readable", generation(partial(few, targets=("long " * 200, "x"))), "readable cannot be checked: "),
]


@pytest.mark.parametrize(("name", "wrong", "message"), BROKEN_TASKS)
def test_a_check_fails_for_a_task_that_is_wrong_in_its_way(name, wrong, message):
    assert re.search(message, failure(TASK_CHECKS, name, OfTask(wrong, ("gpt2",))))


def test_what_is_wrong_with_a_task_is_named_by_the_check_that_finds_it():
    assert failures(check_task, sound(category=" ")) == {"described": "[described] task 'few': it says no category"}


def test_every_check_of_tasks_is_shown_to_fail_and_a_sound_task_passes():
    names = {check.name for check in TASK_CHECKS}
    assert {name for name, *_ in BROKEN_TASKS} | (SHOWN & names) == names
    check_task(sound(), expected_failures={})


def test_a_task_needs_no_licence_and_no_source():
    check_task(sound(licence="", source=""), backbones=("bert",))


def test_a_machine_that_is_too_slow_is_not_the_fault_of_the_task(monkeypatch):
    slow = SimpleNamespace(ask=lambda *_: Failed("the second process gave no answer within 600 seconds", late=True))
    monkeypatch.setattr("deltacompose.checks.tasks.worker", lambda: slow)
    with pytest.raises(Unchecked, match="gave no answer within 600 seconds, so that it is not known whether the task"):
        alike_elsewhere(OfTask(sound(), ("bert",)))


@pytest.mark.parametrize(
    ("check", "wrong", "message"),
    [
        (check_task, {"path": "x.csv"}, r"a value \(dict\) is not a task; give a deltacompose.task.Task, which"),
        (check_task, few, r"few \(function\) is not a task"),
        (
            check_measure,
            few,
            r"few \(function\) is not a measure; give a Measure of .*, which states what",
        ),
        (
            check_backbone_table,
            few,
            r"few \(function\) is not a table of places; give a Table, or a mapping with",
        ),
        (check_backbone_table, {"place": {}}, "table 'table': .*place"),
        (check_backbone_table, {"serves": [], "places": 3}, "table 'table': "),
    ],
)
def test_what_is_not_a_member_is_refused_in_one_sentence(check, wrong, message):
    with pytest.raises(BadInput, match=message) as raised:
        check(wrong)
    assert "\n" not in str(raised.value)


def test_a_table_may_be_given_as_plain_data():
    check_backbone_table(table("gpt2").data)


# Measures


@pytest.mark.parametrize("name", BUILTIN.measures)
def test_every_built_in_measure_passes(name):
    check_measure(BUILTIN.measures[name])


def closeness(rows):
    return 1 / (1 + np.linalg.norm(rows[:, None] - rows[None], axis=-1))


def restless_closeness(rows):
    READS["closeness"] += 1
    return closeness(rows) / READS["closeness"]


def overwriting(factors):
    for one in factors:
        one["a"][0][:] = 1
    return np.ones((len(factors), len(factors)))


def measure(function=closeness, **changes):
    given = {"needs": "weights", "range": (0.0, 1.0), "invariances": "none at all", "source": "these tests"}
    return Measure("closeness", function=function, **given | changes)


BROKEN_MEASURES = [
    ("stated", measure(source=" "), "measure 'closeness': it states no source"),
    ("stated", measure(needs="wieghts"), "no need 'wieghts'; did you mean 'weights'"),
    ("stated", measure(5), "its function is a int, which cannot be called"),
    ("within_its_range", measure(lambda x: np.ones(len(x))), r"of 4 tasks it makes a matrix of shape \(4,\)"),
    ("within_its_range", measure(lambda x: closeness(x) * np.nan), r"is undefined between .* \(it gives nan\)"),
    ("within_its_range", measure(lambda x: closeness(x) - 1), r"gives -.* to 0; its stated range is 0 to 1"),
    ("within_its_range", measure(range=(0.5, 1.0)), r"it gives .* to 1; its stated range is 0.5 to 1"),
    (
        "symmetric_unless_directed",
        measure(lambda x: closeness(x) * np.linspace(0.5, 1, len(x))),
        "its matrix is not symm",
    ),
    ("symmetric_unless_directed", measure(directed=True), "it says directed = True and its matrix is symmetric"),
    (
        "equal_in_any_order",
        measure(lambda x: closeness(x - x[0] * np.arange(len(x))[:, None])),
        "in another order have",
    ),
    ("pure", measure(restless_closeness), "the same arrays give another matrix the second time"),
    ("pure", measure(overwriting, needs="low_rank"), "it changes the arrays that it is given"),
    ("nearest_to_itself", measure(distance=True), r"less near \(-1\) than .* and another .*; say distance = False"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), BROKEN_MEASURES)
def test_a_check_fails_for_a_measure_that_is_wrong_in_its_way(name, wrong, message):
    assert re.search(message, failure(MEASURE_CHECKS, name, OfMeasure(wrong)))


def test_what_is_wrong_with_a_measure_is_named_by_the_check_that_finds_it():
    found = failures(check_measure, measure(source=" "))
    assert found == {"stated": "[stated] measure 'closeness': it states no source"}


def test_every_check_of_measures_is_shown_to_fail_and_a_sound_measure_passes():
    assert {name for name, *_ in BROKEN_MEASURES} == {check.name for check in MEASURE_CHECKS}
    check_measure(measure())


def test_a_moved_clock_shows_another_day_of_the_week_at_any_hour():
    assert {int(hidden_inputs.DAYS) % 7, (int(hidden_inputs.DAYS) + 1) % 7}.isdisjoint({0})

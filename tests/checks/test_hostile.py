"""Each way in which a method can be wrong and pass all other checks fails one check of the suite, by its name."""

from __future__ import annotations

import re
import time

import pytest
from checks import broken_bank, broken_batch, broken_precision, broken_shape, broken_statements, broken_training

from deltacompose.checks import METHOD_CHECKS, Broken
from deltacompose.checks.subject import Subject, anew

CHECKS = {check.name: check for check in METHOD_CHECKS}
KINDS = [
    # A bank, and several tasks in one process
    ("equal_deltas_in_a_bank", broken_bank.ScaledByCall(), "bert", "of 3 equal deltas in a bank, number 1 differs"),
    ("constants_of_each_task", broken_bank.Memoising(), "bert", "'shared.length' of a task depends on which task was"),
    ("constants_of_each_task", broken_bank.FirstTask(), "bert", "'shared.length' of a task depends on which task was"),
    (
        "pure_abilities",
        broken_bank.MixingUpdate(),
        "bert",
        "update gives other tensors 'shared.grown' after a call for",
    ),
    ("pure_abilities", broken_bank.OverSharedConstants(), "bert", "update changes tensors 'shared.grown' in place"),
    ("pure_abilities", broken_bank.OwnSteps(), "bert", "update gives other tensors .* it keeps state between calls"),
    ("resumed_training", broken_bank.OwnSteps(), "bert", "interrupted after 2 steps and resumed, a training ends with"),
    # A batch
    ("independent_rows", broken_batch.MixingManyRows(), "bert", "a row of 10 in a batch without most of the others"),
    ("independent_rows", broken_batch.MaximumOfTheBatch(), "bert", "a row of 10 in a batch without most of the others"),
    (
        "independent_of_padding",
        broken_batch.MeanWithPadding(),
        "bert",
        "an input padded by 7 tokens more gives another",
    ),
    ("independent_of_padding", broken_batch.FromThePaddedEdge(), "bert", "an input padded by 7 tokens more gives anot"),
    (
        "independent_of_padding",
        broken_batch.PoolingPadding(),
        "bert",
        "leave padding out where it looks at several toke",
    ),
    # Shapes and sizes
    ("fitting_shapes", broken_shape.OneTokenOfLong(), "gpt2", r"gives shape \(10, 1, 16\); expected \(10, 24, 16\)"),
    # Precision and device
    ("tensors_in_another_precision", broken_precision.Orthonormal(), "bert", "cannot be checked: .*BFloat16"),
    ("other_precision", broken_precision.Overflowing(), "bert", "in torch.float16 its output is not finite"),
    ("other_device", broken_precision.OnTheCpu(), "bert", "ffn makes a tensor on the CPU and fails on a GPU"),
    ("other_device", broken_precision.PreparedOnTheCpu(), "bert", "prepare makes a tensor on the CPU and fails on a"),
    # The backbone
    (
        "untouched_backbone",
        broken_training.ThawingTheNorm(),
        "gpt2",
        "the backbone's transformer.ln_f.* takes a gradie",
    ),
    (
        "reads_no_backbone",
        broken_training.ReadingTheBackbone(),
        "bert",
        "on a backbone with other weights for the same",
    ),
    # Training
    ("draws_nothing_once_trained", broken_training.NoisyEvaluation(), "bert", r"draws \(randn\) in evaluation too"),
    ("draws_nothing_once_trained", broken_training.NoiseIsKept(), "bert", r"finalize draws numbers \(randn\)"),
    ("true_gradients", broken_training.HalfOfTheGradient(), "bert", "the gradient is not that of the function"),
    ("pure_abilities", broken_training.RememberingPenalty(), "bert", "penalty gives other tensors 'penalty' after a"),
    ("carried_function", broken_training.WronglyCarried(), "bert", "its output differs from that solution's by"),
    ("neutral_over_a_trained_stage", broken_training.ComputedAgain(), "llama", "its start moves the output by"),
    ("same_in_every_mode", broken_training.OnlyWithGradients(), "bert", "where gradients are recorded its edits give"),
    ("repeated_calls", broken_bank.ScaledByCall(), "bert", "gives another result for the same arguments when it is"),
    (
        "every_weight_learns",
        broken_training.FirstColumns(),
        "gpt2",
        r"act at padding alone \(inputs are padded on",
    ),
    # What is kept
    (
        "kept_equals_evaluated",
        broken_training.Rounding(),
        "bert",
        "finalize keeps gives another output than the weights",
    ),
    ("kept_equals_evaluated", broken_training.RawIsKept(), "bert", "finalize keeps gives another output than the weig"),
    ("low_rank_factors", broken_training.Clipped(), "gpt2", "with weights 30 times as large, the product of its"),
    ("merged_model", broken_training.Clipped(), "gpt2", "merged model.s output, with weights 30 times as large"),
    # Statements
    (
        "drawn_from_the_generator",
        broken_statements.OneSeed(),
        "bert",
        "init draws by torch's .* every seed would begin",
    ),
    ("drawn_from_the_generator", broken_statements.OneSeedOfNumpy(), "bert", "init draws by numpy.random.default_rng"),
    ("stated_formula", broken_statements.WrongFormula(), "bert", "its formula '2d per place' gives 64 parameters, and"),
    (
        "every_setting_matters",
        broken_statements.IdleSetting(),
        "bert",
        "setting 'strength' changes nothing that the met",
    ),
    ("clock_and_environment", broken_statements.OfTheClock(), "bert", "its output depends on the clock"),
    ("clock_and_environment", broken_statements.OfTheEnvironment(), "bert", "the environment variable SCALE_FACTOR"),
]


@pytest.mark.parametrize(("name", "method", "family", "message"), KINDS)
def test_a_method_that_is_broken_in_one_way_fails_the_check_of_its_kind(name, method, family, message):
    try:
        with pytest.raises(Broken) as raised:
            CHECKS[name](Subject(method, family))
        assert re.search(message, str(raised.value)), str(raised.value)
    finally:
        anew()


@pytest.mark.parametrize("hour", range(0, 24, 3))
def test_a_method_of_the_day_of_the_week_is_noticed_at_every_hour(hour, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 20_000 * 86_400.0 + hour * 3_600)
    with pytest.raises(Broken, match="depends on the clock"):
        CHECKS["clock_and_environment"](Subject(broken_statements.OfTheClock(), "bert"))
    anew()

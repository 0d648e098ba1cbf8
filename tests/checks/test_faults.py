"""Each fault that silent wrong numbers came from fails a public check where its mend is undone, on several families.

A row undoes one mend and names the check that reports it; with the mend in place the same check passes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from broken import Good
from deltacompose_plugins import Adapter, BitFit, LoRA, Prefix, Prompt
from deltacompose_plugins.backbones import tables

from deltacompose.attach import attachment, soft_prompts
from deltacompose.backbone import Backbone
from deltacompose.backbone.pico import pico
from deltacompose.checks import METHOD_CHECKS, Broken
from deltacompose.checks import training as training_checks
from deltacompose.checks.backbones import OnModel
from deltacompose.checks.subject import Subject, anew, lowered
from deltacompose.checks.suite import TABLE_CHECKS
from deltacompose.checks.tasks import TASK_CHECKS, OfTask
from deltacompose.delta import peft_lora, prefix_positions
from deltacompose.method import OutputEdit
from deltacompose.places.table import Table, read_table
from deltacompose.scoring import likelihood
from deltacompose.scoring.as_trained import Reading
from deltacompose.task import Example, Task, metrics

CHECKS = {check.name: check for check in (*METHOD_CHECKS, *TABLE_CHECKS, *TASK_CHECKS)}
Undo = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Fault:
    """A mend undone, the check that reports it, and the families on which it is tried."""

    number: int
    check: str
    subject: Callable[[str], Any]
    families: tuple[str, ...]
    undo: Undo
    message: str


def on(method) -> Callable[[str], Subject]:
    return lambda family: Subject(method, family)


def of_table(family: str) -> OnModel:
    model = pico(family).requires_grad_(False)
    return OnModel(served(model.config.model_type), model)


def served(model_type: str) -> Table:
    return next(known for known in tables().values() if model_type in known.serves)


# 1. Generation obeys what a checkpoint ships


@contextmanager
def with_its_own_settings(model: Any, settings: Any) -> Iterator[None]:
    own, model.generation_config = model.generation_config, copy.deepcopy(model.generation_config)
    model.generation_config.update(max_new_tokens=settings.max_new_tokens, do_sample=False, num_beams=1)
    try:
        yield
    finally:
        model.generation_config = own


def obey_the_checkpoint(patch):
    patch.setattr(likelihood, "_generating", with_its_own_settings)


# 2. Inputs are cut at another length than in training


def task(metric: str = "accuracy") -> Task:
    rows = tuple(Example(f"{k}", f"{'long ' * k}text", ("yes", "no")[k % 2]) for k in range(6))
    if metric == "accuracy":
        read = task_rows(rows)
        return Task("lengths", "made", "choice", metric, read, "{input}?", {"yes": "yes", "no": "no"})
    return Task("texts", "made", "generation", metric, task_rows(rows))


def task_rows(rows: tuple[Example, ...]) -> Callable[[str], tuple[Example, ...]]:
    return lambda split: tuple(replace(row, id=f"{split}{row.id}", input=f"{split} {row.input}") for row in rows)


def forget_the_reading(patch):
    patch.setattr(Reading, "of", classmethod(lambda cls, record: cls(template=record["reading"]["template"])))


# 3, 4, 13. Adapters of peft's


def import_one_module_of_a_tied_matrix(patch):
    patch.setattr(peft_lora, "whole_matrices", lambda backbone, changes, equal: dict(changes))


def forget_the_residual(patch):
    patch.setattr(peft_lora, "residual", lambda *given: None)


def rotate_whole_heads(patch):
    patch.setattr(prefix_positions, "_slices", lambda *given: False)


def rotate_every_layer_alike(patch):
    patch.setattr(prefix_positions, "_takes_layer_type", lambda rotary: False)


# 5, 6. Embeddings that are scaled outside of their module


def embed_by_the_module_alone(patch):
    patch.setattr(Backbone, "embedder", lambda self, stream: self.module(self.stream(stream).embedding))


def copy_unscaled_rows(patch):
    patch.setattr(Backbone, "embed", lambda self, stream, ids: self.embeddings(stream)[ids])


# 7. Edits that do nothing


def show_nothing(patch):
    patch.setattr(attachment, "refusal", lambda *given: None)
    patch.setattr(attachment.Attachment, "_after_first_pass", lambda *given: None)


# 8. Factors scaled one by one


def scale_the_factors(patch):
    patch.setattr(LoRA, "linear", True)


# 9. Words of the Latin alphabet alone


def take_latin_words(patch):
    from rouge_score.rouge_scorer import RougeScorer

    patch.setattr(metrics, "_rouge", lambda: RougeScorer(["rougeL"]))


# 10. Padding between a prompt and its tokens


def put_prompts_before_the_padding(patch):
    patch.setattr(soft_prompts, "left_padding", lambda mask: None)


# 11. Edits in another precision than their module


def keep_one_precision(patch):
    patch.setattr(attachment, "_mixed", lambda model: False)


# 14. The dropout of a model in hand


@contextmanager
def in_training_mode(model: Any) -> Iterator[None]:
    what = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{what}_checkpointing_enable")({"use_reentrant": False})
    model.train()
    try:
        yield
    finally:
        model.eval()
        getattr(model, f"{what}_checkpointing_disable")()


def recompute_in_training_mode(patch):
    patch.setattr(training_checks, "recomputing", in_training_mode)


FAULTS = [
    Fault(
        1,
        "greedy_answers",
        on(BitFit()),
        ("hostile-marian", "hostile-mixture", "hostile-t5"),
        obey_the_checkpoint,
        "must state every generation setting itself",
    ),
    Fault(
        2,
        "read_as_trained",
        lambda family: OfTask(task(), (family,)),
        ("bert", "gpt2", "t5", "roberta"),
        forget_the_reading,
        "with a limit of 64 tokens, a delta is evaluated with 128",
    ),
    Fault(3, "tied_adapters", of_table, ("gemma", "opt"), import_one_module_of_a_tied_matrix, "alone is"),
    Fault(
        4,
        "initialised_adapters",
        of_table,
        ("llama", "bert", "gpt2", "falcon-gqa", "bart"),
        forget_the_residual,
        "with init_lora_weights='pissa' is imported as another function",
    ),
    Fault(
        5,
        "prompts_are_tokens",
        of_table,
        ("marian-scaled", "pegasus-scaled", "hostile-marian"),
        embed_by_the_module_alone,
        "gives another output than those tokens",
    ),
    Fault(
        6,
        "prompts_are_tokens",
        of_table,
        ("marian-scaled", "blenderbot", "gemma", "gemma3-window", "xglm", "biogpt"),
        copy_unscaled_rows,
        "the model scales its embeddings",
    ),
    Fault(
        7,
        "effect",
        on(Prefix(length=2)),
        ("bloom", "gptj", "mpt", "codegen", "deberta-v2", "led"),
        show_nothing,
        "with every weight moved the output is still the backbone's|cannot be checked",
    ),
    Fault(
        8,
        "scaled_by_arithmetic",
        on(LoRA(rank=2)),
        ("bert", "t5", "phi3", "hostile-mixture"),
        scale_the_factors,
        "scaled by -1 its change of weight at .* differs",
    ),
    Fault(
        9,
        "scored_in_every_script",
        lambda family: OfTask(task("rouge_l"), (family,)),
        ("gpt2",),
        take_latin_words,
        "in .* a right answer scores 0 in rouge_l; expected 1|a wrong word scores",
    ),
    Fault(
        10,
        "independent_of_padding",
        on(Prompt(length=3)),
        ("hostile-gemma3", "mistral-window", "gemma3-window", "mpt", "gpt-oss"),
        put_prompts_before_the_padding,
        "an input padded by 7 tokens more gives another",
    ),
    Fault(
        11,
        "other_precision",
        on(Adapter(bottleneck=3)),
        ("t5", "hostile-t5", "umt5", "mt5"),
        keep_one_precision,
        "cannot be checked: RuntimeError",
    ),
    Fault(
        13,
        "prefixed_adapters",
        of_table,
        ("phi", "stablelm"),
        rotate_whole_heads,
        "cannot be checked: RuntimeError",
    ),
    Fault(13, "prefixed_adapters", of_table, ("gemma3",), rotate_every_layer_alike, "cannot be checked: "),
    Fault(
        14,
        "gradient_checkpointing",
        on(BitFit()),
        ("hostile-bert", "hostile-t5", "hostile-marian", "hostile-gemma3"),
        recompute_in_training_mode,
        "with gradient checkpointing",
    ),
]
CASES = [
    pytest.param(fault, family, id=f"{fault.number:02}-{family}-{fault.undo.__name__}")
    for fault in FAULTS
    for family in fault.families
]


@pytest.fixture(autouse=True)
def fresh():
    anew()
    lowered.cache_clear()
    yield
    anew()
    lowered.cache_clear()


def holds(fault: Fault, family: str) -> bool:
    """Whether the check passes, or says nothing because the method is refused by name."""
    subject = fault.subject(family)
    if isinstance(subject, Subject) and subject.refusal:
        return True
    CHECKS[fault.check](subject)
    return True


@pytest.mark.parametrize(("fault", "family"), CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")  # transformers', of settings that do not fit each other
def test_a_fault_fails_its_check_where_its_mend_is_undone(fault, family, monkeypatch):
    assert holds(fault, family)
    anew()
    lowered.cache_clear()
    fault.undo(monkeypatch)
    with pytest.raises(Broken, match=fault.message):
        CHECKS[fault.check](fault.subject(family))


SHARED = {
    "qwen2-moe": ("decoder.{layer}.ffn", "layers.{layer}.mlp.shared_expert"),
    "glm4-moe": ("decoder.{layer}.ffn", "layers.{layer}.mlp.shared_experts"),
    "deepseek-v3": ("decoder.{layer}.ffn", "layers.{layer}.mlp.shared_experts"),
}


@pytest.mark.parametrize("family", SHARED)
def test_a_table_whose_network_is_the_shared_expert_alone_fails(family):
    """The twelfth fault: a derived table took the shared expert for the whole of a mixture."""
    right = of_table(family)
    CHECKS["wholes_hold_their_parts"](right)
    name, path = SHARED[family]
    before = right.table.data["places"][name]
    places = right.table.data["places"] | {name: [f"{path}?", *([before] if isinstance(before, str) else before)]}
    wrong = OnModel(read_table("wrong", right.table.data | {"places": places}), right.model)
    with pytest.raises(Broken, match=r"decoder\.\d\.ffn\.\S+ acts around decoder\.\d\.ffn: with the output"):
        CHECKS["wholes_hold_their_parts"](wrong)


# Members that are broken in one of these ways by themselves


@dataclass(frozen=True)
class ProductsAdded(Good):
    """y + (a·b) x, of which it says that it is linear in a and b."""

    linear: ClassVar[bool] = True

    def init(self, backbone, generator):
        return {
            f"{place.name}.{name}": torch.rand(backbone.width(place), generator=generator)
            for place in backbone.places("ffn")
            for name in ("a", "b")
        }

    def edits(self, backbone):
        def edit(place):
            return OutputEdit(place, lambda t, x, y: y + t[f"{place.name}.a"] * t[f"{place.name}.b"] * y)

        return [edit(place) for place in backbone.places("ffn")]


def test_a_product_that_is_said_to_be_linear_fails():
    with pytest.raises(Broken, match=r"scaled by -1 its change of output at encoder.0.ffn differs by .*linear = False"):
        CHECKS["scaled_by_arithmetic"](Subject(ProductsAdded(), "bert"))


@dataclass(frozen=True)
class ByLength(Good):
    """Changes what is read one token at a time, as in generation with a cache, and nothing else."""

    def edits(self, backbone):
        def edit(place):
            return OutputEdit(place, lambda t, x, y: 3 * y.flip(-1) if y.shape[-2] == 1 else y)

        return [edit(place) for place in backbone.places("ffn")]


def test_a_method_that_generates_what_it_does_not_score_fails():
    with pytest.raises(Broken, match="and the most likely tokens one after another are"):
        CHECKS["greedy_answers"](Subject(ByLength(), "hostile-mixture"))


@dataclass(frozen=True)
class Counting(Task):
    """Puts a number before each text that it is asked for."""

    asked: list[int] = field(default_factory=list)

    def text(self, example):
        self.asked.append(1)
        return f"{len(self.asked)} {super().text(example)}"


def test_a_task_whose_text_does_not_follow_from_its_example_fails():
    with pytest.raises(Broken, match="an input is not the one that the delta was trained with"):
        CHECKS["read_as_trained"](OfTask(Counting(**{name: getattr(task(), name) for name in NAMES}), ("bert",)))


NAMES = ("name", "category", "kind", "metric", "read", "template", "verbalizer")


def test_a_metric_that_drops_accents_fails_for_its_task(monkeypatch):
    def bare(answer, given):
        return float(answer.encode("ascii", "ignore") == given.encode("ascii", "ignore"))

    own = metrics.Metric("bare", "texts", metrics._best(bare))
    monkeypatch.setitem(metrics.METRICS, "bare", own)
    with pytest.raises(Broken, match="in Cyrillic an answer with a wrong word scores 1 in bare, as a right"):
        CHECKS["scored_in_every_script"](OfTask(task("bare"), ("gpt2",)))


def test_the_hostile_rows_name_every_fault_of_numbers():
    assert {fault.number for fault in FAULTS} | {12} == set(range(1, 15))
    assert all(len(set(fault.families)) >= 2 for fault in FAULTS if fault.number not in (9, 13))

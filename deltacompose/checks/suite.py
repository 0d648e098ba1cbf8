"""The public conformance suite: what every method, table, task and measure must keep, ours and anyone's.

    from deltacompose.checks import parametrize_with_checks

    @parametrize_with_checks([MyMethod(), MyMethod(rank=2)])
    def test_the_method_keeps_the_contract(method, check):
        check(method)

Everything runs offline, in seconds, on two-layer backbones. A check that a method cannot pass is declared with the
reason: `expected_failures={"bank_equals_separate": "its FFT has no vmap"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from deltacompose.analysis.similarity.measure import Measure
from deltacompose.backbone.pico import CONFIGURATIONS, pico
from deltacompose.backbone.pico_diffusion import DENOISERS, denoiser_batch, pico_denoiser
from deltacompose.backbone.pico_hostile import HOSTILE
from deltacompose.checks import (
    abilities,
    adapters,
    behaviour,
    composing,
    detaching,
    generating,
    hidden_inputs,
    independence,
    other_process,
    precision,
    settings,
    tensors,
    training,
)
from deltacompose.checks import combining as arithmetic
from deltacompose.checks.backbones import PLACE_CHECKS, OnModel
from deltacompose.checks.behaviour import acts_or_is_refused
from deltacompose.checks.measures import MEASURE_CHECKS, OfMeasure
from deltacompose.checks.runner import Broken, Check, expected_reasons, run
from deltacompose.checks.subject import BACKBONES, Subject, anew, text_of
from deltacompose.checks.tasks import TASK_CHECKS, OfTask
from deltacompose.errors import BadInput, unknown
from deltacompose.method.contract import Method
from deltacompose.places.table import Table, read_table
from deltacompose.task.task import Task

__all__ = [
    "BACKBONES",
    "HOSTILE_BACKBONES",
    "METHOD_CHECKS",
    "TABLE_CHECKS",
    "Broken",
    "check_backbone_table",
    "check_measure",
    "check_method",
    "check_task",
    "parametrize_with_checks",
]

METHOD_CHECKS: tuple[Check, ...] = (
    *settings.CHECKS,
    *tensors.CHECKS,
    *behaviour.CHECKS,
    *abilities.CHECKS,
    *hidden_inputs.CHECKS,
    *independence.CHECKS,
    *precision.CHECKS,
    *training.CHECKS,
    *detaching.CHECKS,
    *composing.CHECKS,
    *arithmetic.CHECKS,
    *generating.CHECKS,
    *other_process.CHECKS,
)
"""Checks of a method, the simplest first."""

TABLE_CHECKS: tuple[Check, ...] = (*PLACE_CHECKS, *adapters.CHECKS)
"""Checks of a table."""

SHORT = frozenset(
    {
        "acts_or_is_refused",
        "fitting_shapes",
        "neutral_start",
        "effect",
        "stated_formula",
        "repeated_calls",
        "independent_rows",
        "independent_of_padding",
        "other_precision",
        "other_device",
        "every_weight_learns",
        "bank_equals_separate",
        "gradient_checkpointing",
        "exact_detachment",
        "composes_at_once",
        "kept_equals_evaluated",
        "merged_model",
        "scaled_by_arithmetic",
        "generated_scores",
        "greedy_answers",
        "aligned_logits",
    }
)
"""The checks that run on the hostile pico models: that a method acts, and acts exactly. The others say the same on
every model. A hostile model on which the method is refused by name is left out."""

HOSTILE_BACKBONES = tuple(HOSTILE)
"""The pico models that are as models are found: other sizes, windows, experts, ALiBi, scripts, settings that
interfere."""

ExpectedFailures = Mapping[str, str] | Callable[[Method], Mapping[str, str]]


@dataclass(frozen=True, eq=False)
class Suite:
    """The checks of some methods on some backbones. Values that the checks of one method share are made once."""

    backbones: Sequence[str]
    subjects: dict[tuple[int, str], Subject] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for family in self.backbones:
            if family not in {**CONFIGURATIONS, **HOSTILE}:
                raise unknown("pico model", family, {**CONFIGURATIONS, **HOSTILE})

    def __call__(self, check: Check, method: Method, family: str) -> None:
        """Runs one check; after a failure nothing is kept that the method may have spoilt."""
        try:
            check(self.subject(method, family))
        except Broken:
            self.subjects.clear()
            anew()
            raise

    def subject(self, method: Method, family: str) -> Subject:
        """The method on a backbone. Methods are distinguished by identity: a broken one may be equal to another."""
        kept = self.subjects.setdefault((id(method), family), Subject(method, family))
        return kept

    def checks(self, method: Method) -> list[tuple[str, Check, str]]:
        """Which checks say something about a method, each with its name in full and its backbone."""
        return [
            (check.name if check.once else f"{check.name}[{family}]", check, family)
            for check in METHOD_CHECKS
            for family in (self._once(method) if check.once else self.backbones)
            if family not in HOSTILE or check.once or self._hostile(check, method, family)
            if check.says_something_of(self.subject(method, family))
        ]

    def _once(self, method: Method) -> Sequence[str]:
        """The backbone for checks of the method alone: the first one that is not refused to it."""
        taken = [family for family in self.backbones if family not in HOSTILE or not self._refused(method, family)]
        return (taken or list(self.backbones))[:1]

    def _hostile(self, check: Check, method: Method, family: str) -> bool:
        """Whether a check is one of those that run on a hostile model."""
        if check.name == acts_or_is_refused.__name__:
            return True
        return check.name in SHORT and not self._refused(method, family)

    def _refused(self, method: Method, family: str) -> bool:
        try:
            return bool(self.subject(method, family).refusal)
        except (Exception, SystemExit):  # what a stranger's method raises may be anything; the checks will tell
            return False


def check_method(
    method: Method,
    *,
    backbones: Sequence[str] = BACKBONES,
    expected_failures: Mapping[str, str] | None = None,
) -> None:
    """Checks that a method keeps the contract, on a pico backbone of every family.

    Args:
        backbones: names of pico models, of `deltacompose.backbone.pico.CONFIGURATIONS`, or `HOSTILE_BACKBONES`, on
            which those of `SHORT` run.
        expected_failures: the reason why a check fails, by the check's name, `bank_equals_separate`, or for one
            backbone alone, `bank_equals_separate[t5]`.

    Raises:
        Broken: a line for each check that fails and was not expected to, or passes and was expected to fail; checks
            that fail for one cause are named together.
    """
    suite = Suite(backbones)
    checks = suite.checks(_one(method))
    run([(name, partial(suite, check, method, family)) for name, check, family in checks], expected_failures)


def parametrize_with_checks(
    methods: Iterable[Method],
    *,
    backbones: Sequence[str] = BACKBONES,
    expected_failures: ExpectedFailures | None = None,
) -> Any:
    """A pytest decorator that runs a test for every method and check: `def test_...(method, check): check(method)`.

    Args:
        methods: the methods, with the settings to check them with.
        backbones: as in `check_method`.
        expected_failures: as in `check_method`, for all methods or, of a function, for each.
    """
    # Imported here because the other checks need no pytest.
    import pytest

    suite, parameters = Suite(backbones), []
    for method in map(_one, methods):
        checks = suite.checks(method)
        expected = expected_failures(method) if callable(expected_failures) else expected_failures
        reasons = expected_reasons([name for name, _, _ in checks], expected)
        for name, check, family in checks:
            marks = [pytest.mark.xfail(reason=reasons[name], strict=True, raises=Broken)] if reasons[name] else []
            parameters.append(
                pytest.param(method, Bound(suite, check, family), marks=marks, id=f"{text_of(method)}-{name}")
            )
    return pytest.mark.parametrize(("method", "check"), parameters)


def check_backbone_table(
    table: Table | Mapping[str, Any],
    model: Any = None,
    *,
    batch: Mapping[str, Tensor] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> None:
    """Checks that every place of a table is where its name says, on a model that it serves.

    Args:
        table: a table, or a mapping with what a table's YAML file holds.
        model: a small model; None takes a pico model of one of the types that the table serves.
        batch: what the model is called with, by name; random tokens if None.
        expected_failures: reasons by the names of checks.

    Raises:
        Broken: a line for each check that fails unexpectedly, or passes unexpectedly.
        BadInput: the table cannot be read, no model is given and there is no pico model that the table serves, or a
            denoiser without a batch.
    """
    table = _table(table)
    if model is not None and batch is None and table.kind == "denoiser":
        raise BadInput(
            f"table {table.name!r} is of a denoiser, which reads no tokens; give what it is called with by batch="
        )
    subject = OnModel(table, model, batch) if model is not None else _pico(table)
    _run(TABLE_CHECKS, subject, expected_failures)


def check_task(
    task: Task, *, backbones: Sequence[str] = BACKBONES, expected_failures: Mapping[str, str] | None = None
) -> None:
    """Checks that a task's examples, answers and metric belong together, and that pico models can read it.

    Raises:
        Broken: a line for each check that fails unexpectedly, or passes unexpectedly.
        BadInput: it is not a task.
    """
    if not isinstance(task, Task):
        raise BadInput(
            f"{_shown(task)} is not a task; give a deltacompose.task.Task, which task_from_mapping of "
            "deltacompose.task.build makes of a name and a mapping"
        )
    _run(TASK_CHECKS, OfTask(task, backbones), expected_failures)


def check_measure(measure: Measure, *, expected_failures: Mapping[str, str] | None = None) -> None:
    """Checks that a similarity measure is what it says, on random arrays of the kind that it needs.

    Raises:
        Broken: a line for each check that fails unexpectedly, or passes unexpectedly.
        BadInput: it is not a measure.
    """
    if not isinstance(measure, Measure):
        raise BadInput(
            f"{_shown(measure)} is not a measure; give a Measure of deltacompose.analysis.similarity.measure, which "
            "states what a function needs, its range, its invariances and its source"
        )
    _run(MEASURE_CHECKS, OfMeasure(measure), expected_failures)


@dataclass(frozen=True, eq=False)
class Bound:
    """One check on one backbone, to be called with a method."""

    suite: Suite
    check: Check
    family: str

    def __call__(self, method: Method) -> None:
        self.suite(self.check, method, self.family)


def _run(checks: Sequence[Check], subject: Any, expected: Mapping[str, str] | None) -> None:
    run([(check.name, partial(check, subject)) for check in checks if check.says_something_of(subject)], expected)


def _table(table: Any) -> Table:
    """A table, read from plain data where it is given so."""
    if isinstance(table, Table):
        return table
    if not isinstance(table, Mapping):
        raise BadInput(f"{_shown(table)} is not a table of places; give a Table, or a mapping with {', '.join(_KEYS)}")
    serves = table.get("serves")
    return read_table(str(serves[0]) if isinstance(serves, list | tuple) and serves else "table", dict(table))


_KEYS = ("serves", "kind", "stacks", "places")


def _shown(value: object) -> str:
    """Type of an argument that is not a member."""
    name = getattr(value, "__name__", "")
    return f"{name or 'a value'!s} ({type(value).__name__})"


def _pico(table: Table) -> OnModel:
    """A table on a pico model of a type that it serves."""
    for name, (model_type, _) in CONFIGURATIONS.items():
        if model_type in table.serves:
            return OnModel(table, pico(name).requires_grad_(False))
    for name in DENOISERS:
        if name in table.serves:
            return OnModel(table, pico_denoiser(name).requires_grad_(False), denoiser_batch(name))
    raise BadInput(f"there is no pico model of {', '.join(table.serves) or 'no type'}; give a small model of that type")


def _one(method: Any) -> Method:
    if not isinstance(method, Method):
        raise BadInput(f"{method!r} is not a method; give an instance of a class made from deltacompose.method.Method")
    return method

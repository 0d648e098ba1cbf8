"""The catalogue of methods: what each is, where it acts, and how much it trains on T5-base's shape."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from transformers import T5Config, T5ForConditionalGeneration

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.loading import load_backbone
from deltacompose.composition import Part, Term
from deltacompose.errors import BadInput, NoPlace
from deltacompose.method.contract import Edit, Method, TokenEdit, WeightEdit, edits_of
from deltacompose.method.weights import init_weights
from deltacompose.plugins.isolation import isolated

COLUMNS = (
    "method",
    "category",
    "places",
    "parameters",
    "formula",
    "neutral",
    "banked",
    "mergeable",
    "learning_rate",
    "settings",
    "source",
    "fault",
)
_UNCOUNTED = (BadInput, DataDependentOutputException, DynamicOutputShapeException)
"""Errors of a method that needs a setting without default, or the values of weights that have only a shape."""
_WHERE = ("place", "places", "modules")
_T5_BASE: dict[str, Any] = {
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_heads": 12,
    "vocab_size": 32128,
}


def count(expression: Term, backbone: Backbone) -> int:
    """The number of trainable parameters that an expression has on a backbone."""
    return sum(x.numel() for x in init_weights(backbone, expression).values())


def table(methods: Mapping[str, type[Part]]) -> list[dict[str, Any]]:
    """A row for each method at its default settings, on T5-base's shape.

    Keys are `COLUMNS`. `parameters` is None for a method that needs settings of its own, as a file, or the weights'
    values; `settings` are the defaults of the settings other than places; `banked` is `yes`, `looped` where a bank's
    deltas are computed in turn, or `no`; `mergeable` is `yes`, `no`, or `where it has biases` for what changes biases
    that T5 lacks. `fault` is empty, or says why a method cannot be used, or not on T5; its row then has what the class
    says of itself, else None.
    """
    return [_row_or_fault(methods, name) for name in methods]


def _row_or_fault(methods: Mapping[str, type[Part]], name: str) -> dict[str, Any]:
    """A method's row; a stranger's may fail in any way, and the others are to be listed all the same."""
    try:
        kind = methods[name]
    except BadInput as error:
        return dict.fromkeys(COLUMNS) | {"method": name, "fault": f"cannot be used: {error}"}
    outcome = isolated(f"the method {name!r}", lambda: _row(kind()))
    if not outcome.faults:
        return cast(dict[str, Any], outcome.value)
    why = "not on T5" if isinstance(outcome.raised, NoPlace) else "cannot be used"
    fault = f"{why}: {'; '.join(outcome.faults)}"
    stated = {key: getattr(kind, key, None) for key in ("category", "formula", "neutral", "source")}
    known = {key: value for key, value in stated.items() if isinstance(value, str | bool)}
    return dict.fromkeys(COLUMNS) | known | {"method": name, "fault": fault}


def _row(method: Part) -> dict[str, Any]:
    if not isinstance(method, Method):
        raise BadInput(f"{method} is not a deltacompose.method.Method and has no place in the catalogue")
    shape, mode = _t5_base()
    with mode:
        edits = edits_of(method, shape)
    return {
        "method": method.name,
        "category": method.category,
        "places": _places(method, edits),
        "parameters": _count(method, shape, mode),
        "formula": method.formula,
        "neutral": method.neutral,
        "banked": "no" if not method.banked else "yes" if all(edit.vmap for edit in edits) else "looped",
        "mergeable": _mergeable(shape, edits),
        "learning_rate": method.learning_rate,
        "settings": ", ".join(f"{n}={value}" for n, value in method.settings.items() if n not in _WHERE),
        "source": method.source,
        "fault": "",
    }


def _count(method: Method, shape: Backbone, mode: FakeTensorMode) -> int | None:
    try:
        with mode:
            return count(method, shape)
    except _UNCOUNTED:
        return None


@cache
def _t5_base() -> tuple[Backbone, FakeTensorMode]:
    """T5-base without its weights (Raffel et al. 2020, arXiv 1910.10683), and the mode in which its tensors live."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.random.fork_rng(devices=[]):
        model = T5ForConditionalGeneration(T5Config(**_T5_BASE))
    tables = importlib.import_module("deltacompose_plugins.backbones").tables()
    return load_backbone(model, tables=tables), mode


def _places(method: Method, edits: Iterable[Edit]) -> str:
    """The kinds that the method's setting names; without such a setting, those of its edits."""
    for name, value in method.settings.items():
        if name in _WHERE:
            return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    kinds = [f"{e.stream} tokens" if isinstance(e, TokenEdit) else f"{e.place.stack} {e.place.layer}" for e in edits]
    return ", ".join(dict.fromkeys(kinds))


def _mergeable(backbone: Backbone, edits: Iterable[Edit]) -> str:
    if not all(isinstance(edit, WeightEdit) for edit in edits):
        return "no"
    lacking = [e for e in edits if isinstance(e, WeightEdit) and e.parameter not in backbone.parameter_names(e.place)]
    return "where it has biases" if lacking else "yes"

"""The public face: its names are seen by editors, its keywords are explicit, and `help` says what a name needs."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from pathlib import Path

import pytest

import deltacompose as dc
from deltacompose.study.recipe import Recipe, RecipeSettings

SOURCE = ast.parse(Path(dc.__file__).read_text(encoding="utf-8"))


def names_for_type_checkers():
    block = next(node for node in SOURCE.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_type_checkers_see_every_public_name_where_it_is_defined():
    seen = names_for_type_checkers()
    assert set(seen) == set(dc.__all__) - {"__version__"}
    for name, module in seen.items():
        value = getattr(dc, name)
        home = value.__name__.rpartition(".")[0] if inspect.ismodule(value) else value.__module__
        assert home == module, name


def test_dir_is_the_public_names_and_each_can_be_read():
    assert dir(dc) == sorted(dc.__all__)
    for name in dc.__all__:
        assert getattr(dc, name) is not None


@pytest.mark.parametrize("name", sorted(set(dc.__all__) - {"__version__"}))
def test_a_public_name_says_what_it_is_and_what_it_needs(name):
    documented = inspect.getdoc(getattr(dc, name))
    assert documented
    assert len(documented.splitlines()[0]) > 20
    assert name in (dc.__doc__ or ""), "the page of the package names it"


def test_the_keywords_of_training_are_the_fields_of_a_recipe():
    fields = {field.name for field in dataclasses.fields(Recipe)}
    assert set(typing.get_type_hints(RecipeSettings)) == fields
    documented = inspect.getdoc(dc.train)
    assert all(name in documented for name in fields)


def test_running_a_study_has_explicit_keywords_for_all_but_the_options_of_an_engine():
    parameters = inspect.signature(dc.run).parameters
    assert {"bank", "tokens", "timeout", "attempts", "backoff", "progress", "log_to"} <= set(parameters)


def test_loading_a_backbone_has_explicit_keywords():
    parameters = inspect.signature(dc.load_backbone).parameters
    assert {"head", "dtype", "device", "table", "attention"} <= set(parameters)
    assert inspect.Parameter.VAR_KEYWORD not in {parameter.kind for parameter in parameters.values()}


def test_a_misspelt_name_is_refused_by_its_name():
    with pytest.raises(AttributeError, match="module 'deltacompose' has no attribute 'trian'"):
        dc.trian  # noqa: B018

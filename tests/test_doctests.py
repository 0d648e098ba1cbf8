"""The examples of docstrings run, and everything that a user calls has one."""

import doctest
import importlib
import re

import doctest_names
import pytest
from house_counts import PACKAGE, ROOT, docstrings

import deltacompose as dc
from deltacompose import registry
from deltacompose.task.metrics import METRICS

HEAVY = re.compile(r"\b(dc|torch|pico|pico_backbone|pico_tokenizer|tiny|store|replace)\b")
"""Names of `doctest_names.heavy_names`."""
YEAR = re.compile(r"\b(?:18|19|20)\d\d\b|arXiv")
METHODS = ROOT / "plugins" / "deltacompose_plugins" / "methods"
"""Examples of methods run in `method/test_catalogue.py`."""
EXAMPLES = {path: "" for path, _, text in docstrings() if ">>>" in text and METHODS not in path.parents}
for path, _, text in docstrings():
    if path in EXAMPLES:
        EXAMPLES[path] += "".join(re.findall(r"^(?:>>>|\.\.\.) .*$", text, re.M))


def module_of(path):
    """The module in a file of the package or of the built-in members."""
    home = PACKAGE.parent if PACKAGE in path.parents else ROOT / "plugins"
    return importlib.import_module(".".join(path.relative_to(home).with_suffix("").parts).removesuffix(".__init__"))


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    return doctest_names.heavy_names(tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_a_module_run(path, tmp_path, request):
    module = module_of(path)
    names = doctest_names.names(tmp_path)
    if HEAVY.search(EXAMPLES[path]):
        names |= request.getfixturevalue("heavy")
    own = {name: value for name, value in names.items() if not hasattr(module, name)}
    failed, attempted = doctest.testmod(module, extraglobs=own)
    assert attempted
    assert not failed


@pytest.mark.parametrize("name", [name for name in dc.__all__ if name != "__version__"])
def test_every_public_name_has_an_example(name):
    assert ">>>" in getattr(dc, name).__doc__


@pytest.mark.parametrize(
    "name", [n for n, kind in dc.methods().items() if kind.__module__.startswith("deltacompose_plugins.methods")]
)
def test_every_built_in_method_has_an_example_and_a_source(name):
    method = dc.methods()[name]
    assert ">>>" in method.__doc__
    assert YEAR.search(method.source)


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_every_metric_names_its_source(metric):
    assert YEAR.search(metric.source)


@pytest.mark.parametrize("measure", registry.measures().values(), ids=lambda measure: measure.name)
def test_every_measure_of_similarity_names_its_source(measure):
    assert measure.source

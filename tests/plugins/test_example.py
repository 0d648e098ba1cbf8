"""The distribution to copy, installed as a stranger's would be: its method goes wherever the built-in ones go."""

from pathlib import Path

import hostile
import numpy as np
import picostudy
import pytest

import deltacompose as dc
from deltacompose import plugins
from deltacompose.errors import BadInput
from deltacompose.method import catalogue

ROOT = Path(__file__).parents[2]
COMPOSITIONS = ("red", "lora + red", "bitfit >> red")


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    """A small study of the method alone, at once with another and after another; and its report."""
    folder = tmp_path_factory.mktemp("example")
    study = picostudy.make(folder, tasks=("mood", "tone", "tune"), compositions=COMPOSITIONS)
    study.write(folder / "study.yaml")
    outcome = dc.run(study, folder / "store")
    words = ("report", folder / "study.yaml", "--store", folder / "store", "--out", folder / "figures")
    status, said, error = hostile.forked(ROOT / "plugins" / "deltacompose-example" / "src", map(str, words))
    assert status == 0, error
    return folder, outcome, said


def test_its_method_is_listed_with_where_it_comes_from():
    found = {one["name"]: one for one in plugins.describe(plugins.loaded())}
    assert found["example"]["state"] == "active"
    assert "red" in plugins.loaded().methods
    assert "red" in {row["method"] for row in catalogue.table(plugins.loaded().methods)}


def test_its_method_trains_transfers_and_stacks(carried_out):
    folder, outcome, _ = carried_out
    assert not outcome.failed
    for text in COMPOSITIONS:
        matrix = dc.transfer_matrix(folder / "store", composition=text)
        assert matrix.values.shape == (2, 3, 3)
        assert not np.isnan(matrix.values).any()


def test_its_method_is_in_every_figure(carried_out):
    folder, _, said = carried_out
    assert "report:" in said
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"red.relative.pdf", "red.graph.graphml", "red.transfer.csv"} <= names
    page = (folder / "figures" / "report.html").read_text()
    assert all(text in page for text in ("lora + red", "bitfit &gt;&gt; red"))


def test_nothing_of_the_house_speaks_of_it():
    for path in (ROOT / "deltacompose").rglob("*.py"):
        assert "deltacompose_example" not in path.read_text(encoding="utf-8"), path


def test_a_wrong_setting_of_it_is_refused_as_those_of_others_are():
    with pytest.raises(BadInput, match="red"):
        dc.parse("red(places=3)")

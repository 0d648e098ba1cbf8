"""Every record of results gives a tidy table and arrays with names, or a reason why that makes no sense for it."""

import dataclasses
import importlib
import inspect
import pkgutil

import numpy as np
import pandas as pd
import pytest
from made_up_study import CATEGORIES, study
from pictures import matrix_of_size

from deltacompose import analysis
from deltacompose.analysis.labelled import tidy
from deltacompose.analysis.transfer.difference import differences
from deltacompose.analysis.transfer.findings import gather
from deltacompose.analysis.transfer.initialization import InitTransfer
from deltacompose.analysis.transfer.lift import lifts
from deltacompose.analysis.transfer.reuse_summary import Used
from deltacompose.analysis.transfer.stacking import StackEffect
from deltacompose.analysis.transfer.uncertainty import marks

SCALARS = "a few numbers of one result, without axes: `vars` of it is the row"
SETTINGS = "settings of an analysis, not its result"
INPUT = "an input of an analysis, whose arrays differ in shape from task to task"
INSIDE = "a step inside an analysis; the analysis returns plain mappings, which commands print as JSON"
NO_TABLE = {
    "Estimate": SCALARS, "PermutationTest": SCALARS, "Agreement": SCALARS, "CategoryComparison": SCALARS,
    "Readout": SCALARS, "Choice": SCALARS, "Trivial": SCALARS, "Point": SCALARS, "Clusters": SCALARS,
    "Constants": SETTINGS, "Columns": SETTINGS, "Clause": SETTINGS, "RowCondition": SETTINGS, "Settings": SETTINGS,
    "Search": SETTINGS, "About": SETTINGS, "Measure": SETTINGS,
    "Prompts": INPUT, "StoredDeltas": INPUT, "Stack": INPUT, "Responses": INPUT, "Evidence": INPUT, "Table": INPUT,
    "Group": INSIDE, "Resampled": INSIDE, "Training": INSIDE, "Run": INSIDE, "Chosen": INSIDE,
    "Model": INSIDE, "Outcome": INSIDE, "Network": INSIDE,
    "Found": INSIDE, "Estimates": INSIDE,
}  # fmt: skip
NO_ARRAY = {
    "Lift": "one row of a table: it has no axes",
    "HeldOut": "rows of one held-out task: its sources are their only axis",
    "Completion": "its axes are places without names",
    "Learned": "arrays of different shapes",
    "Subspace": "a list of directions: it has one axis",
}


def records():
    """Every public dataclass of the analyses by its name."""
    for module in pkgutil.walk_packages(analysis.__path__, "deltacompose.analysis."):
        for name, member in vars(importlib.import_module(module.name)).items():
            own = inspect.isclass(member) and member.__module__ == module.name and not name.startswith("_")
            if own and dataclasses.is_dataclass(member):
                yield name, member


def test_every_record_has_a_table_and_arrays_or_a_reason():
    for name, record in records():
        if name not in NO_TABLE:
            assert hasattr(record, "to_pandas"), f"{name} has no to_pandas"
            assert hasattr(record, "to_xarray") or name in NO_ARRAY, f"{name} has no to_xarray"
        else:
            assert not hasattr(record, "to_pandas"), f"{name} has a table and a reason for none"


def initialised():
    random = np.random.default_rng(0)
    whole, fresh = (2, 3, 4), (2, 4)
    arrays = {"scores": random.random(whole), "own": random.random(fresh), "steps": random.random(whole),
              "own_steps": random.random(fresh), "test": random.random(whole), "own_test": random.random(fresh),
              "failed": random.random(whole) < 0.5}  # fmt: skip
    return InitTransfer(sources=tuple("abc"), targets=tuple("abcd"), seeds=(0, 1), composition="lora", **arrays)


def effect():
    values = np.random.default_rng(1).random((2, 3, 3))
    return StackEffect("lora + bitfit", "lora", tuple("abc"), tuple("abc"), (0, 1), values, None, ())


MADE = {
    "marks": lambda: marks(matrix_of_size(5)),
    "difference": lambda: differences(matrix_of_size(5), matrix_of_size(5, seeds=2)),
    "initialisation": initialised,
    "stack": effect,
    "used": lambda: Used("lora", "mean", False, None, tuple("ab"), (0, 1, 2), np.arange(6.0).reshape(2, 3)),
    "matrix": lambda: matrix_of_size(5),
    "findings": lambda: gather(study(), CATEGORIES),
}


@pytest.mark.parametrize("name", MADE)
def test_the_table_and_the_arrays_agree(name):
    pytest.importorskip("xarray")
    record = MADE[name]()
    table, arrays = record.to_pandas(), record.to_xarray()
    axes = [axis for axis in ("composition", "seed", "source", "target") if axis in arrays.dims]
    assert len(table) == np.prod([arrays.sizes[axis] for axis in axes])
    shared = [column for column in arrays.data_vars if column in table and table[column].dtype.kind in "fb"]
    assert shared
    for row in table.sample(5, random_state=0).to_dict("records"):
        for column in shared:
            at = {axis: row[axis] for axis in arrays[column].dims}
            np.testing.assert_equal(float(arrays[column].sel(at)), float(row[column]))


def test_a_table_repeats_arrays_along_axes_that_they_lack():
    names = {"seed": [0, 1], "task": ["a", "b"]}
    table = tidy({"score": (("seed", "task"), np.arange(4.0).reshape(2, 2)), "chance": (("task",), [0.5, 0.3])}, names)
    assert table.to_dict("list") == {
        "seed": [0, 0, 1, 1], "task": ["a", "b", "a", "b"], "score": [0.0, 1.0, 2.0, 3.0],
        "chance": [0.5, 0.3, 0.5, 0.3],
    }  # fmt: skip


def test_lifts_go_into_one_table():
    table = pd.concat([each.to_pandas() for each in lifts(matrix_of_size(5))], ignore_index=True)
    assert len(table) == 5
    assert set(table["verdict"]) <= {"above", "below", "includes", "unknown"}

"""Arrays with named axes: as tidy tables, and as arrays of the package xarray, which is optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    import xarray


def xarray_module() -> Any:
    """The package xarray.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import xarray
    except ImportError:
        raise BadInput("labelled arrays need the package xarray; pip install xarray") from None
    return xarray


def labelled(values: Floats, names: Mapping[str, Sequence[Any]], name: str) -> xarray.DataArray:
    """An array with these coordinates along its axes, in their order.

    Raises:
        BadInput: xarray is not installed.
    """
    return xarray_module().DataArray(values, coords=dict(names), dims=list(names), name=name)  # type: ignore[no-any-return]


def dataset(arrays: Mapping[str, tuple[Sequence[str], Any]], names: Mapping[str, Sequence[Any]]) -> xarray.Dataset:
    """Arrays by name, each with its axes, over common coordinates.

    Raises:
        BadInput: xarray is not installed.
    """
    variables = {name: (list(axes), values) for name, (axes, values) in arrays.items()}
    return xarray_module().Dataset(variables, coords={name: list(each) for name, each in names.items()})  # type: ignore[no-any-return]


def tidy(arrays: Mapping[str, tuple[Sequence[str], Any]], names: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """One row for each combination of names, with the value of every array; arrays without an axis repeat along it.

    >>> tidy({"p": (("source",), np.array([0.1, 0.2]))}, {"source": ["a", "b"]}).to_dict("list")
    {'source': ['a', 'b'], 'p': [0.1, 0.2]}
    """
    import pandas as pd  # late, because workers import this module and none of pandas

    axes = list(names)
    shape = tuple(len(names[axis]) for axis in axes)
    places = np.indices(shape).reshape(len(axes), -1)
    columns: dict[str, Any] = {
        axis: [names[axis][place] for place in across] for axis, across in zip(axes, places.tolist(), strict=True)
    }
    for name, (own, values) in arrays.items():
        columns[name] = np.asarray(values)[tuple(places[axes.index(axis)] for axis in own)]
    return pd.DataFrame(columns)

"""Arrays with named axes, for which the package xarray is optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deltacompose.analysis.arrays import Floats
from deltacompose.errors import BadInput

if TYPE_CHECKING:
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

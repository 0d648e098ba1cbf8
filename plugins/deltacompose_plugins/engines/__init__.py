"""The built-in engines: each a function of options that gives an executor (`deltacompose.engine.Executor`)."""

from __future__ import annotations

ENGINES = {
    "inprocess": "deltacompose_plugins.engines.inprocess:inprocess",
    "pool": "deltacompose_plugins.engines.pool:pool",
    "dask": "deltacompose_plugins.engines.cluster:dask",
}

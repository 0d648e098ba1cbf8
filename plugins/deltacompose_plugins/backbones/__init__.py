"""The built-in tables of backbones, a YAML file for each family, and the embedded backbone; read when asked for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltacompose.places.table import Table, read_table_file
from deltacompose.plugins.members import Lazy

FOLDER = Path(__file__).parent


@functools.cache
def table(family: str) -> Table:
    """The built-in table of a family, as `t5`."""
    return read_table_file(FOLDER / f"{family}.yaml")


def tables() -> dict[str, Table]:
    """Every built-in table by family."""
    return {family: table(family) for family in _families()}


def members() -> Mapping[str, Any]:
    """Result of the hook `deltacompose_backbones`: tables by family, and the loader of the embedded backbone."""
    lazy = {family: Lazy("deltacompose_plugins.backbones:table", family) for family in _families()}
    return lazy | {"embedded": "deltacompose_plugins.backbones.embedded:checkpoint"}


def _families() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))

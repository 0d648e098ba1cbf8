"""Studies, their cells and their training recipes."""

from deltacompose.study.config import (
    LAUNCHED,
    SHARDED,
    BackboneChoice,
    Cell,
    DimensionChoice,
    Rows,
    Study,
    SubspaceChoice,
    recipe_of,
)

__all__ = [
    "BackboneChoice",
    "Cell",
    "DimensionChoice",
    "LAUNCHED",
    "Rows",
    "SHARDED",
    "Study",
    "SubspaceChoice",
    "recipe_of",
]

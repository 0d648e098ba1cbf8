"""Studies, their cells and their training recipes.

`config` has the study and the cell with its key, `recipe` the training of a stage, `new_tasks` clusters and reuse of
deltas; `queries` selects records, `machine` reads the resources of this machine.
"""

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

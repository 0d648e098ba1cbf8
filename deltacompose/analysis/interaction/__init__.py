"""Interaction of methods: factorial effects, order effects, convergence.

`analysis` makes one record per group of runs. `runs` reads runs from a table (`row_filter` selects rows,
`composition_text` names the methods), `runs_of_store` from a store. `factorial`, `order` and `convergence` compute the
statistics, `bootstrap` their intervals, `selection` the choice of learning rates, `cost_scores` costs; `caveats` lists
reasons to doubt.
"""

from deltacompose.analysis.interaction.analysis import DRAWS, LEVEL, Group, Record, analyse, histories

__all__ = ["DRAWS", "Group", "LEVEL", "Record", "analyse", "histories"]

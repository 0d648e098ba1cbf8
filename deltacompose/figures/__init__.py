"""Figures: one function each, `NAME(data, path=None, *, ax=None, style=None, …)`, which returns axes or a figure.

`data` is a record of ours, a DataFrame, or the path of a table; nothing is saved without a path. Names are imported
when they are first used.

A heatmap: `heatmaps` has the function, `heatmap_values` the numbers, `heatmap_style` the text, colour and marks of a
cell, `heatmap_layout` the positions, `heatmap_draw` the drawing; `comparisons` has panels and differences,
`similarities` heatmaps with a dendrogram. A graph: `task_graphs`, `graph_layout`. Other figures: `lifts`, `curves`,
`effects`, `predictors`, `spaces`, `tradeoffs`, `recommendations`. Shared: `rounding` (every printed number), `labels`,
`palette`, `venues`, `frames`, `style` and `figure_files`.

>>> from deltacompose import figures
>>> figure = figures.panels({"lora": matrix, "the same": matrix}, folder / "panels.pdf", value="score", style="icml")
>>> [path.name for path in folder.iterdir()]
['panels.pdf']
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltacompose import moved

if TYPE_CHECKING:  # for type checkers and editors, which do not call `__getattr__`
    from deltacompose.figures.comparisons import difference, panels
    from deltacompose.figures.curves import convergence
    from deltacompose.figures.effects import factorial, orders
    from deltacompose.figures.heatmaps import heatmap
    from deltacompose.figures.lifts import lift
    from deltacompose.figures.predictors import prediction, reliability, similarity_transfer
    from deltacompose.figures.recommendations import recommendation
    from deltacompose.figures.similarities import clustermap, similarity
    from deltacompose.figures.spaces import dimension, spectrum
    from deltacompose.figures.task_graphs import graph
    from deltacompose.figures.tradeoffs import cost, scale

_HOMES = {
    "figures.comparisons": "difference panels",
    "figures.curves": "convergence",
    "figures.effects": "factorial orders",
    "figures.heatmaps": "heatmap",
    "figures.lifts": "lift",
    "figures.predictors": "prediction reliability similarity_transfer",
    "figures.recommendations": "recommendation",
    "figures.similarities": "clustermap similarity",
    "figures.spaces": "dimension spectrum",
    "figures.task_graphs": "graph",
    "figures.tradeoffs": "cost scale",
}
_NAMES = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = [
    "clustermap",
    "convergence",
    "cost",
    "difference",
    "dimension",
    "factorial",
    "graph",
    "heatmap",
    "lift",
    "orders",
    "panels",
    "prediction",
    "recommendation",
    "reliability",
    "scale",
    "similarity",
    "similarity_transfer",
    "spectrum",
]

__getattr__ = moved.on_first_use("deltacompose.figures", _NAMES)


def __dir__() -> list[str]:
    return sorted(__all__)

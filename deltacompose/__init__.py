"""deltacompose: compose delta-tuning methods, and find out how tasks relate.

Importing this runs nothing: what is asked for is imported when it is asked for. `dir(deltacompose)` lists the names,
and `help` of each says what it needs.

One delta:
    methods, parse, Composition: the installed methods, and compositions of them as text or by `+` and `>>`.
    load_backbone: a pretrained model as named places (needs its files, or a network).
    tasks: the installed tasks; those of the hub need the extra `hub`.
    train, evaluate, attached, init_weights, Recipe: on one backbone and one task.
    Delta, load_delta: trained compositions in folders.

Many:
    Study, plan, run: a grid of experiments, its cells, and running those that a store lacks.
    records, transfer_matrix, TransferMatrix: what a store holds.
    heatmap, task_graph: figures and graphs of a transfer matrix.
    figures, style: every figure as a function, and the widths and fonts of journals and conferences for them.
    Library, recommend: libraries of deltas, and recommendations for a new task.

Bad input raises `BadInput`, whose text is one sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltacompose import moved

if TYPE_CHECKING:  # for type checkers and editors, which do not call `__getattr__`
    from deltacompose import figures
    from deltacompose.analysis.graph.construction import task_graph
    from deltacompose.analysis.matrix import TransferMatrix
    from deltacompose.api.deltas import attached, evaluate, init_weights, train
    from deltacompose.api.planned import plan
    from deltacompose.api.stores import records, transfer_matrix
    from deltacompose.api.studies import run
    from deltacompose.composition import Composition
    from deltacompose.delta.delta import Delta
    from deltacompose.errors import BadInput
    from deltacompose.figures.heatmaps import heatmap
    from deltacompose.figures.venues import style
    from deltacompose.library.library import Library
    from deltacompose.library.recommend import recommend
    from deltacompose.registry import load_backbone, load_delta, methods, parse, tasks
    from deltacompose.study.config import Study
    from deltacompose.study.recipe import Recipe

__version__ = "0.1.0"

_HOMES = {
    "registry": "load_backbone load_delta methods parse tasks",
    "api.deltas": "attached evaluate init_weights train",
    "api.planned": "plan",
    "api.studies": "run",
    "api.stores": "records transfer_matrix",
    "study.config": "Study",
    "study.recipe": "Recipe",
    "composition": "Composition",
    "delta.delta": "Delta",
    "errors": "BadInput",
    "figures": "figures",
    "analysis.matrix": "TransferMatrix",
    "analysis.graph.construction": "task_graph",
    "figures.heatmaps": "heatmap",
    "figures.venues": "style",
    "library.library": "Library",
    "library.recommend": "recommend",
}
_NAMES = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = [
    "BadInput",
    "Composition",
    "Delta",
    "Library",
    "Recipe",
    "Study",
    "TransferMatrix",
    "__version__",
    "attached",
    "evaluate",
    "figures",
    "heatmap",
    "init_weights",
    "load_backbone",
    "load_delta",
    "methods",
    "parse",
    "plan",
    "recommend",
    "records",
    "run",
    "style",
    "task_graph",
    "tasks",
    "train",
    "transfer_matrix",
]
moved.install()
__getattr__ = moved.on_first_use("deltacompose", _NAMES)


def __dir__() -> list[str]:
    return sorted(__all__)

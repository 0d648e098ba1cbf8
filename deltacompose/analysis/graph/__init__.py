"""The task-similarity graph: edges, communities, centrality.

`construction` makes the graph of a transfer matrix; `edges` chooses edges from any square matrix; `communities` groups
tasks.
"""

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.graph.construction import (
    HIGH,
    Value,
    affinity,
    edge_stability,
    incomplete,
    summary,
    task_graph,
    write,
)

__all__ = ["Floats", "HIGH", "Value", "affinity", "edge_stability", "incomplete", "summary", "task_graph", "write"]

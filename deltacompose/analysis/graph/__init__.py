"""The task-similarity graph: edges, communities, centrality."""

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

"""The task-similarity graph: edges, communities, centrality."""

from deltacompose.analysis.graph.construction import (
    HIGH,
    Floats,
    Value,
    affinity,
    edge_stability,
    incomplete,
    summary,
    task_graph,
    write,
)

__all__ = ["Floats", "HIGH", "Value", "affinity", "edge_stability", "incomplete", "summary", "task_graph", "write"]

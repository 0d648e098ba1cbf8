"""Tasks: the contract, examples, metrics, and tasks described by data."""

from deltacompose.task.task import SPLITS, Example, Kind, Task, check_no_overlap, score

__all__ = ["Example", "Kind", "SPLITS", "Task", "check_no_overlap", "score"]

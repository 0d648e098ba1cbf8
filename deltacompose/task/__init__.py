"""Tasks: the contract, examples, metrics, and tasks described by data.

`task` is the contract, `examples` draws fewer examples, `metrics` scores them, `answers` extracts answers from texts.
Tasks from data: `description` has the fields, `sources` the rows, `build` turns them into examples, `instructions`
reads instruction data, `verify` compares description and data. `named` finds a task by name; `mixture` joins tasks,
`mixed_rows` their examples.
"""

from deltacompose.task.task import SPLITS, Example, Kind, Task, check_no_overlap, score

__all__ = ["Example", "Kind", "SPLITS", "Task", "check_no_overlap", "score"]

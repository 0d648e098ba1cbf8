"""Tasks described by a few lines of data: the embedded ones, those of the Hugging Face hub, and a user's own."""

from deltacompose.taskdata.checking import baselines, prefetch, verify
from deltacompose.taskdata.reading import task_from_mapping, task_from_row

__all__ = ["baselines", "prefetch", "task_from_mapping", "task_from_row", "verify"]

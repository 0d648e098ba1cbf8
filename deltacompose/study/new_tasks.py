"""Settings for tasks that are new to a study's deltas: clusters, and several trained deltas at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import MaxLen, MinLen
from pydantic import ConfigDict

from deltacompose.limits import EXPRESSION_CHARACTERS, NAME_CHARACTERS
from deltacompose.study.recipe import Count

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Name = Annotated[str, MinLen(1), MaxLen(NAME_CHARACTERS)]
_Expression = Annotated[str, MinLen(1), MaxLen(EXPRESSION_CHARACTERS)]


@dataclass(frozen=True)
class ClusterChoice:
    """Clusters of the study's tasks, with one delta trained on the tasks of each.

    Attributes:
        composition: one of the study's, whose deltas are clustered and which is trained on the clusters; `from` in
            a file.
        by: `weights` (what the deltas do to the weights, or their tensors), `transfer`, or a measure of similarity.
        count: how many clusters; `auto` takes the number with the best silhouette.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    composition: _Expression
    by: _Name = "weights"
    count: Count | Literal["auto"] = "auto"


Way = Literal[
    "nothing",
    "single",
    "mean",
    "similarity",
    "ties",
    "task_arithmetic",
    "few_shot",
    "arrow",
    "cluster",
    "all",
]
"""Ways of using trained deltas on a new task: see `ReuseChoice`."""


@dataclass(frozen=True)
class ReuseChoice:
    """Use of several trained deltas on held-out tasks with few examples, together and one at a time.

    Attributes:
        ways: `nothing`, a fresh delta; `single`, the source with the best score on the few examples; the `mean`, the
            mean weighted by `similarity` of embeddings, `ties`, `task_arithmetic`; `few_shot`, weights found on the
            examples without gradients; `arrow`, routing (LoRA alone); `cluster`, the best of the clusters' deltas on
            the examples; `all`, one delta trained on all tasks.
        shots: training examples per class of the held-out task.
        top: how many experts act on a token, for `arrow`.
        train: the ways from which training on the few examples starts as well; None is all but `arrow`.
        steps: of that training; None is the study's.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    ways: Annotated[tuple[Way, ...], MinLen(1)] = ("nothing", "single", "mean", "few_shot")
    shots: Annotated[tuple[Count, ...], MinLen(1)] = (16,)
    top: Count = 4
    train: tuple[Way, ...] | None = None
    steps: Count | None = None


MERGES = ("mean", "ties", "task_arithmetic")
"""Ways of merging deltas that need nothing of a target; `merge:mean` names one in `start_from`."""
MERGE = "merge:"

"""Training of one delta or a bank of deltas, and evaluation.

`loop` trains jobs together and decides which pass through the backbone in one pass (`_groups`, by `_budget` of tokens);
`learner` is one delta in training; `flat` holds weights, gradients and moments of a bank as rows of matrices and steps
AdamW; `memory` measures peaks. How many cells are given to one call as a bank is decided in `cells/grouping.py`.
"""

from deltacompose.training.evaluation import Evaluation, evaluate, evaluate_many
from deltacompose.training.loop import Checkpoints, State, frozen, learn, recomputing, train

__all__ = ["Checkpoints", "Evaluation", "State", "evaluate", "evaluate_many", "frozen", "learn", "recomputing", "train"]

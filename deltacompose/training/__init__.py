"""Training of one delta or a bank of deltas, and evaluation.

`loop` trains jobs together and decides which of them pass through the backbone at once (`_groups`); `evaluation` scores
deltas and states how many tokens a pass may hold (`tokens_at_once`); `learner` is one delta in training; `flat` holds
weights, gradients and moments of a bank as rows of matrices and steps AdamW; `memory` measures
peaks; `embedding` is the mean state of a task's inputs.

How many cells one call trains as a bank is decided by `engine/schedule.py` (`by_bank`) and `cells/grouping.py`.
"""

from deltacompose.training.evaluation import Evaluation, evaluate, evaluate_many
from deltacompose.training.loop import Checkpoints, State, frozen, learn, recomputing, train

__all__ = ["Checkpoints", "Evaluation", "State", "evaluate", "evaluate_many", "frozen", "learn", "recomputing", "train"]

"""Training of one delta or a bank of deltas, and evaluation."""

from deltacompose.training.evaluation import Evaluation, evaluate, evaluate_many
from deltacompose.training.loop import Checkpoints, State, frozen, learn, recomputing, train

__all__ = ["Checkpoints", "Evaluation", "State", "evaluate", "evaluate_many", "frozen", "learn", "recomputing", "train"]

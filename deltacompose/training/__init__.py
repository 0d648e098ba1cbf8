"""Training of one delta or a bank of deltas, and evaluation."""

from deltacompose.training.loop import Checkpoints, Evaluation, State, evaluate, frozen, learn, recomputing, train

__all__ = ["Checkpoints", "Evaluation", "State", "evaluate", "frozen", "learn", "recomputing", "train"]

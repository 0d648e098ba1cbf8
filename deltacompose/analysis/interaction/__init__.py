"""Interaction of methods: factorial effects, order effects, convergence."""

from deltacompose.analysis.interaction.analysis import DRAWS, LEVEL, Group, Record, analyse, histories

__all__ = ["DRAWS", "Group", "LEVEL", "Record", "analyse", "histories"]

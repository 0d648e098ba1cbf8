"""Trained compositions: files, merging, arithmetic, exchange with peft."""

from deltacompose.delta.delta import FORMAT, Delta, load

__all__ = ["Delta", "FORMAT", "load"]

"""Trained compositions: files, merging, arithmetic, exchange with peft.

`delta` is the record and its files; `merge` writes a delta into a plain model and compares the logits of both
(`compared`); `arithmetic` averages and adds deltas; `exchange` and the modules `peft_*` read and write peft's folders.
"""

from deltacompose.delta.delta import FORMAT, Delta, load

__all__ = ["Delta", "FORMAT", "load"]

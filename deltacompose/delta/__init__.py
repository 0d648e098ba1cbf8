"""Trained compositions: files, merging, arithmetic, exchange with peft.

`delta` is the record and its files, `model_card` its card; `merge` writes a delta into a plain model and compares the
logits of both (`compared`); `arithmetic` averages and adds deltas, `reuse` makes one of several for a new task.

`exchange` reads and writes peft's folders and plain models, with `peft_export` and `peft_import`. These use
`peft_folder`, `peft_modules`, `peft_options`, `peft_lora`, `peft_initial`, `peft_saved`, `peft_tied`,
`peft_prompt_check` and `prefix_positions`.
"""

from deltacompose.delta.delta import FORMAT, Delta, load

__all__ = ["Delta", "FORMAT", "load"]

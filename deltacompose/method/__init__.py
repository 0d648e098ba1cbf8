"""The contract of a delta-tuning method, its weights, and the catalogue of methods.

`contract` is what a method implements; `weights` makes its tensors, `allocation` bounds them; `catalogue` describes
methods; `parameter_overlap` reports parts that train the same parameters.
"""

from deltacompose.method.contract import (
    Carries,
    Category,
    Edit,
    Finalizes,
    HasConstants,
    KeyValueEdit,
    Method,
    OutputEdit,
    Penalizes,
    Prepares,
    Tensors,
    TokenEdit,
    Updates,
    WeightEdit,
    edits_of,
)

__all__ = [
    "Carries",
    "Category",
    "Edit",
    "Finalizes",
    "HasConstants",
    "KeyValueEdit",
    "Method",
    "OutputEdit",
    "Penalizes",
    "Prepares",
    "Tensors",
    "TokenEdit",
    "Updates",
    "WeightEdit",
    "edits_of",
]

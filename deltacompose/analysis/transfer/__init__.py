"""Transfer matrices: reading, intervals, summaries.

`summaries` compares categories. Matrices come from `records` of a store, from files (`tidy_tables` with `tidy_scores`,
`plain_scores`, `csv_cells`, `score_checks`), from `published` scores of any form and from `labelled_arrays`.
`uncertainty` has intervals and marks, `lift` the gain over the untouched backbone, `difference` two matrices compared.
`initialization`, `stacking`, `part_swaps` and `reuse_summary` read other forms of transfer. `findings` collects a
study's records for the report.
"""

from deltacompose.analysis.transfer.summaries import (
    MARGIN,
    CategoryComparison,
    InitTransfer,
    Marks,
    StackEffect,
    TransferMatrix,
    compare_categories,
    frame,
    from_frame,
    from_records,
    initialisation_transfer,
    intervals,
    kinds_of,
    marks,
    mean_over_seeds,
    read,
    read_categories,
    read_scores,
    stack_effect,
    summary,
    with_examples,
    write,
    write_scores,
)

__all__ = [
    "CategoryComparison",
    "InitTransfer",
    "MARGIN",
    "Marks",
    "StackEffect",
    "TransferMatrix",
    "compare_categories",
    "frame",
    "from_frame",
    "from_records",
    "initialisation_transfer",
    "intervals",
    "kinds_of",
    "marks",
    "mean_over_seeds",
    "read",
    "read_categories",
    "read_scores",
    "stack_effect",
    "summary",
    "with_examples",
    "write",
    "write_scores",
]

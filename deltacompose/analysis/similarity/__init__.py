"""Similarity of tasks and deltas: measures and their formulas.

`measure` is the contract of a measure; `formulas`, `subspaces` and `transferability` have the formulas;
`stored_arrays` reads what measures need from a store; `compare` computes every measure that is possible; `clusters`
groups tasks; `large_scale` handles many thousands of deltas.
"""

from deltacompose.analysis.similarity.formulas import (
    cosine,
    delta_cosine,
    delta_inner_products,
    euclidean,
    fisher_diagonal,
    flatten,
    gradient_cosine,
    low_rank,
    mean_token_cosine,
    neuron_overlap,
    neuron_overlap_windows,
    prediction_agreement,
    prompt_closeness,
    prompt_cosine,
    task2vec,
    task2vec_distance,
    token_closeness,
    token_cosine,
)

__all__ = [
    "cosine",
    "delta_cosine",
    "delta_inner_products",
    "euclidean",
    "fisher_diagonal",
    "flatten",
    "gradient_cosine",
    "low_rank",
    "mean_token_cosine",
    "neuron_overlap",
    "neuron_overlap_windows",
    "prediction_agreement",
    "prompt_closeness",
    "prompt_cosine",
    "task2vec",
    "task2vec_distance",
    "token_closeness",
    "token_cosine",
]

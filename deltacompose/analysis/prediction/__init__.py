"""Prediction of transfer: evaluation of predictors, matrix completion, choice of sources.

`evaluate` scores predictors; `matrix_completion` estimates unmeasured cells; `source_selection` chooses sources under a
budget; `mixtures` turns predictions into weights of several sources.
"""

from deltacompose.analysis.prediction.evaluate import (
    Completion,
    best_single_source,
    choose_cells,
    complete,
    completion_quality,
    gains_of,
    kendall_pooled,
    kendall_within,
    mean_known,
    ndcg,
    ndcg_of_chance,
    ndcg_test,
    popularity,
    rank_discounts,
    regret_at,
    similarities_to,
    softmax_mixture,
    spearman_within,
    summary,
    top_k,
    weighted_top_k,
)

__all__ = [
    "Completion",
    "best_single_source",
    "choose_cells",
    "complete",
    "completion_quality",
    "gains_of",
    "kendall_pooled",
    "kendall_within",
    "mean_known",
    "ndcg",
    "ndcg_of_chance",
    "ndcg_test",
    "popularity",
    "rank_discounts",
    "regret_at",
    "similarities_to",
    "softmax_mixture",
    "spearman_within",
    "summary",
    "top_k",
    "weighted_top_k",
]

"""The built-in similarity measures, one file per family: a name and where it is. Listing them imports none."""

from __future__ import annotations

_FAMILIES = {
    "prompts": (
        "prompt_cosine",
        "prompt_mean_cosine",
        "prompt_token_cosine",
        "prompt_closeness",
        "prompt_token_closeness",
        "prompt_overlap",
        "prompt_geodesic",
        "prompt_procrustes",
        "prompt_distance",
    ),
    "weights": ("weight_cosine", "weight_distance"),
    "low_rank": ("delta_cosine", "delta_overlap", "delta_overlap_z", "delta_geodesic"),
    "behaviour": ("neuron_overlap", "neuron_overlap_top", "gradient_cosine", "task2vec", "prediction_agreement"),
    "transferability": ("logme", "leep", "nce"),
}

MEASURES = {name: f"{__name__}.{family}:{name.upper()}" for family, names in _FAMILIES.items() for name in names}

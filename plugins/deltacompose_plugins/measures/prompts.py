"""Measures of soft prompts."""

from math import inf, pi, sqrt

from deltacompose.analysis import similarity
from deltacompose.analysis.similarity import subspaces as alignment
from deltacompose.analysis.similarity.measure import Measure

_SU = "Su et al. 2022, On Transferability of Prompt Tuning (arXiv 2111.06719)"
_VU = "Vu et al. 2022, SPoT (arXiv 2110.07904)"

PROMPT_COSINE = Measure(
    name="prompt_cosine",
    needs="prompts",
    function=similarity.prompt_cosine,
    range=(-1.0, 1.0),
    invariances="a positive scale of each prompt; one rotation of the width and one order of the tokens of all prompts",
    source=f"{_SU}, C_concat",
)

PROMPT_MEAN_COSINE = Measure(
    name="prompt_mean_cosine",
    needs="prompts",
    function=similarity.mean_token_cosine,
    range=(-1.0, 1.0),
    invariances="a positive scale of each prompt, not of one token; one rotation of all prompts' width; each prompt's "
    "order of tokens",
    source=f"{_VU}, cosine similarity of average tokens",
)

PROMPT_TOKEN_COSINE = Measure(
    name="prompt_token_cosine",
    needs="prompts",
    function=similarity.token_cosine,
    range=(-1.0, 1.0),
    invariances="a positive scale of each token; one rotation of all prompts' width; each prompt's order of tokens",
    source=f"{_VU}, per-token average cosine similarity; {_SU}, C_average",
)

PROMPT_CLOSENESS = Measure(
    name="prompt_closeness",
    needs="prompts",
    function=similarity.prompt_closeness,
    range=(0.0, 1.0),
    invariances="one shift, one rotation and one order of tokens for all prompts; not the scale",
    source=f"{_SU}, E_concat",
)

PROMPT_TOKEN_CLOSENESS = Measure(
    name="prompt_token_closeness",
    needs="prompts",
    function=similarity.token_closeness,
    range=(0.0, 1.0),
    invariances="one shift and one rotation of all prompts' width; each prompt's order of tokens; not the scale",
    source=f"{_SU}, E_average",
)

PROMPT_OVERLAP = Measure(
    name="prompt_overlap",
    needs="prompts",
    function=alignment.prompt_overlap,
    range=(0.0, 1.0),
    invariances="the scale and the order of tokens of each prompt; one rotation of all prompts' width",
    source="overlap of Hu et al. 2021 (arXiv 2106.09685, eq. 4) of 10 leading right-singular vectors, all if fewer",
)

PROMPT_GEODESIC = Measure(
    name="prompt_geodesic",
    needs="prompts",
    function=alignment.prompt_geodesic,
    range=(0.0, pi / 2 * sqrt(10)),
    invariances="the scale and the order of tokens of each prompt; one rotation of all prompts' width",
    source="Björck & Golub 1973, Numerical methods for computing angles between linear subspaces; root of Σθ²",
    distance=True,
)

PROMPT_PROCRUSTES = Measure(
    name="prompt_procrustes",
    needs="prompts",
    function=alignment.procrustes,
    range=(0.0, sqrt(2)),
    invariances="a positive scale and a rotation of the width of each prompt; one order of all prompts' tokens",
    source="Schönemann 1966, A generalized solution of the orthogonal Procrustes problem",
    distance=True,
)

PROMPT_DISTANCE = Measure(
    name="prompt_distance",
    needs="prompts",
    function=lambda prompts: similarity.euclidean(prompts.reshape(len(prompts), -1)),
    range=(0.0, inf),
    invariances="one shift, one rotation and one order of tokens for all prompts; not the scale",
    source="Euclidean distance of the flattened prompts",
    distance=True,
)

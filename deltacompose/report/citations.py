"""Sources that the report cites: those of methods by name, and of the procedures behind its numbers.

The report loads no method, so the sources of the built-in ones stand here; a test compares them with `Method.source`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

METHODS = {
    "adapter": "Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, arXiv 1902.00751",
    "parallel_adapter": (
        "He et al. 2021, Towards a Unified View of Parameter-Efficient Transfer Learning, arXiv 2110.04366"
    ),
    "compacter": "Mahabadi et al. 2021, Compacter: Efficient Low-Rank Hypercomplex Adapter Layers, arXiv 2106.04647",
    "prompt": "Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, arXiv 2104.08691",
    "p_tuning": "Liu et al. 2021, GPT Understands, Too, arXiv 2103.10385",
    "prefix": "Li & Liang 2021, Prefix-Tuning: Optimizing Continuous Prompts for Generation, arXiv 2101.00190",
    "ia3": (
        "Liu et al. 2022, Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, "
        "arXiv 2205.05638"
    ),
    "bitfit": (
        "Ben Zaken et al. 2022, BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked "
        "Language-models, arXiv 2106.10199"
    ),
    "norm": (
        "Qi et al. 2022, Parameter-Efficient Tuning on Layer Normalization for Pre-trained Language Models, "
        "arXiv 2211.08682"
    ),
    "last_layers": (
        "Lee et al. 2019, What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning, arXiv 1911.03090"
    ),
    "diff_pruning": "Guo et al. 2021, Parameter-Efficient Transfer Learning with Diff Pruning, arXiv 2012.07463",
    "masked": "Sung et al. 2021, Training Neural Networks with Fixed Sparse Masks, arXiv 2111.09839",
    "lora": "Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685",
    "arrow": (
        "Ostapenko et al. 2024, Towards Modular LLMs by Building and Reusing a Library of LoRAs, arXiv 2405.11157"
    ),
    "vera": "Kopiczko et al. 2023, VeRA: Vector-based Random Matrix Adaptation, arXiv 2310.11454",
    "intrinsic": "Li et al. 2018, Measuring the Intrinsic Dimension of Objective Landscapes, arXiv 1804.08838",
    "intrinsic_prompt": (
        "Qin et al. 2021, Exploring Universal Intrinsic Task Subspace via Prompt Tuning, arXiv 2110.07867"
    ),
    "peft": "Mangrulkar et al. 2022, PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods",
}
"""By name of the method, as in expressions; `full` and `selective` are those of `DELTA_TUNING`."""
DELTA_TUNING = (
    "Ding et al. 2023, Parameter-efficient fine-tuning of large-scale pre-trained language models, "
    "Nature Machine Intelligence 5, arXiv 2203.06904"
)
METHODS |= dict.fromkeys(("full", "selective"), DELTA_TUNING)
ADAMW = "Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, arXiv 1711.05101"
INTERVAL = "Banerjee 1960, On confidence interval for two-means problem based on separate estimates, Sankhyā 22"
DISCOVERIES = (
    "Benjamini & Yekutieli 2001, The control of the false discovery rate in multiple testing under dependency, "
    "Annals of Statistics 29"
)
RANDOM_PROMPTS = "Su et al. 2022, On Transferability of Prompt Tuning for Natural Language Processing, arXiv 2111.06719"


def methods_in(composition: str) -> list[str]:
    """The names of the methods in an expression, each once.

    >>> methods_in("prompt(length=8) + lora(places=('attention.query',)) >> prompt")
    ['prompt', 'lora']
    """
    bare = composition
    while (shorter := re.sub(r"\([^()]*\)|'[^']*'|\"[^\"]*\"", "", bare)) != bare:
        bare = shorter
    return list(dict.fromkeys(re.findall(r"[A-Za-z_]\w*", bare)))


class References:
    """A numbered list of sources that grows as they are cited; the number of a source stays."""

    def __init__(self) -> None:
        self.sources: list[str] = []

    def __call__(self, *sources: str | None) -> str:
        """` [1, 3]`, the numbers of these sources, or nothing where none is known."""
        numbers = []
        for source in sources:
            if source is None:
                continue
            if source not in self.sources:
                self.sources.append(source)
            numbers.append(self.sources.index(source) + 1)
        return f" [{', '.join(map(str, dict.fromkeys(numbers)))}]" if numbers else ""


def listed(texts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last

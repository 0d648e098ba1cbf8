"""Table of peft's types: how each acts, where, and which are not supported and why.

Whether a type's change is independent of the pretrained matrix, starts neutral and goes through `torch.func.vmap` was
measured on its layers; `tests/test_peft.py` measures it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deltacompose.method import Category

LINEAR = ("*attention.query", "*attention.value")


@dataclass(frozen=True)
class Tuner:
    """One of peft's types.

    Attributes:
        acts: on a pretrained `matrix`; as a `copy` of a module's parameters; as `tokens` before the input; as `keys`
            and values before an attention's own. Empty where it cannot be bridged.
        neutral: whether it changes nothing, to the last bit, before its first step.
        additive: whether its change is the same for every pretrained matrix; ΔW then keeps its full precision.
        bias: whether it `moves` the bias that a place has, too, or `adds` one where there is none.
        vmap: whether its layers go through `torch.func.vmap`; a bank loops over the others.
        places: the kinds that it changes if none are named.
        needs: options without a sensible default.
        why: what stands against it, where it cannot be bridged.
    """

    source: str
    acts: Literal["matrix", "copy", "tokens", "keys", ""] = "matrix"
    neutral: bool = True
    additive: bool = False
    bias: Literal["", "moves", "adds"] = ""
    vmap: bool = True
    places: tuple[str, ...] = LINEAR
    category: Category = "reparameterization"
    learning_rate: float = 2e-3
    needs: tuple[str, ...] = ()
    why: str = ""

    @property
    def mergeable(self) -> str:
        """Whether what it does is a change of parameters that a model has: yes, no, or where it has biases."""
        if self.acts not in ("matrix", "copy"):
            return "no"
        return "where it has biases" if self.bias == "adds" else "yes"


def _without(source: str, why: str) -> Tuner:
    return Tuner(source, acts="", why=why)


def _tokens(source: str, learning_rate: float = 1e-2) -> Tuner:
    return Tuner(
        source,
        acts="tokens",
        neutral=False,
        places=(),
        category="addition",
        learning_rate=learning_rate,
        needs=("num_virtual_tokens",),
    )


TUNERS: Mapping[str, Tuner] = {
    "lora": Tuner("Hu et al. 2022, arXiv 2106.09685", additive=True),
    "adalora": Tuner("Zhang et al. 2023, arXiv 2303.10512", additive=True),
    "adamss": Tuner("AdaMSS, as in peft", additive=True, bias="moves"),
    "beft": Tuner("BEFT 2025, arXiv 2509.15974", additive=True, bias="adds", category="specification"),
    "boft": Tuner("Liu et al. 2024, arXiv 2311.06243"),
    "c3a": Tuner("Chen et al. 2024, arXiv 2407.19342", neutral=False, additive=True, vmap=False),
    "deft": Tuner("DEFT, as in peft", neutral=False, vmap=False),
    "delora": Tuner("Bini et al. 2025, arXiv 2503.18225", additive=True),
    "fourierft": Tuner("Gao et al. 2024, arXiv 2405.03003", neutral=False, additive=True, vmap=False),
    "frod": Tuner("FRoD 2026, doi 10.1609/aaai.v40i31.39813", neutral=False, vmap=False),
    "glora": Tuner("Chavan et al. 2023, arXiv 2306.07967", bias="moves"),
    "gralora": Tuner("Jung et al. 2025, arXiv 2505.20355", additive=True),
    "hira": Tuner("Huang et al. 2025, openreview TwJrTz9cRS"),
    "hra": Tuner("Yuan et al. 2024, arXiv 2405.17484", neutral=False),
    "ia3": Tuner(
        "Liu et al. 2022, arXiv 2205.05638",
        bias="moves",
        places=("*attention.key", "*attention.value", "ffn.down"),
        category="addition",
        learning_rate=1e-2,
    ),
    "ln_tuning": Tuner("Zhao et al. 2023, arXiv 2312.11420", acts="copy", places=("*norm",), category="specification"),
    "loha": Tuner("Hyeon-Woo et al. 2022, arXiv 2108.06098", additive=True, vmap=False),
    "lokr": Tuner("Edalati et al. 2022, arXiv 2212.10650", additive=True),
    "miss": Tuner("Kang and Yin 2024, arXiv 2409.15371", additive=True),
    "oft": Tuner("Qiu et al. 2023, arXiv 2306.07280", vmap=False),
    "osf": Tuner("Nayak et al. 2025, arXiv 2504.07097", neutral=False, additive=True),
    "peanut": Tuner("Zhong et al. 2024, arXiv 2410.01870"),
    "psoft": Tuner("PSOFT 2026, openreview FSHrinMArK", additive=True),
    "randlora": Tuner("Albert et al. 2025, arXiv 2502.00987", additive=True, vmap=False),
    "road": Tuner("Liao and Monz 2024, arXiv 2409.00119", bias="moves"),
    "shira": Tuner("Bhardwaj et al. 2024, arXiv 2406.13175", additive=True, vmap=False, category="specification"),
    "supertuning": Tuner("Super-Tuning, arXiv 2607.09287", additive=True, category="specification"),
    "tinylora": Tuner("TinyLoRA 2026, arXiv 2602.04118", additive=True),
    "trainable_tokens": Tuner(
        "peft", places=("embedding",), category="specification", needs=("token_indices",), learning_rate=1e-3
    ),
    "unilora": Tuner("UniLoRA 2025, arXiv 2506.00799", neutral=False, additive=True),
    "vblora": Tuner("Li et al. 2024, arXiv 2405.15179", neutral=False, additive=True),
    "vera": Tuner("Kopiczko et al. 2024, arXiv 2310.11454", additive=True, learning_rate=1e-2),
    "waveft": Tuner("Bilican et al. 2025, arXiv 2505.12532", additive=True, vmap=False),
    "prompt_tuning": _tokens("Lester et al. 2021, arXiv 2104.08691"),
    "p_tuning": _tokens("Liu et al. 2021, arXiv 2103.10385", 1e-3),
    "multitask_prompt_tuning": _tokens("Wang et al. 2023, arXiv 2303.02861"),
    "prefix_tuning": Tuner(
        "Li and Liang 2021, arXiv 2101.00190",
        acts="keys",
        neutral=False,
        places=("*attention",),
        category="addition",
        learning_rate=1e-2,
        needs=("num_virtual_tokens",),
    ),
    "cartridge": Tuner(
        "Eyuboglu et al. 2025, arXiv 2506.06266",
        acts="keys",
        neutral=False,
        places=("*attention",),
        category="addition",
        learning_rate=1e-2,
        needs=("num_virtual_tokens",),
    ),
    "adaption_prompt": _without(
        "Zhang et al. 2023, arXiv 2303.16199",
        "it replaces whole attention modules of Llama, Mistral and GPT-2 by its own; take prefix_tuning",
    ),
    "cpt": _without(
        "Blau et al. 2024, arXiv 2410.17222",
        "its loss weighs the labels of the examples in the prompt, and a delta here does not see labels; "
        "take prompt_tuning",
    ),
    "lily": _without(
        "Zhong and Zhou 2024, arXiv 2407.09946",
        "its router averages over all tokens of a batch, so that an example's answer would depend on the others; "
        "take lora",
    ),
    "poly": _without(
        "Ponti et al. 2023, arXiv 2202.13914",
        "its router needs the task of every row in every pass, and draws its gates inside the layer; take lora",
    ),
    "pvera": _without(
        "PVeRA 2025, arXiv 2512.07703",
        "its noise is drawn inside the layer for every token, so that a delta in a bank would depend on its "
        "neighbours; take vera",
    ),
    "shadow": _without("peft", "it runs a second, smaller model in parallel to the backbone's blocks; take lora"),
    "xlora": _without(
        "Buehler and Buehler 2024, arXiv 2402.07148",
        "it mixes LoRAs that are trained already, in two passes through the model; "
        "see deltacompose.delta.arithmetic for weighting trained deltas",
    ),
}

"""Prints docs/families.md: what works on each of many types of models, tried on pico models.

python tests/family_page.py > docs/families.md
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from safetensors.torch import save_file

import deltacompose as dc
from deltacompose import api
from deltacompose.backbone import Backbone, trace
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.checks import Broken, check_backbone_table
from deltacompose.checks.subject import job_of
from deltacompose.composition import Composition, composition
from deltacompose.delta import Delta
from deltacompose.delta.exchange import export_peft
from deltacompose.delta.merge import merge
from deltacompose.errors import BadInput
from deltacompose.method.weights import finalized, init_constants, init_weights

TYPES = (
    *("electra", "modernbert", "deberta-v2", "deberta", "albert", "longformer", "xlnet", "mpnet", "roformer"),
    *("ernie", "nomic-bert", "big-bird", "funnel", "fnet", "eurobert", "xlm", "phi3", "phi", "gemma2", "gemma3"),
    *("falcon-mqa", "falcon-gqa", "falcon-alibi", "qwen2", "qwen3", "mixtral", "qwen2-moe", "qwen3-moe", "bloom"),
    *("gptj", "gpt-neox", "codegen", "mpt", "mamba", "gpt-neo", "gpt-bigcode", "starcoder2", "stablelm", "olmo2"),
    *("cohere", "granite", "glm", "deepseek-v3", "xglm", "biogpt", "ministral3", "mt5", "umt5", "pegasus"),
    *("bart-scaled", "led", "longt5", "switch", "m2m-100", "blenderbot", "prophetnet", "mamba2", "gpt-oss"),
    *("cohere2", "glm4", "qwen3-next", "nemotron", "olmoe", "granitemoe", "opt-projected", "mistral-window", "lfm2"),
    *("openai-gpt", "ctrl"),
)
"""The pico models of the page, in its order."""

METHODS = {
    "lora": "lora(rank=2)",
    "dora": "lora(rank=2, dora=True)",
    "vera": "vera(rank=4)",
    "intrinsic": "intrinsic(d=8)",
    "bitfit": "bitfit",
    "norm": "norm",
    "adapter": "adapter(bottleneck=4)",
    "parallel_adapter": "parallel_adapter(bottleneck=4)",
    "compacter": "compacter(bottleneck=4)",
    "ia3": "ia3",
    "prompt": "prompt(length=2)",
    "p_tuning": "p_tuning(length=2)",
    "prefix": "prefix(length=2)",
    "last_layers": "last_layers(n=1)",
    "diff_pruning": "diff_pruning",
    "selective": "selective",
    "masked": "masked",
    "full": "full",
    "intrinsic_prompt": "intrinsic_prompt",
    "peft": "peft(type='oft', options='oft_block_size=4')",
}
"""An expression of each built-in method; `intrinsic_prompt` is given a decoder of the backbone's width."""

MERGED = ("lora", "dora", "vera", "intrinsic", "bitfit", "norm", "last_layers", "diff_pruning", "selective", "masked",
          "full", "peft")  # fmt: skip
"""Methods that change weights alone, and so can be merged into a plain model."""

EXPORTED = ("lora", "vera", "ia3", "prompt", "p_tuning", "prefix", "intrinsic_prompt")
"""Methods that are exported to peft on some type at least."""


@dataclass
class Row:
    """What is found of one type."""

    name: str
    table: str = ""
    acts: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    exported: list[str] = field(default_factory=list)
    failing: str = ""


def row(name: str) -> Row:
    """Loads the pico model of a type, checks its table and tries every method."""
    found, model = Row(name), pico(name).requires_grad_(False)
    try:
        backbone = dc.load_backbone(model, pico_tokenizer(name), device="cpu")
    except BadInput as error:
        found.table = f"none: {error}"
        return found
    found.table = "derived" if backbone.derived else backbone.family
    try:
        check_backbone_table(backbone.table, model)
    except Broken as broken:
        found.failing = str(broken)
    untouched = trace.forward(backbone, trace.tokens(backbone))
    with TemporaryDirectory() as folder:
        for method in METHODS:
            try:
                delta = moved(backbone, expression_of(method, backbone, Path(folder)))
                with delta.attached(backbone):
                    acts = not torch.equal(trace.forward(backbone, trace.tokens(backbone)), untouched)
            except BadInput as error:
                found.refused[method] = str(error).replace("\n", " ").replace(folder, "FOLDER")
                continue
            (found.acts if acts else found.dead).append(method)
            found.merged += [method] if merges(delta, backbone) else []
            found.exported += [method] if exports(delta, backbone, Path(folder, "peft")) else []
    return found


def expression_of(method: str, backbone: Backbone, folder: Path) -> Composition:
    """The method that is tried, alone."""
    if method != "intrinsic_prompt":
        return api.parse(METHODS[method])
    size, path = 2 * backbone.embedding_width, folder / "prompts.safetensors"
    save_file({"mean": torch.linspace(0, 1, size), "basis": torch.linspace(-1, 1, 3 * size).sin().view(3, size)}, path)
    return composition(api.methods()["intrinsic_prompt"].of(path))


def moved(backbone: Backbone, expression: Composition) -> Delta:
    """A delta whose tensors are moved away from where they start."""
    source, constants = (
        torch.Generator().manual_seed(1),
        init_constants(backbone, expression, job_of(backbone, expression)),
    )
    weights = {
        name: x + 0.3 * torch.randn(x.shape, generator=source) if x.is_floating_point() else x
        for name, x in init_weights(backbone, expression, 0).items()
    }
    kept = finalized(expression, {**weights, **constants})
    made = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    return Delta(expression, {name: x for name, x in kept.items() if name not in constants}, constants, made)


def merges(delta: Delta, backbone: Backbone) -> bool:
    """Whether the delta merges into a plain model with the same output."""
    try:
        merged = merge(delta, backbone)
    except BadInput:
        return False
    return merged.difference <= 1e-3 * merged.size


def exports(delta: Delta, backbone: Backbone, folder: Path) -> bool:
    """Whether the delta is written as a folder of peft's."""
    try:
        export_peft(delta, backbone, folder)
    except BadInput:
        return False
    return True


def page(rows: Iterable[Row]) -> Iterator[str]:
    """The page in Markdown, line by line, each as soon as its row is there."""
    yield "# Families\n"
    yield (
        "`python tests/family_page.py > docs/families.md` wrote this page, with pico models of two layers and width 16 "
        f"and transformers {transformers.__version__}.\n"
    )
    yield (
        f"Tried are {len(METHODS)} methods: {', '.join(METHODS)}. `arrow` is left out: it routes over the LoRAs of a "
        "library and acts at their places. A number in brackets points to the reason below the table.\n"
    )
    yield "* *table*: the table of places: one that is shipped, or derived from the names of modules, or none."
    yield "* *acts*: methods whose tensors, moved at random, change the output. *refused*: those that raise an error."
    yield "* *faults*: methods that do nothing, and checks of the table that fail."
    yield (
        f"* *not merged*: of the methods that act, which of {', '.join(MERGED)} cannot be added to the parameters of a "
        "plain model with the same output; the other methods change more than weights."
    )
    yield (
        f"* *not exported*: of the methods that act, which of {', '.join(EXPORTED)} cannot be written as a folder of "
        "peft's (prompts and prefixes are compared with peft's output). The other methods are not exported.\n"
    )
    yield "| model type | table | acts | refused | faults | not merged | not exported |"
    yield "|---|---|---|---|---|---|---|"
    reasons: dict[str, int] = {}
    loaded = []
    for found in rows:
        loaded.append(not found.table.startswith("none"))
        yield f"| {' | '.join(cell.replace('|', '/') for cell in _cells(found, loaded[-1], reasons))} |"
    yield f"\n{sum(loaded)} of {len(loaded)} types load without a table of the user's.\n"
    yield "## Why\n"
    yield from (f"{number}. {why.removeprefix('none: ')}" for why, number in reasons.items())


def _cells(found: Row, loaded: bool, reasons: dict[str, int]) -> list[str]:
    if not loaded:
        return [found.name, f"none ({_number(reasons, found.table)})", *[""] * 5]
    acts = "all" if len(found.acts) == len(METHODS) else f"{len(found.acts)} of {len(METHODS)}"
    refused = [f"{name} ({_number(reasons, why)})" for name, why in found.refused.items()]
    faults = [f"{name} does nothing" for name in found.dead] + ([found.failing] if found.failing else [])
    refusing = set(found.refused)
    lists = [refused, faults, _without(found.merged, MERGED, refusing), _without(found.exported, EXPORTED, refusing)]
    return [found.name, found.table, acts, *map(", ".join, lists)]


def _without(methods: list[str], expected: tuple[str, ...], refusing: set[str]) -> list[str]:
    """The expected methods that are missing and act, and with a plus those that were not expected."""
    extra = [f"+ {name}" for name in methods if name not in expected]
    return [name for name in expected if name not in methods and name not in refusing] + extra


def _number(reasons: dict[str, int], why: str) -> int:
    return reasons.setdefault(why, len(reasons) + 1)


if __name__ == "__main__":
    logging.getLogger("deltacompose").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    for line in page(map(row, sys.argv[1:] or TYPES)):
        print(line, flush=True)

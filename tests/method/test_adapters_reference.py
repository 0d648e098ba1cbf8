"""Given equal weights, the built-in methods give the outputs of the `adapters` library, which were stored in float64.

`tests/adapters_reference.py` made the file in an environment of its own; nothing of that library is needed here. The
library knows GPT-NeoX, OPT, Gemma 2, Phi-3 and Falcon by an `AdapterModelInterface`, which has no prefixes; its prompts
fail on them, its (IA)³ fails on OPT, and it cuts a fused matrix into three equal parts, which fails with grouped heads
(Phi-3, Falcon) and mixes queries, keys and values of GPT-NeoX and of Falcon with one key-value head. The file has the
library's own errors.
"""

import itertools
import json
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from deltacompose_plugins import IA3, Adapter, Compacter, LoRA, ParallelAdapter, Prefix, Prompt
from deltacompose_plugins.backbones import tables
from safetensors import safe_open
from safetensors.torch import load_file

from deltacompose.attach import attached
from deltacompose.backbone import Backbone
from deltacompose.backbone.loading import load_backbone

FILE = Path(__file__).parents[1] / "data" / "adapters_reference.safetensors"
KNOWN = ("t5", "bart", "bert", "roberta", "distilbert", "gpt2", "llama")
BY_INTERFACE = ("gpt-neox", "opt", "gemma2", "phi3", "phi3-ungrouped", "falcon", "falcon-mqa")
FAMILIES = (*KNOWN, *BY_INTERFACE)
TABLES = tables()


@cache
def stored():
    return load_file(FILE)


@cache
def metadata(name):
    with safe_open(FILE, "pt") as file:
        return json.loads(file.metadata()[name])


def weights_of(family, method):
    """The library's tensors of one adapter, by its own names."""
    start = f"{family}/{method}/"
    return {name.removeprefix(start): x for name, x in stored().items() if name.startswith(start)}


def backbone_of(family) -> Backbone:
    maker, model_type, settings = metadata("models")[family]
    config = transformers.AutoConfig.for_model(model_type, **settings)
    model = getattr(transformers, maker).from_config(config).double().eval()
    base = weights_of(family, "base")
    names = set(model.state_dict())
    base = {name if name in names else name.replace("embed_out", "lm_head"): x for name, x in base.items()}
    assert not model.load_state_dict(base, strict=False).unexpected_keys
    model.tie_weights()
    return load_backbone(model.requires_grad_(False), tables=TABLES)


def inputs_of(family):
    """Two inputs of different lengths, padded on the right, as in the script."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 2], [10, 11, 12, 2, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    decoder = {"decoder_input_ids": torch.tensor([[0, 13, 14], [0, 15, 16]])} if family in ("t5", "bart") else {}
    return batch | decoder


def states_of(backbone, family):
    with torch.no_grad():
        output = backbone.model(**inputs_of(family))
    return output.logits if "logits" in output else output.last_hidden_state


def sublayer(backbone, name):
    """The place of the sublayer whose output a bottleneck adapter of the library changes, from its tensor's name."""
    stack = "decoder" if "decoder" in name or backbone.kind == "decoder" else "encoder"
    layer = re.search(r"\.(\d+)\.", name)[1]
    if backbone.family == "t5":
        ffn = f".layer.{2 if stack == 'decoder' else 1}." in name
    else:
        ffn = "attention" not in name.partition(".adapters.")[0].rpartition(f".{layer}.")[2]
    return f"{stack}.{layer}.{'ffn' if ffn else 'attention'}"


def bottlenecks(backbone, tensors, names):
    """Our names of the tensors of bottleneck adapters, by the library's last words for them."""
    t = {}
    for name, x in tensors.items():
        end = next((end for end in names if name.endswith(end)), None)
        if end is not None:
            t[f"{sublayer(backbone, name)}.{names[end]}"] = x
    return t


PLAIN = {
    "adapter_down.0.weight": "down",
    "adapter_down.0.bias": "down_bias",
    "adapter_up.weight": "up",
    "adapter_up.bias": "up_bias",
}
SUMS = {
    "adapter_down.0.W_left": "down_s",
    "adapter_down.0.W_right": "down_t",
    "adapter_down.0.b": "down_bias",
    "adapter_up.W_left": "up_s",
    "adapter_up.W_right": "up_t",
    "adapter_up.b": "up_bias",
}


def adapter(backbone, tensors, places):
    return Adapter(bottleneck=4, places=places), bottlenecks(backbone, tensors, PLAIN)


def parallel(backbone, tensors):
    return ParallelAdapter(bottleneck=4, scale=4.0), bottlenecks(backbone, tensors, PLAIN)


def compacter(backbone, tensors):
    """The library computes `x @ W`, so ours are the transposes: of A, and of s and t exchanged."""
    t = {}
    for name, x in bottlenecks(backbone, tensors, SUMS).items():
        swapped = {"down_s": "down_t", "down_t": "down_s", "up_s": "up_t", "up_t": "up_s"}
        place, _, own = name.rpartition(".")
        t[f"{place}.{swapped.get(own, own)}"] = x.mT if own in swapped else x
    rule = next(x for name, x in tensors.items() if name.endswith("phm_rule"))
    return Compacter(n=2, bottleneck=4, rank=1, places=("attention", "ffn")), t | {"shared.A": rule.mT}


def modules(backbone, tensors):
    """Places and the library's tensors at their module; the slices of a fused module have their shares in order."""
    by_module: dict = {}
    for name, x in tensors.items():
        module, _, own = name.partition(".loras.")
        by_module.setdefault(module, {})[own.rpartition(".")[2]] = x
    for module, own in by_module.items():
        yield [p for p in backbone.places() if p.module == module and p.port == "output" and p.until is None], own


def lora(backbone, tensors):
    """The parts of a fused attention matrix have downs of their own, those of a fused gate share one."""
    t, kinds = {}, {}
    for places, own in modules(backbone, tensors):
        used = [p for p in places if p.kind.endswith(("query", "value")) or "attention" not in p.kind]
        downs = own["lora_A"].chunk(len(used)) if "attention" in used[0].kind else [own["lora_A"]] * len(used)
        for place, down, up in zip(used, downs, own["lora_B"].chunk(len(used)), strict=True):
            t |= {f"{place.name}.down": down, f"{place.name}.up": up}
            kinds[place.kind] = None
    return LoRA(rank=2, alpha=3.0, places=tuple(kinds)), t


def ia3(backbone, tensors):
    t, kinds = {}, {}
    for places, own in modules(backbone, tensors):
        used = [p for p in places if not p.kind.endswith("query")]
        for place, scale in zip(used, own["lora_B"].chunk(len(used)), strict=True):
            t[f"{place.name}.scale"] = scale.flatten() - 1
            kinds[place.kind] = None
    return IA3(places=tuple(kinds)), t


def prefix(backbone, tensors):
    t = {}
    for name, x in tensors.items():
        where = name.split(".")[-2]
        kind = "cross_attention" if where.startswith("cross") else "attention"
        stack = "encoder" if where.startswith("encoder") or backbone.kind == "encoder" else "decoder"
        places = [p for p in backbone.places(kind) if p.stack == stack]
        heads, width = backbone.heads(places[0])
        pieces = x.view(3, len(places), 2, heads, width).permute(1, 2, 3, 0, 4)
        for place, (keys, values) in zip(places, pieces, strict=True):
            t |= {f"{place.name}.keys": keys, f"{place.name}.values": values}
    return Prefix(length=3), t


def prompt(backbone, tensors):
    return Prompt(length=3), {f"{backbone.streams[0]}.prompt": next(iter(tensors.values()))}


METHODS = {
    "houlsby": lambda backbone, tensors: adapter(backbone, tensors, ("attention", "ffn")),
    "pfeiffer": lambda backbone, tensors: adapter(backbone, tensors, ("ffn",)),
    "parallel": parallel,
    "compacter": compacter,
    "lora": lora,
    "lora of the ffn": lora,
    "ia3": ia3,
    "prefix": prefix,
    "prompt": prompt,
}
PRE_NORM = ("t5", "gpt2", "llama")
PER_HEAD = ("gpt-neox", "falcon-mqa")
WITHOUT = [
    *((family, "prompt") for family in ("t5", "bart", "gpt2", "llama", "distilbert")),
    *itertools.product(BY_INTERFACE, ("prompt", "prefix")),
    *itertools.product(("phi3", "falcon"), ("lora", "ia3")),
    ("opt", "ia3"),
]
"""What the library cannot do, as its errors in the file say."""
APART = [*((family, "parallel") for family in PRE_NORM), ("bert", "prompt"), ("roberta", "prompt"), ("t5", "prefix")]
APART += itertools.product(PER_HEAD, ("lora", "ia3"))
"""What the library defines otherwise; each has a test below that computes the library's function by hand."""
PAIRS = [pair for pair in itertools.product(FAMILIES, METHODS) if pair not in WITHOUT]


def tolerance(family):
    """Of the largest output: norms, rotations or weights of attention are computed in float32 in some families."""
    return 1e-12 if family in ("bart", "bert", "roberta", "distilbert", "gpt2") else 1e-6


def assert_equal(family, states, name):
    expected = stored()[f"{family}/{name}"]
    if "decoder_input_ids" not in inputs_of(family):
        read = inputs_of(family)["attention_mask"].bool()
        states, expected = states[:, -read.shape[1] :][read], expected[:, -read.shape[1] :][read]
    scale = float(expected.abs().max())
    assert float((states - expected).abs().max()) <= tolerance(family) * scale


def ours(backbone, family, method):
    term, t = METHODS[method](backbone, weights_of(family, method))
    with attached(backbone, term, {f"0.0.{name}": x.clone() for name, x in t.items()}, {}):
        return states_of(backbone, family)


@pytest.mark.parametrize(("family", "method"), [pair for pair in PAIRS if pair not in APART])
def test_a_method_gives_the_outputs_of_the_adapters_library(family, method):
    backbone = backbone_of(family)
    states = ours(backbone, family, method)
    assert_equal(family, states, method)
    assert float((states - states_of(backbone, family)).abs().max()) > 1e-2


def test_every_output_in_the_file_is_compared():
    outputs = {tuple(name.split("/")) for name in stored() if name.count("/") == 1}
    assert outputs == {*PAIRS, ("distilbert", "prefix with sdpa"), ("t5", "prefix outside the bias")}


def test_what_is_not_compared_fails_in_the_library():
    errors = metadata("refused")
    assert errors.keys() == {"/".join(pair) for pair in WITHOUT}
    for family, method in WITHOUT[5:]:
        reason = {
            "prefix": "is not supported by this model",
            "prompt": "tuple index out of range|size of tensor a",
            "ia3": "shape '.*' is invalid for input",
            "lora": r"shape '\[3, -1\]' is invalid for input",
        }
        assert re.search(reason[method], errors[f"{family}/{method}"])


@pytest.mark.parametrize(("family", "method"), itertools.product(PER_HEAD, ("lora", "ia3")))
def test_the_library_cuts_a_matrix_that_is_fused_head_by_head_into_thirds(family, method):
    """Its first third has queries, keys and values of some heads; ours acts on the rows that are what it names."""
    backbone, by_module = backbone_of(family), {}
    for name, x in weights_of(family, method).items():
        module, _, own = name.partition(".loras.")
        by_module.setdefault(module, {})[own.rpartition(".")[2]] = x
    for module, own in by_module.items():

        def by_hand(module, args, output, own=own):
            if method == "ia3":
                scale = own["lora_B"].flatten()
                first = scale.new_ones(output.shape[-1] - len(scale))
                return output * torch.cat([first, scale])
            query, value = (
                1.5 * args[0] @ down.mT @ up.mT
                for down, up in zip(own["lora_A"].chunk(2), own["lora_B"].chunk(2), strict=True)
            )
            return output + torch.cat([query, torch.zeros_like(query), value], -1)

        backbone.model.get_submodule(module).register_forward_hook(by_hand)
    assert_equal(family, states_of(backbone, family), method)


@pytest.mark.parametrize("family", PRE_NORM)
def test_the_librarys_parallel_adapter_reads_the_residual_stream_before_the_norm(family):
    """Ours reads what the sublayer reads, as He et al. 2021 write it."""
    backbone = backbone_of(family)
    _, t = METHODS["parallel"](backbone, weights_of(family, "parallel"))
    for place in backbone.places("ffn"):
        before: dict = {}
        norm = backbone.module(backbone.place(place.name + ".norm"))
        norm.register_forward_pre_hook(lambda module, args, before=before: before.update(x=args[0]))
        down, down_bias, up, up_bias = (t[f"{place.name}.{name}"] for name in PLAIN.values())

        def added(module, args, output, before=before, down=down, down_bias=down_bias, up=up, up_bias=up_bias):
            inner = torch.relu(before["x"] @ down.mT + down_bias)
            return output + 4.0 * (inner @ up.mT + up_bias)

        backbone.module_until(place).register_forward_hook(added)
    assert_equal(family, states_of(backbone, family), "parallel")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_librarys_prompt_stands_behind_the_embeddings(family):
    """It has no position and passes no norm; ours and peft's are rows of the embedding matrix, which do both."""
    backbone, batch = backbone_of(family), inputs_of(family)
    rows = next(iter(weights_of(family, "prompt").values()))
    model, mask = backbone.model, batch["attention_mask"]
    with torch.no_grad():
        states = torch.cat([rows.expand(2, -1, -1), model.embeddings(batch["input_ids"])], 1)
        read = torch.cat([mask.new_ones(2, 3), mask], 1)[:, None, None].bool()
        expected = model.encoder(states, attention_mask=read).last_hidden_state
    assert_equal(family, expected, "prompt")


def test_the_librarys_prefix_moves_t5s_relative_positions():
    """It counts the prefix among the keys and not among the queries, so each key of a token stands P further on."""
    backbone = backbone_of("t5")
    states = ours(backbone, "t5", "prefix")
    assert_equal("t5", states, "prefix outside the bias")
    assert float((states - stored()["t5/prefix"]).abs().max()) > 0.1


@pytest.mark.parametrize(("name", "bonus"), [("prefix", 0.0), ("prefix with sdpa", 1.0)])
def test_the_librarys_prefix_on_distilbert_has_scores_one_higher_with_sdpa(name, bonus):
    """It extends the mask by ones, which the eager attention reads as `attend` and the other adds to the scores."""
    backbone = backbone_of("distilbert")
    _, t = METHODS["prefix"](backbone, weights_of("distilbert", "prefix"))
    mask = inputs_of("distilbert")["attention_mask"]
    scores_of_mask = torch.cat([torch.full((2, 3), bonus), (1 - mask) * -1e9], 1).double()[:, None, None]
    for place in backbone.places("attention"):
        keys, values = t[f"{place.name}.keys"], t[f"{place.name}.values"]

        def by_hand(module, args, kwargs, output, keys=keys, values=values):
            x = args[0] if args else kwargs["hidden_states"]
            q, k, v = (
                linear(x).unflatten(-1, (2, 4)).transpose(1, 2) for linear in (module.q_lin, module.k_lin, module.v_lin)
            )
            k, v = (torch.cat([p.expand(2, -1, -1, -1), own], 2) for p, own in ((keys, k), (values, v)))
            weights = torch.softmax(q @ k.mT / math.sqrt(4) + scores_of_mask, -1)
            return (module.out_lin((weights @ v).transpose(1, 2).flatten(2)), *output[1:])

        backbone.module(place).register_forward_hook(by_hand, with_kwargs=True)
    states = states_of(backbone, "distilbert")
    assert_equal("distilbert", states, name)
    read = mask.bool()
    difference = (states - ours(backbone_of("distilbert"), "distilbert", "prefix"))[read].abs().max()
    assert (float(difference) <= 1e-12) == (bonus == 0)

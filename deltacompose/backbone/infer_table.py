"""A table derived from a model's module names, and from one forward pass: in which order they run, and which are idle.

Other parts are left out. A module with parameters whose name is not known is a place of the kind `other.<name>`,
so that no parameter is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from deltacompose.backbone.diffusion import kind_of_model, model_type
from deltacompose.backbone.settle import settled
from deltacompose.errors import BadInput
from deltacompose.places.numbers import read_number
from deltacompose.places.table import BACKBONE_KINDS, Table, read_table

NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("q_proj", "query", "q_lin", "q", "wq", "query_proj"),
    "key": ("k_proj", "key", "k_lin", "k", "wk", "key_proj"),
    "value": ("v_proj", "value", "v_lin", "v", "wv", "value_proj"),
    "query_norm": ("q_norm", "q_layernorm"),
    "key_norm": ("k_norm", "k_layernorm"),
    "output": ("o_proj", "out_proj", "out_lin", "output.dense", "o", "wo", "Wo", "dense", "c_proj"),
    "attention.norm": (
        *("input_layernorm", "self_attn_layer_norm", "attention.output.LayerNorm", "sa_layer_norm"),
        *("ln_1", "ln_attn", "attn_norm", "attention_norm", "norm1", "post_attention_layernorm"),
    ),
    "cross_attention.norm": ("encoder_attn_layer_norm", "crossattention.output.LayerNorm"),
    "ffn.norm": (
        *("pre_feedforward_layernorm", "post_feedforward_layernorm", "post_attention_layernorm", "final_layer_norm"),
        *("output_layer_norm", "ln_2", "ln_mlp", "mlp_norm", "ffn_norm", "norm2", "output.LayerNorm"),
    ),
    "ffn.gate": ("gate_proj", "wi_0"),
    "ffn.up": ("up_proj", "fc1", "wi_1", "wi", "lin1", "fc_in", "c_fc", "dense_h_to_4h", "intermediate.dense"),
    "ffn.down": ("down_proj", "fc2", "wo", "lin2", "fc_out", "c_proj", "dense_4h_to_h", "output.dense", "Wo"),
    "embedding": ("embed_tokens", "word_embeddings", "wte", "embed_in", "tok_embeddings"),
    "embedding.norm": ("embeddings.LayerNorm", "layernorm_embedding", "word_embeddings_layernorm", "embeddings.norm"),
    "positions": ("position_embeddings", "wpe", "embed_positions"),
    "segments": ("token_type_embeddings",),
    "norm": ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm", "layer_norm"),
}
"""Ends of module names, by what they are; an earlier one is preferred."""

FUSED = ("query_key_value", "Wqkv", "qkv_proj", "c_attn", "att_proj")
"""Ends of the names of fused projections; where queries, keys and values lie in them is tried out."""

CROSS = ("encoder_attn", "EncDecAttention", "cross_attn", "crossattention", "cross_attention")
"""Parts of paths that lie in a cross attention."""

NUMBERS: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "num_layers"),
    "heads": ("num_key_value_heads", "num_kv_heads", "num_attention_heads"),
    "width": ("hidden_size", "d_model"),
    "head_width": ("head_dim", "hidden_size / num_attention_heads"),
    "limit": ("n_positions", "max_position_embeddings"),
}
"""Attributes of configurations, by what they tell."""

Modules = Mapping[str, nn.Module]


def derive(model: Any) -> Table:
    """A table for a transformers model, from its module names; `str` prints it as YAML.

    Raises:
        BadInput: no list of layers, or no attention in the layers, is found.
    """
    kind, name = kind_of_model(model), model_type(model)
    if kind == "denoiser":
        raise BadInput(f"no table can be derived for {name}, a model of diffusers; write one for it")
    names = BACKBONE_KINDS[kind]
    modules = dict(model.base_model.named_modules())
    stacks: dict[str, Any] = {}
    places: dict[str, str] = {}
    for stack, path in _lists(modules, names, type(model).__name__).items():
        embeds = _find("embedding", _under(modules, _parent(path))) is not None
        module, prefix = _parent(path) if embeds else ".", "" if len(names) == 1 else f"{stack}."
        places |= {f"{prefix}{kind}": spot for kind, spot in _outside(modules, module).items()}
        places |= {f"{stack}.{{layer}}.{kind}": spot for kind, spot in _inside(modules, path).items()}
        places |= {f"{stack}.norm": spot for spot in _final_norm(modules, path)}
        stacks[stack] = {"module": module, **_numbers(model.config, stack, modules, path, places)}
        stacks[stack] |= {"pooler": "pooler"} if "pooler" in modules and module == "." else {}
    embeddings = model.get_output_embeddings()
    heads = [path for path, module in model.named_modules() if embeddings is not None and module is embeddings]
    places |= {"head": f"/{heads[0]}"} if heads else {}
    places |= _outer(model, modules, places)
    data = {"serves": [name], "kind": kind, "stacks": stacks, "without": ["*pooler.*"], "places": places}
    return settled(model, read_table(name, data), FUSED)


def _lists(modules: Modules, stacks: tuple[str, ...], model: str) -> dict[str, str]:
    """The path of each stack's list of layers: the outermost lists of equal modules that hold an attention."""
    paths = [path for path, module in modules.items() if isinstance(module, nn.ModuleList) and len(module)]
    outer = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    equal = [path for path in outer if len({type(layer) for layer in modules[path].children()}) == 1]
    decoders = [path for path in equal if _attention(_united(modules[path])[0], cross=False)]
    if len(stacks) == 1 and len(decoders) == 1:
        return {stacks[0]: decoders[0]}
    named = {stack: path for stack in stacks for path in decoders if stack in path.split(".")}
    if len(named) != len(stacks) or len(decoders) != len(stacks):
        raise BadInput(
            f"no table can be derived for {model} because {_why_not(modules, outer, decoders, stacks)}; write one as "
            "docs/backbones.md shows, from what `named_modules()` of the model lists, and give it as table="
        )
    return named


def _why_not(modules: Modules, lists: list[str], attending: list[str], stacks: tuple[str, ...]) -> str:
    """Why the lists of a model are not its stacks of layers."""
    wanted = " and ".join(stacks)
    if attending:
        return f"the layers of {wanted} cannot be distinguished in the lists {', '.join(attending)}"
    if not lists:
        return f"it holds no list of modules, where the layers of the {wanted} would be"
    first = lists[0]
    kinds = list(dict.fromkeys(type(layer).__name__ for layer in modules[first].children()))
    if kinds == [nn.ModuleList.__name__]:
        return f"the layers of the {wanted} lie in lists within the list {first}"
    known = ", ".join((*NAMES["query"], *FUSED))
    return (
        f"the layers of the {wanted} at {first} ({', '.join(kinds)}) hold no module that projects to queries (known "
        f"names: {known})"
    )


def _united(layers: nn.Module) -> tuple[dict[str, nn.Module], set[str]]:
    """The modules of a stack's layers by their names in a layer, and the names that only some of the layers have."""
    named = [dict(layer.named_modules()) for layer in layers.children()]
    united = {name: module for own in reversed(named) for name, module in own.items() if name}
    ordered = {name: united[name] for own in named for name in own if name}
    return ordered, {name for name in ordered if any(name not in own for own in named)}


def _inside(modules: Modules, path: str) -> dict[str, str]:
    """The places of a layer, with module paths from the base model."""
    layer, some = _united(modules[path])
    places: dict[str, str] = {}
    rooms = []
    for kind in ("attention", "cross_attention"):
        spots = _attention(layer, cross=kind == "cross_attention")
        norm = _find(f"{kind}.norm", layer)
        places |= {f"{kind}.norm": norm} if spots and norm else {}
        places |= {f"{kind}.{part}".removesuffix("."): spot for part, spot in spots.items()}
        rooms += [_room(spots[""])] if spots else []
    block = next((_parent(name) for name in layer if name.rpartition(".")[2] == "experts"), "")
    rest = [name for name in layer if not any(f"{name}.".startswith(f"{room}.") for room in rooms)]
    dense = [name for name in rest if not (block and "expert" in name)]
    places |= {k: spot for k, spot in _ffn(dense).items() if not (block and k == "ffn")} if dense else {}
    places |= {"ffn": block} if block else {}
    places |= _others(layer, places)
    start, full = f"{path}.{{layer}}", {}
    for kind, spot in places.items():
        optional = any(end.partition("[")[0].partition("@")[0].partition(":")[0] in some for end in spot.split(" .. "))
        full[kind] = f"{start}.{spot}".replace(" .. ", f" .. {start}.") + ("?" if optional else "")
    return full | {"layer": start}


def _outer(model: Any, modules: Modules, places: Mapping[str, str]) -> dict[str, str]:
    """Places of the kind `other.<name>` outside the lists of layers, in the base model and next to it."""
    lists = [path for path, module in modules.items() if isinstance(module, nn.ModuleList)]
    own = {x: module for x, module in modules.items() if x and not any(x.startswith(f"{path}.") for path in lists)}
    inside = {kind: spot for kind, spot in _others(own, places).items() if "pooler" not in spot}
    heads = {x: module for x, module in model.named_modules() if id(module) not in set(map(id, modules.values()))}
    return inside | {kind: f"/{spot}" for kind, spot in _others(heads, places).items() if "pooler" not in spot}


def _others(modules: Modules, places: Mapping[str, str]) -> dict[str, str]:
    """Places of the kind `other.<name>` for the modules with parameters that have none: linear layers, norms and
    embeddings as modules, of anything else the bare parameters."""
    taken = {
        end.partition("[")[0].partition("@")[0].lstrip("/") for spot in places.values() for end in spot.split(" .. ")
    }
    others: dict[str, str] = {}
    for name, module in modules.items():
        own = [key for key, tensor in module._parameters.items() if tensor is not None]
        plain = isinstance(module, nn.Linear | nn.Embedding | Conv1D) or type(module).__name__.endswith("Norm")
        if not own or (name in taken and "weight" in own):
            continue
        if plain and "weight" in own:
            others[f"other.{name}"] = name
        else:
            biases = {f"{key}_bias" for key in own} | ({"bias"} if "weight" in own else set())
            others |= {f"other.{name}.{key}": f"{name}:{key}" for key in own if key not in biases}
    return others


def _attention(layer: Modules, cross: bool) -> dict[str, str]:
    """The parts of a layer's attention, its whole under ""; empty where there is none."""
    names = [name for name in layer if cross == any(mark in name.split(".") for mark in CROSS)]
    query = _find("query", names)
    joined = None if query else next(iter(_ending(names, *FUSED)), None)
    holder = _parent(query or joined or "")
    if not holder:
        return {}
    parts = ("query", "key", "value", "query_norm", "key_norm")
    parts_by_name = {} if joined else {part: _find(part, names) for part in parts}
    inner, near = _under(names, holder), _under(names, _room(holder))
    output = _find("output", inner) or _find("output", near)
    whole = holder if output is None or output in inner else f"{holder} .. {output}"
    return {part: spot for part, spot in (parts_by_name | {"output": output, "": whole}).items() if spot}


def _ffn(names: list[str]) -> dict[str, str]:
    """The places of the feed-forward network among the names that belong to no attention."""
    spots = {kind: _find(kind, names) for kind in ("ffn.norm", "ffn.gate", "ffn.up", "ffn.down")}
    up, down = spots["ffn.up"], spots["ffn.down"]
    if down is None:
        return {}
    start = _parent(up or down) or up
    whole = start if start == _parent(down) else f"{start} .. {down}" if up else None
    spots |= {"ffn.activation": f"{down}@input", "ffn": whole}
    order = ("ffn.norm", "ffn.gate", "ffn.up", "ffn.activation", "ffn.down", "ffn")
    return {kind: spot for kind in order if (spot := spots[kind])}


def _outside(modules: Modules, module: str) -> dict[str, str]:
    """The embeddings of a stack, which lie in its module but in none of its lists."""
    lists = [path for path, module in modules.items() if isinstance(module, nn.ModuleList)]
    names = [name for name in modules if not any(name.startswith(f"{path}.") for path in lists)]
    names = names if module == "." else _under(names, module)
    kinds = ("embedding", "positions", "segments", "embedding.norm")
    return {kind: path for kind in kinds if (path := _find(kind, names))}


def _final_norm(modules: Modules, path: str) -> list[str]:
    """The norm next to the list of layers."""
    beside = [f"{_parent(path)}.{name}".removeprefix(".") for name in NAMES["norm"]]
    return [name for name in beside if name in modules][:1]


def _numbers(config: Any, stack: str, modules: Modules, path: str, places: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a stack: attributes of the configuration that have the right value, else the value itself."""
    first = _united(modules[path])[0]
    head_width = _attribute(config, "head_width", stack)
    heads = read_number("num_attention_heads", config)
    key, fused = places.get(f"{stack}.{{layer}}.attention.key"), next(iter(_ending(first, *FUSED)), None)
    if fused:
        columns, rows = _sides(first[fused])
        heads = (rows - columns) // 2 // read_number(head_width, config)
    elif key:
        inner = key.partition("{layer}.")[2].removesuffix("?")
        heads = len(first[inner].get_parameter("weight")) // read_number(head_width, config)
    count = len(list(modules[path].children()))
    numbers = {"layers": _attribute(config, "layers", stack, count), "width": _attribute(config, "width", stack)}
    numbers |= {"heads": _attribute(config, "heads", stack, heads), "head_width": head_width}
    positions = modules.get(places.get(f"{stack}.positions", places.get("positions", "")))
    return numbers | ({"limit": _limit(config, positions)} if isinstance(positions, nn.Embedding) else {})


def _limit(config: Any, positions: nn.Embedding) -> int | str:
    """The longest sequence; like RoBERTa's, positions with a padding id count from the one after it."""
    attribute = next((field for field in NUMBERS["limit"] if getattr(config, field, None)), None)
    if attribute is None:
        return positions.num_embeddings
    if positions.padding_idx is None or positions.num_embeddings > getattr(config, attribute):
        return attribute
    return f"{attribute} - {positions.padding_idx + 1}"


def _attribute(config: Any, what: str, stack: str, value: int | None = None) -> int | str:
    """The first attribute that the configuration has, and that has the value if one is given; else the value."""
    for name in (f"{stack}_{'attention_heads' if what == 'heads' else what}", *NUMBERS[what]):
        try:
            number = read_number(name, config)
        except BadInput:
            continue
        if value in (None, number):
            return name
    if value is None:
        raise BadInput(f"{type(config).__name__} has none of the numbers {', '.join(NUMBERS[what])}; write a table")
    return value


def _sides(module: nn.Module) -> tuple[int, int]:
    """The shorter and the longer side of a module's matrix, whichever way it is held."""
    shorter, longer = sorted(module.get_parameter("weight").shape)
    return shorter, longer


def _find(kind: str, names: Iterable[str]) -> str | None:
    """The one name with the preferred ending; none where an ending fits several, as in a mixture of experts."""
    for ending in NAMES[kind]:
        if hits := _ending(names, ending):
            return hits[0] if len(hits) == 1 else None
    return None


def _ending(names: Iterable[str], *endings: str) -> list[str]:
    return [name for name in names if any(f".{name}".endswith(f".{ending}") for ending in endings)]


def _under(names: Iterable[str], path: str) -> list[str]:
    return [name for name in names if name.startswith(f"{path}.")]


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _room(spot: str) -> str:
    """The module of an attention, or the block that holds it next to its output projection."""
    holder = spot.partition(" .. ")[0]
    return _parent(holder) or holder

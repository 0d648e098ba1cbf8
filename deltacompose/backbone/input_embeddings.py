"""How a model makes its input embeddings of ids: the unit of its `inputs_embeds`, and so of every soft prompt.

Some models scale embeddings in the embedding module (Gemma, BART), some outside of it and only where they are given ids
(the encoders of Marian and Pegasus), some look up more by the ids (Gemma 3n). This is not read from their code: the
first layer is shown to see the same of ids and of embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from deltacompose.backbone.quiet import few_ids, has_values, quiet
from deltacompose.errors import BadInput

_SCALES: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()
"""The factor by which each stream's module multiplies what its embedding module gives."""


class _Reached(Exception):
    """The first layer is reached: the rest of the pass is of no interest."""


def embed(module: nn.Module, layer: nn.Module, ids: Tensor) -> Tensor:
    """`(batch, tokens)` ids as the module of a stream embeds them itself, `(batch, tokens, width)`.

    Args:
        layer: the first that the embeddings reach.

    Raises:
        BadInput: no embeddings have the effect of ids, so that nothing can be put before those of the tokens.
    """
    table: Any = module.get_input_embeddings()  # type: ignore[operator]
    scale = _scale(module, layer)
    rows: Tensor = table(ids)
    return rows if scale == 1 else rows * scale


def per_layer_inputs(module: nn.Module, ids: Tensor) -> Tensor | None:
    """Embeddings that a module looks up by ids for every layer (Gemma 3n and 4), or None."""
    if not getattr(module, "hidden_size_per_layer_input", 0):
        return None
    look_up: Any = module.get_per_layer_inputs
    looked_up: Tensor = look_up(input_ids=ids)
    return looked_up


def _scale(module: nn.Module, layer: nn.Module) -> float:
    if module not in _SCALES:
        if not has_values(module):
            return 1.0  # only the shapes matter
        _SCALES[module] = _measured(module, layer)
    return _SCALES[module]


def _measured(module: nn.Module, layer: nn.Module) -> float:
    """The factor with which embeddings give the first layer exactly what ids give it."""
    table: Any = module.get_input_embeddings()  # type: ignore[operator]
    own = getattr(module, "embed_scale", 1.0)
    with quiet(module), torch.no_grad():
        ids = few_ids(module.config, len(table.weight), 1, 4, table.weight.device)
        expected = _seen(module, layer, {"input_ids": ids})
        more = per_layer_inputs(module, ids)
        for scale in dict.fromkeys((1.0, float(own) if isinstance(own, int | float) else 1.0)):
            inputs = {"inputs_embeds": table(ids) if scale == 1 else table(ids) * scale}
            seen = _seen(module, layer, inputs if more is None else inputs | {"per_layer_inputs": more})
            if len(seen) == len(expected) and all(_equal(*pair, ids.shape[1]) for pair in zip(seen, expected)):
                return scale
    raise BadInput(
        f"a prompt cannot stand before the tokens of {type(module).__name__} because its first layer sees "
        "something else of input ids than of their embeddings; use a method without prompts"
    )


def _equal(x: Tensor, y: Tensor, tokens: int) -> bool:
    """Whether two tensors are equal, but for rows that a model adds behind the tokens itself (Longformer)."""
    if x.shape == y.shape and x.ndim == 3 and x.shape[1] > tokens:
        x, y = x[:, :tokens], y[:, :tokens]
    return torch.equal(x, y)


def _seen(module: nn.Module, layer: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """All tensors that reach the first layer."""
    seen: list[Tensor] = []

    def note(_: nn.Module, args: Any, kwargs: Any) -> None:
        seen.extend(_tensors((args, kwargs)))
        raise _Reached

    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        module(**inputs)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from _tensors(member)
    elif isinstance(value, tuple | list):
        for member in value:
            yield from _tensors(member)

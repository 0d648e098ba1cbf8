"""Which methods a composition's text names, read without loading any method."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from deltacompose.analysis.interaction.factorial import NONE, named
from deltacompose.errors import BadInput

Stages = tuple[tuple[str, ...], ...]


def stages(text: str) -> Stages:
    """The stages of a composition's text, each the texts of its methods; no stages for `none` and the empty text.

    >>> stages("prompt + lora(rank=4) >> adapter")
    (('prompt', 'lora(rank=4)'), ('adapter',))

    Raises:
        BadInput: the text is not a composition.
    """
    if text.strip() in ("", NONE):
        return ()
    try:
        return _stages(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput(
            f"{text!r} is not a composition ({error}); expected for example 'prompt + adapter >> lora'"
        ) from None


def canonical(text: str, factors: Sequence[str]) -> str:
    """One name per combination: methods of one stage in the order of the factors, then any others as written.

    >>> canonical("adapter + prompt >> lora", ["prompt", "adapter"])
    'prompt + adapter >> lora'
    """
    return joined(tuple((named(stage, [*factors, *(p for p in stage if p not in factors)]),) for stage in stages(text)))


def joined(parts: Stages) -> str:
    """The text of these stages; `none` where there are none.

    >>> joined((("prompt", "adapter"), ("lora",)))
    'prompt + adapter >> lora'
    """
    return " >> ".join(" + ".join(stage) for stage in parts) or NONE


def methods(texts: Sequence[str]) -> list[str]:
    """The methods of all compositions of a single stage, in the order of first appearance.

    >>> methods(["lora", "lora + prompt", "adapter >> lora"])
    ['lora', 'prompt']
    """
    single_stages = [parts[0] for parts in map(stages, texts) if len(parts) == 1]
    return list(dict.fromkeys(method for stage in single_stages for method in stage))


def _stages(node: ast.expr) -> Stages:
    match node:
        case ast.BinOp(left, ast.RShift(), right):
            return _stages(left) + _stages(right)
        case ast.BinOp(left, ast.Add(), right):
            first, second = _stages(left), _stages(right)
            if len(first) == len(second) == 1:
                return ((*first[0], *second[0]),)
        case ast.Name() | ast.Call(ast.Name(), []):
            return ((ast.unparse(node),),)
    raise ValueError(f"{ast.unparse(node)!r} is not a method")

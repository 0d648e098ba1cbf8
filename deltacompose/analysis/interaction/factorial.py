"""Main effects and interactions of a full factorial: every statistic is a weighting of the 2^k means.

A combination is named by the methods that are on, in the order of the factors: `none`, `prompt`, `prompt + adapter`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import factorial

from deltacompose.errors import BadInput

Contrast = Mapping[str, float]
"""A weight per combination; the statistic is the weighted sum of the combinations' means."""

NONE = "none"
MOST = 8


def combinations(factors: Sequence[str]) -> dict[str, frozenset[str]]:
    """Every combination of the factors by name, the untrained one first and all together last.

    >>> list(combinations(["prompt", "adapter"]))
    ['none', 'adapter', 'prompt', 'prompt + adapter']

    Raises:
        BadInput: no factors, a factor twice, or more than eight (256 combinations).
    """
    if not 1 <= len(factors) <= MOST or len(set(factors)) < len(factors):
        raise BadInput(f"a factorial needs 1 to {MOST} different methods, found {len(factors)}: {', '.join(factors)}")
    return {named(on, factors): on for on in _subsets(factors)}


def named(on: Iterable[str], factors: Sequence[str]) -> str:
    """The name of the combination in which these methods are on.

    >>> named(["lora", "prompt"], ["prompt", "lora", "adapter"])
    'prompt + lora'
    """
    on = set(on)
    return " + ".join(factor for factor in factors if factor in on) or NONE


def effects(factors: Sequence[str]) -> dict[str, Contrast]:
    """The ±1 effects, 2^-(k-1) Σ ± y: for one method, the mean when on minus that when off.

    As in Box, Hunter and Hunter (1978), *Statistics for Experimenters*, chapter 10.

    >>> effects(["lora", "prompt"])["lora"]
    {'none': -0.5, 'prompt': -0.5, 'lora': 0.5, 'lora + prompt': 0.5}

    Returns:
        The contrast of each non-empty set of methods; a mean counts negatively where an odd number of the set is off.
    """
    every = combinations(factors)
    share = 2.0 ** (1 - len(factors))
    return {
        name: {each: share * (-1) ** len(together - on) for each, on in every.items()}
        for name, together in every.items()
        if together
    }


def mobius(factors: Sequence[str]) -> dict[str, Contrast]:
    """The Möbius terms m(S) = Σ_{T ⊆ S} (-1)^{|S \\ T|} y(T): what a set gives beyond all that is in it (Rota 1964).

    >>> mobius(["lora", "prompt"])["lora + prompt"]
    {'none': 1.0, 'prompt': -1.0, 'lora': -1.0, 'lora + prompt': 1.0}
    """
    every = combinations(factors)
    return {
        name: {each: float((-1) ** len(together - on)) for each, on in every.items() if on <= together}
        for name, together in every.items()
    }


def shapley(factors: Sequence[str]) -> dict[str, Contrast]:
    """Shapley values (1953): a method's marginal, averaged over every order in which the methods may be added.

    >>> means = {"none": 0.5, "lora": 0.8, "prompt": 0.7, "lora + prompt": 0.9}
    >>> round(applied(shapley(["lora", "prompt"])["lora"], means), 3)
    0.25
    """
    k = len(factors)
    result: dict[str, Contrast] = {}
    for factor in factors:
        weights: dict[str, float] = {}
        for on in _subsets(factors):
            before = len(on - {factor})
            share = factorial(before) * factorial(k - before - 1) / factorial(k)
            weights[named(on, factors)] = share if factor in on else -share
        result[factor] = weights
    return result


def marginals(factors: Sequence[str]) -> dict[str, dict[str, Contrast]]:
    """The conditional marginals: for each method, what it adds on top of every combination of the others."""
    return {
        factor: {
            named(on, factors): {named(on | {factor}, factors): 1.0, named(on, factors): -1.0}
            for on in _subsets(factors)
            if factor not in on
        }
        for factor in factors
    }


def applied(contrast: Contrast, means: Mapping[str, float]) -> float | None:
    """The statistic of these means, or None where a mean that it weighs is missing: nothing is filled in.

    >>> applied(marginals(["prompt", "adapter"])["prompt"]["adapter"], {"adapter": 87.4, "prompt + adapter": 86.6})
    -0.8000000000000114
    """
    if not contrast.keys() <= means.keys():
        return None
    return sum(weight * means[name] for name, weight in contrast.items())


def _subsets(factors: Sequence[str]) -> Iterator[frozenset[str]]:
    for on in product((False, True), repeat=len(factors)):
        yield frozenset(factor for factor, present in zip(factors, on, strict=True) if present)

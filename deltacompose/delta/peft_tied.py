"""Matrices that several modules share: which modules must change together for a change of the matrix itself.

peft wraps modules, so its adapter on `lm_head` leaves an embedding of the same matrix alone. A weight edit changes
the matrix, in all modules that hold it. The two are one function where every module that acts is changed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.errors import BadInput

T = TypeVar("T")


def sharing(backbone: Backbone, place: Place) -> tuple[str, ...]:
    """Paths of the modules of places that hold the matrix of a place, in forward order, and of the head if it does.

    Another module that is at no place, as T5's `shared`, only names the matrix and does not act.
    """
    owners = set(backbone.owners(place, "weight"))
    placed = [other.module for other in backbone.places() if other.module in owners]
    return tuple(dict.fromkeys([*placed, *(path for path in _head(backbone) if path in owners)]))


def _head(backbone: Backbone) -> list[str]:
    """The path of the module that gives the scores of words, which a table may leave out."""
    head = backbone.model.get_output_embeddings() if hasattr(backbone.model, "get_output_embeddings") else None
    return [path for path, module in backbone.model.named_modules() if head is not None and module is head]


def whole_matrices(backbone: Backbone, changes: Mapping[str, T], equal: Callable[[T, T], bool]) -> dict[str, T]:
    """The changes of modules' matrices by module, of a shared matrix by the first of its modules alone.

    Args:
        equal: whether two changes are one.

    Raises:
        BadInput: modules that share a matrix are not changed alike.
    """
    first = {other.module: other for other in reversed(backbone.places())}
    kept: dict[str, T] = {}
    for module, change in changes.items():
        together = sharing(backbone, first[module]) if module in first else (module,)
        others = [other for other in together if other not in changes or not equal(changes[other], change)]
        if others:
            raise BadInput(
                f"cannot import a change of {module} alone because {', '.join(others)} of {backbone.name} shares its "
                "matrix; train the adapter with peft's ensure_weight_tying=True, or load a backbone whose matrices are "
                "not tied (tie_word_embeddings=False)"
            )
        kept[together[0]] = change
    return kept

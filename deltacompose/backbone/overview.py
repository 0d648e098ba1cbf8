"""The places of a backbone as a table for notebooks."""

from __future__ import annotations

from typing import Protocol

from deltacompose.errors import BadInput
from deltacompose.notebook import table
from deltacompose.places.notation import Place


class HasPlaces(Protocol):
    """The parts of a backbone that an overview shows."""

    def places(self) -> tuple[Place, ...]: ...

    def width(self, place: Place) -> int: ...


def places_table(backbone: HasPlaces) -> str:
    """An HTML table with a row for each kind of place in each stack: how many there are, how wide, and the first."""
    kinds: dict[tuple[str, str], list[Place]] = {}
    for place in backbone.places():
        kinds.setdefault((place.stack, place.kind), []).append(place)
    rows = [
        {
            "place": kind,
            "stack": stack,
            "count": len(places),
            "width": _width(backbone, places[0]),
            "first module": places[0].module,
        }
        for (stack, kind), places in kinds.items()
    ]
    return table(repr(backbone).strip("<>"), rows, ("place", "stack", "count", "width", "first module"))


def _width(backbone: HasPlaces, place: Place) -> int | None:
    """The width of a place; None where nothing tells it."""
    try:
        return backbone.width(place)
    except (BadInput, AttributeError):
        return None

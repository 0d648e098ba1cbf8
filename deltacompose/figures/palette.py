"""One colour, marker, dash and letter for each method, category and task of a study, in every figure, chart and table.

Colours are those of Okabe and Ito (2008, *Color universal design*), without the yellow that is lost on white. Up to
seven names each have their own. Above seven the colours repeat, and what tells names apart is the marker, the dash or
the letter, which also tell them apart in grey-scale print; `tests/figures/test_palette.py` simulates colour blindness
(Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deltacompose.errors import BadInput

INK, GREY, PALE = "#222222", "#8c8c8c", "#dddddd"
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#882255")
MARKERS = "osD^vPXhp8"
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Palette:
    """The names of a study, in each kind; the place of a name among them decides its colour, marker, dash and letter.

    A figure of a part of a study keeps the colours of the whole if it is given the palette of the study.

    Attributes:
        compositions: compositions or methods.
        categories: categories of tasks.
        tasks: tasks.
    """

    compositions: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


def palette_of(study: Any) -> Palette:
    """The palette of a study: of its compositions, its tasks and their categories.

    Args:
        study: a `Study`, the findings of a store, a transfer matrix, several of them by composition, or a palette.

    Raises:
        BadInput: something else.
    """
    if isinstance(study, Palette):
        return study
    if isinstance(study, Mapping):
        parts = [palette_of(value) for value in study.values()]
        names = [tuple(map(str, study)), *(part.compositions for part in parts)]
        return Palette(_together(*names), *(_together(*(getattr(p, kind) for p in parts)) for kind in _KINDS))
    if hasattr(study, "matrices") and hasattr(study, "trainings"):
        trained = tuple(str(record["spec"]["composition"]) for record in study.trainings)
        whole = palette_of(dict(study.matrices)) if study.matrices else Palette()
        return Palette(_together(whole.compositions, trained), whole.categories, whole.tasks)
    if hasattr(study, "sources") and hasattr(study, "categories"):
        kinds = tuple(dict(study.categories).values())
        return Palette(_together((study.composition,)), _together(kinds), _together(study.names))
    if hasattr(study, "compositions") and hasattr(study, "tasks"):
        kinds = tuple(dict(getattr(study, "categories", None) or {}).values())
        return Palette(_together(tuple(map(str, study.compositions))), _together(kinds), _together(tuple(study.tasks)))
    raise BadInput(f"a {type(study).__name__} has no names to colour; give a study, findings, or a transfer matrix")


_KINDS = ("categories", "tasks")


def _together(*parts: Iterable[str]) -> tuple[str, ...]:
    """Every name once, in the order of the alphabet; the empty name is none."""
    return tuple(sorted({name for part in parts for name in part if name}))


def colours_of(names: Iterable[str], study: Iterable[str] = ()) -> dict[str, str]:
    """One colour per composition, method, category or task, by its place in the alphabet; above seven they repeat.

    Args:
        names: those to be drawn.
        study: all those of the study, whose number and order decide the colours.
    """
    return {name: OKABE_ITO[place % len(OKABE_ITO)] for name, place in _places(names, study).items()}


def markers_of(names: Iterable[str], study: Iterable[str] = ()) -> dict[str, str]:
    """One marker shape per name, chosen like its colour; the pair is unique up to 70 names."""
    return {name: MARKERS[place % len(MARKERS)] for name, place in _places(names, study).items()}


def letters_of(names: Iterable[str], study: Iterable[str] = ()) -> dict[str, str]:
    """`A` to `Z`, then `A1`, `B1`, and so on: what stands for a name where there is no room for it."""
    return {
        name: chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")
        for name, place in _places(names, study).items()
    }


def lines_of(names: Iterable[str], study: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each name's line, in the names' order; the last two tell up to 20 apart in grey."""
    names = list(names)
    colours, markers, places = colours_of(names, study), markers_of(names, study), _places(names, study)
    return {
        name: {
            "color": colours[name],
            "marker": markers[name],
            "linestyle": DASHES[(places[name] + places[name] // 20) % len(DASHES)],
        }
        for name in dict.fromkeys(names)
    }


def points_of(names: Iterable[str], study: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Colour and marker of each name's points: every second ten are hollow, so that 20 differ in grey."""
    names = list(names)
    places = _places(names, study)
    return {
        name: {**sign, "linestyle": ""} | ({"markerfacecolor": "white"} if places[name] // len(MARKERS) % 2 else {})
        for name, sign in lines_of(names, study).items()
    }


def _places(names: Iterable[str], study: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(sorted({*names, *study}))}

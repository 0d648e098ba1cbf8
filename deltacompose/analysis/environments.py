"""In what the libraries and processors differ with which cells were computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def differences(environments: Iterable[Mapping[str, Any]]) -> list[str]:
    """In what several environments differ, a text for each name with its values.

    >>> differences([{"torch": "2.12.0", "numpy": "2.1"}, {"torch": "2.13.0", "numpy": "2.1"}])
    ['torch 2.12.0, 2.13.0']
    """
    known = list(environments)
    names = dict.fromkeys(name for one in known for name in one)
    values = {name: sorted({str(one.get(name, "none")) for one in known}) for name in names}
    return [f"{name} {', '.join(found)}" for name, found in values.items() if len(found) > 1]

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
    names = dict.fromkeys(name for environment in known for name in environment)
    values = {name: sorted({str(environment.get(name, "none")) for environment in known}) for name in names}
    return [f"{name} {', '.join(versions)}" for name, versions in values.items() if len(versions) > 1]

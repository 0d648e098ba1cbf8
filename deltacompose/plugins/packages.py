"""The packages that installed members come from: what a remembered listing depends on."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from deltacompose.plugins.loader import Loaded
from deltacompose.plugins.members import KINDS, Lazy, Member, Members


def packages(loaded: Loaded) -> list[Path] | None:
    """The folders, or files, of the top-level packages of all members and of deltacompose; nothing is imported.

    None where a member is given as an object, which no file describes, or where a package cannot be found.
    """
    tops = {"deltacompose"}
    for member in _members(loaded):
        if member.kind == "expression":
            continue
        value = member.value.function if isinstance(member.value, Lazy) else member.value
        if not isinstance(value, str):
            return None
        tops.add(value.partition(":")[0].partition(".")[0])
    folders: list[Path] = []
    for top in sorted(tops):
        spec = importlib.util.find_spec(top)
        places: list[str | None] = []
        if spec is not None:
            places += spec.submodule_search_locations or [spec.origin]
        known = [place for place in places if place is not None]
        if not known or len(known) < len(places):
            return None
        folders += map(Path, known)
    return folders


def _members(loaded: Loaded) -> Iterator[Member]:
    for kind in KINDS:
        members: Members = getattr(loaded, f"{kind}s")
        yield from members.listed.values()

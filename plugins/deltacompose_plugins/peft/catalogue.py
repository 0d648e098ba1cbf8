"""The table of peft's types: what works, and why the rest does not."""

from __future__ import annotations

from typing import Any

from deltacompose_plugins.peft.tuners import TUNERS, Tuner


def peft_table() -> list[dict[str, Any]]:
    """One row for each type that the installed peft or the bridge knows, sorted by name.

    Keys: `type`, `works`, `acts` (on what), `places` (those that it changes if none are named), `neutral` (whether it
    changes nothing, to the last bit, before its first step), `banked` (by `vmap` or by a `loop`), `mergeable` (`yes`,
    `no`, or `where it has biases`), `source`, and `note`: why not.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    installed = {str(peft_type.value).lower() for peft_type in PEFT_TYPE_TO_CONFIG_MAPPING}
    return [_row(name, installed) for name in sorted(installed | TUNERS.keys())]


def _row(name: str, installed: set[str]) -> dict[str, Any]:
    tuner = TUNERS.get(name, Tuner("", acts="", why="this bridge has not been measured with it"))
    works = not tuner.why and name in installed
    return {
        "type": name,
        "works": works,
        "acts": tuner.acts,
        "places": ", ".join(tuner.places) if works else "",
        "neutral": works and tuner.neutral,
        "banked": ("vmap" if tuner.vmap else "loop") if works else "",
        "mergeable": tuner.mergeable if works else "",
        "source": tuner.source,
        "note": tuner.why if name in installed or tuner.why else "not in the installed peft",
    }

"""The backbone `embedded-generative`: stories15M (llama2.c, TinyStories), with its weights in this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltacompose.plugins.checkpoint import Checkpoint

deltacompose_api = 1

FOLDER = Path(__file__).parent / "model"
SHA256 = "b791a240999b99c932fa804a76f128ba2a0bd3cf4473394072cab1c67a2ce5e7"


def deltacompose_backbones() -> Mapping[str, Any]:
    return {"embedded-generative": "deltacompose_stories15m:checkpoint"}


def checkpoint() -> Checkpoint:
    """Where the weights are, and what they must hash to."""
    from deltacompose.plugins.checkpoint import Checkpoint

    return Checkpoint(str(FOLDER), SHA256)

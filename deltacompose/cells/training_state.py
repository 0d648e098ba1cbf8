"""The files of a checkpoint: a training's tensors as safetensors, and its numbers as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NotRequired

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from typing_extensions import TypedDict

from deltacompose.errors import BadInput
from deltacompose.formats.files import read_bytes
from deltacompose.formats.json_files import parsed_json
from deltacompose.formats.tensor_files import FLOATS, INDICES, read_header
from deltacompose.limits import STORED_BYTES
from deltacompose.training.loop import State
from deltacompose.validation import validated


class _Evaluated(TypedDict):
    step: int
    score: float


class _Evaluations(TypedDict):
    history: list[_Evaluated]


class _Going(_Evaluations):
    """Entries that are read from the state of a running training; it has others."""

    step: int
    seconds: float
    tokens: int
    losses: list[float]
    best: float
    budget: NotRequired[int]


class _Diverged(TypedDict):
    failure: str
    budget: NotRequired[int]


def write_state(state: State, folder: Path) -> None:
    """Writes a training's state into a folder."""
    tensors = {name: x.detach().cpu().contiguous() for name, x in state[0].items()}
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(state[1]))


def read_state(folder: Path) -> State:
    """The state of a training that `write_state` wrote.

    Raises:
        BadInput: a file is missing or damaged.
    """
    note, tensors = folder / "state.json", folder / "state.safetensors"
    info: dict[str, Any] = parsed_json(read_bytes(note, STORED_BYTES), str(note), finite=False)
    validated(_Going | _Diverged, info, str(note))
    read_header(tensors, (*FLOATS, *INDICES))
    try:
        return load_file(tensors), info
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{tensors} is truncated or not a safetensors file ({error})") from None


def latest_score(info: Any) -> dict[str, Any] | None:
    """The step and the score of the latest evaluation in a state's JSON; None where there is none or it is damaged."""
    try:
        history = validated(_Evaluations, info, "the state")["history"]
    except BadInput:
        return None
    return {name: history[-1][name] for name in ("step", "score")} if history else None

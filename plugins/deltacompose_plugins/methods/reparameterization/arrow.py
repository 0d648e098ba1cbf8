"""Arrow: routing over the LoRAs of a library, token by token and place by place."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.composition import parse
from deltacompose.delta.delta import Delta, load
from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import Missing, is_folder
from deltacompose.formats.json_files import read_json
from deltacompose.formats.urls import names_in
from deltacompose.method import Category, Edit, Method, OutputEdit, Tensors
from deltacompose_plugins.methods.reparameterization.lora import LoRA

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,199}")
_MOST = 512
"""Experts of one router, at most."""


@dataclass(frozen=True)
class Arrow(Method):
    """y + s Σₖ wₖ(x) Bₖ Aₖ x: every token is sent to the LoRAs whose direction it has most of, at every place anew.

    Ostapenko et al. 2024, *Towards Modular LLMs by Building and Reusing a Library of LoRAs* (arXiv 2405.11157, section
    4.1). w(x) is the softmax of |vₖᵀ x| / τ over the `top` experts with the greatest |vₖᵀ x|, and 0 for the others; vₖ
    is the leading right singular vector of ΔWₖ = Bₖ Aₖ, whose sign means nothing. Changes are summed, which equals the
    single delta where the library has one. Nothing needs to be trained: s is 1 at the start, one number per place
    (the paper has no s).

    The experts are all deltas of the library that are one LoRA, or those in `only`. They become constants of the delta,
    which so needs the library no more once it is saved. `Arrow.of` fills in the hash of their content, which is part of
    a cell's key; another content under the same name is refused. One number per matrix:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> matrices = 2 * 2
    >>> count(Arrow(), pico_backbone("bert")) == matrices
    True

    Args:
        library: the folder of a library of deltas.
        sha256: of the experts' names, expressions and tensors; `Arrow.of` fills it in.
        top: how many experts act on a token.
        temperature: τ.
        only: names of deltas in the library; none takes every LoRA.
        places: kinds of places that the experts change, `*` standing for anything.
    """

    name: ClassVar[str] = "arrow"
    category: ClassVar[Category] = "reparameterization"
    learning_rate: ClassVar[float] = 1e-2
    source: ClassVar[str] = "Ostapenko et al. 2024, arXiv 2405.11157"
    formula: ClassVar[str] = "1 per matrix"
    neutral: ClassVar[bool] = False
    linear: ClassVar[bool] = False

    library: str = ""
    sha256: str = ""
    top: Annotated[int, Ge(1)] = 4
    temperature: Annotated[float, Gt(0)] = 1.0
    only: tuple[str, ...] = ()
    places: tuple[str, ...] = ("*attention.query", "*attention.value")

    @classmethod
    def of(cls, library: str | Path, *, only: Sequence[str] = (), **settings: Any) -> Arrow:
        """The method for a library, with the hash of the experts that it holds now.

        Raises:
            BadInput: there is no library, or it has no such LoRAs.
        """
        notes = _notes(str(library), tuple(only))
        places = _lora_of(str(library), notes).places
        chosen = {"places": places, "only": tuple(only)} | settings
        return cls(library=str(library), sha256=_digest(notes), **chosen)

    @classmethod
    def over(cls, deltas: Sequence[Delta], backbone: Backbone, **settings: Any) -> tuple[Arrow, dict[str, Tensor]]:
        """The method and its constants for LoRAs in hand, without a library.

        Raises:
            BadInput: a delta is not a single LoRA, or they act at different places.
        """
        notes = {str(k): {"expression": str(delta.expression), "sha256": ""} for k, delta in enumerate(deltas)}
        for note in notes.values():
            if not _is_lora(note["expression"]):
                raise BadInput(
                    f"arrow: {quoted(note['expression'])} is not an expert; expected a single lora without dora"
                )
        method = cls(places=_lora_of("", notes).places, **settings)
        return method, method._routing_constants(deltas, backbone)

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {f"{place.name}.scale": torch.ones(1) for place in backbone.places(*self.places)}

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        """For each place the experts' `up` `(experts, output, rank)`, `down` `(experts, rank, input)` and `direction`
        `(experts, input)`; lower ranks are filled up with zeros."""
        return self._routing_constants([_expert(self, name, backbone) for name in self._names()], backbone)

    def _routing_constants(self, experts: Sequence[Delta], backbone: Backbone) -> dict[str, Tensor]:
        constants: dict[str, Tensor] = {}
        for place in backbone.places(*self.places):
            factors = [_factors(self, delta, place) for delta in experts]
            rank = max(down.shape[0] for _, down in factors)
            constants[f"{place.name}.up"] = torch.stack([_widened(up, rank, 1) for up, _ in factors])
            constants[f"{place.name}.down"] = torch.stack([_widened(down, rank, 0) for _, down in factors])
            constants[f"{place.name}.direction"] = torch.stack([leading_direction(up, down) for up, down in factors])
        return constants

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [OutputEdit(place, partial(self._routed, place.name)) for place in backbone.places(*self.places)]

    def _routed(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        weights = routing(input, t[f"{place}.direction"], self.top, self.temperature)
        low = torch.einsum("...i,kri->...kr", input, t[f"{place}.down"])
        change = torch.einsum("...kr,kor->...o", low * weights[..., None], t[f"{place}.up"])
        return output + t[f"{place}.scale"] * change

    def _names(self) -> list[str]:
        """The experts' names, if their content is the one that is meant."""
        notes = _notes(self.library, self.only)
        if (digest := _digest(notes)) != self.sha256:
            raise BadInput(
                f"arrow: the {len(notes)} LoRAs of library={quoted(self.library)} have sha256={digest!r}, and the "
                f"setting is {quoted(self.sha256)}; Arrow.of(library, only=...) writes the present one"
            )
        return list(notes)


def routing(input: Tensor, directions: Tensor, top: int, temperature: float) -> Tensor:
    """How much each expert acts on each token, `(..., experts)`: a softmax over the `top` ones, 0 for the others.

    Args:
        input: `(..., width)`.
        directions: `(experts, width)`.
    """
    exact = torch.promote_types(input.dtype, torch.float32)  # which experts are first must not be a matter of rounding
    scores = (input.to(exact) @ directions.to(exact).mT).abs()
    best, which = scores.topk(min(top, scores.shape[-1]), dim=-1)
    return torch.zeros_like(scores).scatter(-1, which, torch.softmax(best / temperature, -1)).to(input.dtype)


def leading_direction(up: Tensor, down: Tensor) -> Tensor:
    """The right singular vector of B A with the greatest singular value, `(input,)`; zeros where B A is zero.

    Computed in double precision without forming the product: A = Rᵀ Qᵀ, so B A = (B Rᵀ) Qᵀ.
    """
    basis, triangle = torch.linalg.qr(down.double().mT)
    _, values, right = torch.linalg.svd(up.double() @ triangle.mT, full_matrices=False)
    if not float(values[0]) > 0:
        return torch.zeros(down.shape[1], dtype=down.dtype)
    return (basis @ right[0]).to(down.dtype)


def _notes(library: str, only: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Content of `delta.json` of each expert, by its name, in alphabetical order.

    Raises:
        BadInput: the library is not a local folder, or has no such LoRAs.
    """
    if "://" in library:
        raise BadInput(f"arrow: library={quoted(library)} is a URL; expected a folder (download the library first)")
    folder = Path(library, "deltas")
    if not library or not is_folder(folder):
        raise BadInput(f"arrow: library={quoted(library)} is not the folder of a library of deltas")
    for name in only:
        if not _NAME.fullmatch(name) or ".." in name:
            raise BadInput(f"arrow: {quoted(name)} is not a valid name of a delta in a library")
    notes: dict[str, Mapping[str, Any]] = {}
    for name in sorted(only) or [entry for entry in names_in(folder) if _NAME.fullmatch(entry)]:
        note = _note(folder / name, required=bool(only))
        if note is not None:
            notes[name] = note
    if not notes:
        raise BadInput(f"arrow: the library {quoted(library)} has no delta that is a single lora")
    if len(notes) > _MOST:
        raise BadInput(
            f"arrow: the library {quoted(library)} has {len(notes)} LoRAs; name at most {_MOST} of them in `only`"
        )
    return notes


def _note(folder: Path, required: bool) -> Mapping[str, Any] | None:
    """The expression and the hash of the tensors of a complete delta; None unless it is a single LoRA."""
    try:
        note: dict[str, Any] = read_json(folder / "delta.json", dict[str, Any])
        complete = (folder / "card.json").is_file() and isinstance(note.get("sha256"), str)
    except Missing:
        complete, note = False, {}
    text = str(note.get("expression", ""))
    if complete and _is_lora(text):
        return {"expression": text, "sha256": note["sha256"]}
    if not required:
        return None
    reason = f"is a delta of {quoted(text)}; expected a single lora without dora" if complete else "is not complete"
    raise BadInput(f"arrow: {quoted(folder.name)} of the library {reason}")


def _is_lora(text: str) -> bool:
    try:
        [[method]] = parse(text, {"lora": LoRA}).stages
    except (BadInput, ValueError):
        return False
    return isinstance(method, LoRA) and not method.dora


def _lora_of(library: str, notes: Mapping[str, Mapping[str, Any]]) -> LoRA:
    """The LoRA of the experts, which must act at the same kinds of places."""
    methods = {name: parse(note["expression"], {"lora": LoRA}).stages[0][0] for name, note in notes.items()}
    kinds = {method.places: name for name, method in methods.items() if isinstance(method, LoRA)}
    if len(kinds) > 1:
        (kind, first), (other, second) = list(kinds.items())[:2]
        raise BadInput(
            f"arrow: {quoted(first)} acts at {quoted(kind)} and {quoted(second)} at {quoted(other)}; the experts of a "
            "router act at the same places; name those of one kind in `only`"
        )
    return LoRA(places=next(iter(kinds)))


def _digest(notes: Mapping[str, Mapping[str, Any]]) -> str:
    content = [[name, note["expression"], note["sha256"]] for name, note in notes.items()]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _expert(method: Arrow, name: str, backbone: Backbone) -> Delta:
    delta = load(Path(method.library, "deltas", name), {"lora": LoRA})
    delta.check(backbone)
    return delta


def _factors(method: Arrow, delta: Delta, place: Place) -> tuple[Tensor, Tensor]:
    """B, with the LoRA's scale in it, and A of an expert at a place."""
    [[lora]] = delta.expression.stages
    own = {name.removeprefix("0.0."): x.float() for name, x in delta.weights.items()}
    if not isinstance(lora, LoRA) or f"{place.name}.up" not in own:
        raise BadInput(f"arrow: {method.places} has the place {place.name}, which {delta.expression} does not change")
    return lora.factors(place.name, own)


def _widened(x: Tensor, rank: int, axis: int) -> Tensor:
    missing = list(x.shape)
    missing[axis] = rank - x.shape[axis]
    return torch.cat([x, x.new_zeros(missing)], axis)

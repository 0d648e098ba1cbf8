"""Intrinsic prompt tuning: a soft prompt within a subspace that was learned from other tasks' prompts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import read_bytes
from deltacompose.formats.tensor_files import read_header
from deltacompose.limits import ARRAY_BYTES
from deltacompose.method import Category, Edit, Method, Tensors, TokenEdit
from deltacompose_plugins.methods.addition.prompt import stream_of
from deltacompose_plugins.methods.reparameterization import projections

_DECODERS = (("mean", "basis"), ("hidden_weight", "hidden_bias", "output_weight", "output_bias"))
_COORDINATES = {"basis": 0, "hidden_weight": 1}


@dataclass(frozen=True)
class IntrinsicPrompt(Method):
    """[Dec(z); E(x)]: d numbers z, zero at the start, which a frozen decoder turns into a prompt.

    Qin et al. 2021, *Exploring Universal Intrinsic Task Subspace via Prompt Tuning* (arXiv 2110.07867, section 3.2).
    The file is what `deltacompose subspace` learns from prompts: a safetensors file with the decoder's tensors, those
    of principal components (`mean` `(p·w,)`, `basis` `(d, p·w)`) or of the paper's network (`hidden_weight` `(h, d)`,
    `hidden_bias`, `output_weight` `(p·w, h)`, `output_bias`), w being the width of the embeddings. d parameters:

    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> d, p, w = 4, 10, 16
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"mean": torch.zeros(p * w), "basis": torch.eye(d, p * w)}, f"{folder}/prompts.safetensors")
    ...     count(IntrinsicPrompt.of(f"{folder}/prompts.safetensors"), pico_backbone("t5")) == d
    True

    Args:
        file: the decoder.
        sha256: of the file's content, so that a cell's key tells decoders apart; `IntrinsicPrompt.of` fills it in.
        stream: `encoder` or `decoder`; empty means the one that reads the input.
    """

    name: ClassVar[str] = "intrinsic_prompt"
    category: ClassVar[Category] = "reparameterization"
    learning_rate: ClassVar[float] = 1e-1
    source: ClassVar[str] = "Qin et al. 2021, arXiv 2110.07867"
    formula: ClassVar[str] = "d, the decoder's"
    neutral: ClassVar[bool] = False

    file: str = ""
    sha256: str = ""
    stream: Literal["", "encoder", "decoder"] = ""

    @classmethod
    def of(cls, file: str | Path, **settings: Any) -> IntrinsicPrompt:
        """The method for a file, with the hash of what it holds now."""
        return cls(file=str(file), sha256=hashlib.sha256(_content(str(file))).hexdigest(), **settings)

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        decoder = self._decoder(backbone)
        name = next(name for name in _COORDINATES if name in decoder)
        return {f"{stream_of(self, backbone)}.z": torch.zeros(decoder[name].shape[_COORDINATES[name]])}

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        return {f"shared.{name}": x for name, x in self._decoder(backbone).items()}

    def edits(self, backbone: Backbone) -> list[Edit]:
        stream = stream_of(self, backbone)
        return [TokenEdit(stream, partial(_decoded, stream, backbone.embedding_width))]

    def _decoder(self, backbone: Backbone) -> dict[str, Tensor]:
        """The decoder's tensors, checked against the setting and the backbone."""
        content, width = _content(self.file), backbone.embedding_width
        digest = hashlib.sha256(content).hexdigest()
        if self.sha256 != digest:
            raise BadInput(f"intrinsic_prompt: {self.file} has sha256={digest!r}, and the setting is {self.sha256!r}")
        try:
            tensors = load(content)
        except SafetensorError as error:
            raise BadInput(f"intrinsic_prompt: {self.file} is not a safetensors file ({error})") from None
        names = next((names for names in _DECODERS if set(names) <= tensors.keys()), None)
        if names is None:
            raise BadInput(f"intrinsic_prompt: {self.file} holds {', '.join(sorted(tensors))}, which is not a decoder")
        if (size := tensors[names[-1]].shape[-1]) % width:
            raise BadInput(f"intrinsic_prompt: {self.file} decodes to {size} numbers, no rows of {width}")
        return {name: tensors[name].float() for name in names}


def _content(file: str) -> bytes:
    try:
        read_header(Path(file))
        return read_bytes(Path(file), ARRAY_BYTES)
    except BadInput as error:
        raise BadInput(f"intrinsic_prompt: no decoder can be read from file={quoted(file)} ({error})") from None


def _decoded(stream: str, width: int, t: Tensors) -> Tensor:
    decoder = {name.removeprefix("shared."): x for name, x in t.items() if name.startswith("shared.")}
    return projections.decode(decoder, t[f"{stream}.z"]).view(-1, width)

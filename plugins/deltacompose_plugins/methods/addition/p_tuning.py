"""P-tuning: a soft prompt that a small network puts out while it is trained."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Generator, Tensor
from torch.nn import functional as F

from deltacompose.backbone import Backbone
from deltacompose.method import Category, Edit, Method, Tensors, TokenEdit
from deltacompose_plugins.methods.addition.prompt import prompt, stream_of

_LAYERS = 2


@dataclass(frozen=True)
class PTuning(Method):
    """[P; E(x)] with P = MLP(BiLSTM(R)): p trained rows R `(p, d)` through a network, folded away after training.

    Liu et al. 2021, *GPT Understands, Too* (arXiv 2103.10385, section 3.2): two bidirectional LSTM layers, then
    Linear(2h, 2h), relu, Linear(2h, d); or in place of both the MLP Linear(d, h), relu, Linear(h, h), relu,
    Linear(h, d). p·d parameters stay; with the MLP, dh + h + h² + h + hd + d more are trained:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> p, d, h = 5, 16, 8
    >>> count(PTuning(length=p, encoder="mlp", hidden=h), pico_backbone("t5")) == p * d + 2 * d * h + h * h + 2 * h + d
    True

    Args:
        length: p.
        encoder: `lstm` or `mlp`.
        hidden: h; 0 is half of the width d of the embeddings.
        stream: `encoder` or `decoder`; empty means the one that reads the input.
    """

    name: ClassVar[str] = "p_tuning"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 1e-3
    source: ClassVar[str] = "Liu et al. 2021, arXiv 2103.10385"
    linear: ClassVar[bool] = True
    formula: ClassVar[str] = "pd kept, and the network's while training"
    neutral: ClassVar[bool] = False

    length: Annotated[int, Ge(1)] = 10
    encoder: Literal["lstm", "mlp"] = "lstm"
    hidden: Annotated[int, Ge(0)] = 0
    stream: Literal["", "encoder", "decoder"] = ""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        stream, d = stream_of(self, backbone), backbone.embedding_width
        weights = {f"{stream}.rows": torch.randn(self.length, d, generator=generator)}
        for name, shape in self._network(d, self.hidden or d // 2).items():
            bound = 1 / math.sqrt(shape[-1])
            weights[f"{stream}.{name}"] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        return weights

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]:
        """Runs the network: the rows become the prompt, `(length, width)`."""
        stream = next(iter(t)).partition(".")[0]
        x = t[f"{stream}.rows"]
        network = {name: t[f"{stream}.{name}"] for name in self._network(*x.shape)}
        if recurrent := [tensor for name, tensor in network.items() if name.startswith("lstm")]:
            state = x.new_zeros(2 * _LAYERS, 1, recurrent[1].shape[1])
            x = torch.lstm(x[None], (state, state), recurrent, True, _LAYERS, 0.0, False, True, True)[0][0]
        linear = [tensor for name, tensor in network.items() if name.startswith("linear")]
        for number, (weight, bias) in enumerate(zip(linear[::2], linear[1::2], strict=True)):
            x = F.linear(F.relu(x) if number else x, weight, bias)
        return {f"{stream}.prompt": x}

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        return self.prepare(t, torch.Generator())

    def edits(self, backbone: Backbone) -> list[Edit]:
        stream = stream_of(self, backbone)
        return [TokenEdit(stream, partial(prompt, stream))]

    def _network(self, d: int, h: int) -> dict[str, tuple[int, ...]]:
        """The network's tensors with their shapes, in the order in which it uses them."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, way in itertools.product(range(_LAYERS if self.encoder == "lstm" else 0), ("forward", "backward")):
            inputs = 2 * h if layer else d
            own = {"input": (4 * h, inputs), "state": (4 * h, h), "input_bias": (4 * h,), "state_bias": (4 * h,)}
            shapes |= {f"lstm{layer}_{way}_{name}": shape for name, shape in own.items()}
        widths = (2 * h, 2 * h, d) if self.encoder == "lstm" else (d, h, h, d)
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            shapes |= {f"linear{number}": (outputs, inputs), f"linear{number}_bias": (outputs,)}
        return shapes

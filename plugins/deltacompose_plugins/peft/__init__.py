"""peft's tuners and prompt encoders as one method, which composes with the native ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.errors import BadInput, unknown
from deltacompose.method import Edit, Method, Tensors
from deltacompose.method.weights import generator as seeded
from deltacompose_plugins.peft import adalora, changes, encoders, layers, options, osf
from deltacompose_plugins.peft.catalogue import peft_table
from deltacompose_plugins.peft.tuners import TUNERS, Tuner

__all__ = ["Peft", "peft_table"]

_VIEWS: dict[str, changes.View] = {"adalora": adalora.seen, "osf": osf.seen}
"""Types whose layers see something else than their tensors as they are."""

_EMPTY: WeakKeyDictionary[Backbone, dict[Peft, tuple[layers.Layer, ...]]] = WeakKeyDictionary()
"""The layers without tensors of each backbone and setting: peft takes long to make them, and each attachment asks."""


class OfType:
    """A class attribute that on a method with settings is what its type says."""

    def __init__(self, of: Callable[[Peft], Any], otherwise: Any) -> None:
        self.of, self.otherwise = of, otherwise

    def __get__(self, method: Peft | None, owner: type[Peft]) -> Any:
        return self.otherwise if method is None else self.of(method)


@dataclass(frozen=True)
class Peft(Method):
    """One of peft's types at our places: `peft(type='oft', options='oft_block_size=4') + bitfit`.

    Mangrulkar et al. 2022, *PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods*
    (github.com/huggingface/peft). peft's own layers do the work, kept outside the model, so the backbone stays as it is
    and every type works in every family: matrices are handed over as (output, input), fused ones by their slices.

    Args:
        type: peft's name of the method, in small letters.
        options: of peft's configuration, as text; sorted by name.
        places: kinds of places, `*` standing for anything; those that suit the type if empty.
    """

    name: ClassVar[str] = "peft"
    category: ClassVar[Any] = OfType(lambda method: method.tuner.category, "reparameterization")
    learning_rate: ClassVar[Any] = OfType(lambda method: method.tuner.learning_rate, 2e-3)
    source: ClassVar[Any] = OfType(lambda method: method.tuner.source, "github.com/huggingface/peft")
    neutral: ClassVar[Any] = OfType(lambda method: method.starts_neutral, False)
    linear: ClassVar[Any] = OfType(lambda method: method._encodes, False)
    formula: ClassVar[str] = "as its type's"

    type: str = "lora"
    options: str = ""
    places: tuple[str, ...] = ()

    @staticmethod
    def table() -> list[dict[str, Any]]:
        """A row for each of peft's types: what works, and why the rest does not."""
        return peft_table()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tuner.why:
            raise BadInput(f"peft: type={self.type!r} is not supported: {self.tuner.why}")
        options_read = options.check(self.type, options.read(self.options))
        object.__setattr__(self, "options", options.write(options_read))
        for name in self.tuner.needs:
            if name not in options_read:
                raise BadInput(f"peft: type={self.type!r} needs the option {name}, as in options='{name}=...'")
        self.config()

    @property
    def tuner(self) -> Tuner:
        """Entry of the type in the table of tuners."""
        if self.type not in TUNERS:
            raise unknown("peft type", self.type, TUNERS)
        return TUNERS[self.type]

    @property
    def starts_neutral(self) -> bool:
        """Whether nothing changes before the first step: known of every type, unless the options start it otherwise."""
        starts = (name for name in options.read(self.options) if name.startswith("init_") and name != "init_r")
        return self.tuner.neutral and not any(starts)

    def config(self) -> Any:
        """A new configuration of peft with these options; peft writes to it."""
        return options.config(self.type, options.read(self.options))

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {name: x.detach() for name, x in self._tensors(backbone, generator).items() if x.requires_grad}

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        """Tensors that peft freezes: projections, indices, parts of the pretrained matrix; and AdaLoRA's schedule."""
        tensors = self._tensors(backbone, self._fixed())
        frozen = {name: x for name, x in tensors.items() if not x.requires_grad}
        return frozen | (adalora.initial(tensors) if self.type == "adalora" else {})

    def edits(self, backbone: Backbone) -> list[Edit]:
        if self._encodes:
            return encoders.edits(backbone, self._where(backbone))
        return changes.edits(backbone, self._empty(backbone), self.tuner, _VIEWS.get(self.type, layers.Layer.own))

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]:
        """A prompt encoder makes its rows; the other types' tensors are seen as they are."""
        return encoders.rows(t, self.config()) if self._encodes else dict(t)

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        return self.prepare(t, torch.Generator())

    def penalty(self, t: Tensors) -> Tensor:
        """AdaLoRA keeps its factors orthogonal; the other types have no term of their own."""
        return adalora.penalty(t, self.config().orth_reg_weight) if self.type == "adalora" else torch.zeros(())

    def update(self, t: Tensors, gradients: Tensors, step: int, steps: int) -> dict[str, Tensor]:
        """AdaLoRA takes ranks away; the other types stay as they are."""
        return adalora.update(t, gradients, step, steps, vars(self.config())) if self.type == "adalora" else {}

    @property
    def _encodes(self) -> bool:
        return self.tuner.acts in ("tokens", "keys")

    def _where(self, backbone: Backbone) -> tuple[Place, ...]:
        """The places that it acts on; a matrix that several places share (tied embeddings) is changed once."""
        kinds = self.places or self.tuner.places
        if not kinds or self._encodes:
            return backbone.places(*kinds) if kinds else ()
        by_weight: dict[tuple[int, object], Place] = {}
        for place in backbone.places(*kinds):
            backbone.parameter_location(place, "weight")  # refuses a place without a matrix
            by_weight.setdefault((id(backbone.module(place).weight), place.part), place)
        return tuple(by_weight.values())

    def _tensors(self, backbone: Backbone, source: Generator) -> dict[str, Tensor]:
        """Everything that the type has; what is to be trained asks for gradients."""
        places = self._where(backbone)
        if self._encodes:
            return encoders.tensors(backbone, places, self.config(), source)
        built = layers.build(backbone, places, self.config(), self.tuner, source)
        _EMPTY.setdefault(backbone, {})[self] = built.layers
        return dict(built.tensors)

    def _empty(self, backbone: Backbone) -> tuple[layers.Layer, ...]:
        if self not in _EMPTY.get(backbone, {}):
            self.constants(backbone)
        return _EMPTY[backbone][self]

    def _fixed(self) -> Generator:
        """Constants do not depend on a delta's seed."""
        return seeded(0, "constants", str(self))

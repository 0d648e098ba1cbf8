"""peft's layers kept outside the model: one for each place, its pretrained matrix to be handed over at every call.

peft's tuner is given a stand-in of bare modules, one for each place, and wraps them as it would wrap a model's. The
result is taken apart: its tensors go into a delta's, the trained ones as weights and all others as constants. The
layers that remain, their own tensors on the meta device, are called with `torch.func.functional_call`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.func import functional_call

from deltacompose.backbone import Backbone, Place
from deltacompose.errors import BadInput
from deltacompose.method import Tensors
from deltacompose_plugins.peft.tuners import Tuner

ADAPTER = "default"
BASE = "base_layer."


@dataclass(frozen=True, eq=False)
class Layer:
    """peft's layer for one place, without tensors.

    Attributes:
        names: for each of its tensors the name in a delta's flat mapping.
        additive: whether what it adds does not depend on the pretrained matrix.
        moves_bias: whether it changes what the place adds.
    """

    place: Place
    module: nn.Module
    names: Mapping[str, str]
    additive: bool
    moves_bias: bool

    def own(self, t: Tensors) -> dict[str, Tensor]:
        """The layer's tensors by its own names."""
        return {name: t[full] for name, full in self.names.items()}

    def __call__(self, own: Tensors, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """The layer's output with these tensors attached.

        Args:
            weight: the pretrained matrix `(output, input)`.
            bias: the pretrained bias, which is left out where the place has none.
        """
        pretrained = {f"{BASE}weight": weight}
        if bias is not None and self._has_bias:
            pretrained[f"{BASE}bias"] = bias
        if "dtype" in vars(self.module):  # AdaMSS computes in the precision of the matrix that it was made with
            self.module.dtype = weight.dtype
        with torch.sparse.check_sparse_tensor_invariants(False):  # PyTorch warns where nobody has said so
            return functional_call(self.module, {**pretrained, **own}, (x,))  # type: ignore[no-any-return]

    @property
    def _has_bias(self) -> bool:
        return getattr(self.module.get_submodule("base_layer"), "bias", None) is not None


@dataclass(frozen=True, eq=False)
class Layers:
    """All of a type's layers, and their tensors by their names in a delta; the trained ones ask for gradients."""

    layers: tuple[Layer, ...]
    tensors: Mapping[str, Tensor]


def build(backbone: Backbone, places: tuple[Place, ...], config: Any, tuner: Tuner, source: Generator) -> Layers:
    """peft's layers for these places, drawn from `source` alone.

    Raises:
        BadInput: peft refuses a place or an option.
    """
    with unset_fake_temporarily():
        return _built(backbone, places, config, tuner, source)


def _built(backbone: Backbone, places: tuple[Place, ...], config: Any, tuner: Tuner, source: Generator) -> Layers:
    stand_in = _StandIn(backbone, places)
    config.target_modules = sorted({module_kind(place) for place in places})
    if hasattr(config, "feedforward_modules"):  # (IA)³ scales the input of these, and the output of all others
        config.feedforward_modules = [kind for kind in config.target_modules if kind.endswith("_ffn_down")]
    _injected(stand_in, config, source)
    modules = [stand_in.at(index) for index in range(len(places))]
    for place, module in zip(places, modules, strict=True):
        _register_tensors(module)
        if not any(True for _ in _tensors(module)):
            raise BadInput(f"peft's {config.peft_type.value} leaves {place.name} as it is")
    return _apart(backbone, places, modules, config, tuner)


def module_kind(place: Place) -> str:
    """Name of a place's stand-in. No such name ends like another, so peft's suffixes match exactly."""
    return f"on_{place.kind.replace('.', '_')}"


class _StandIn(nn.Module):
    """A model of bare linear, embedding and norm modules with copies of the places' pretrained tensors."""

    def __init__(self, backbone: Backbone, places: tuple[Place, ...]) -> None:
        super().__init__()
        self.config = {"model_type": "stand-in", "tie_word_embeddings": False}
        self.places = places
        self.layers = nn.ModuleDict(
            {str(i): nn.ModuleDict({module_kind(p): bare(backbone, p)}) for i, p in enumerate(places)}
        )

    def at(self, index: int) -> nn.Module:
        return self.layers[str(index)][module_kind(self.places[index])]  # type: ignore[index, no-any-return]


def bare(backbone: Backbone, place: Place) -> nn.Module:
    """A module like the place's, on the CPU in fp32: peft may change it, and turns off its gradients."""
    module: nn.Module
    weight, own = backbone.parameter(place, "weight"), backbone.module(place)
    if isinstance(own, nn.Embedding):
        module = nn.Embedding(*weight.shape, device="meta")
    elif weight.ndim == 1:
        module = nn.LayerNorm(weight.shape[0], bias="bias" in backbone.parameter_names(place), device="meta")
    else:
        rows, columns = weight.shape
        module = nn.Linear(columns, rows, "bias" in backbone.parameter_names(place), device="meta")
    for name, _ in list(module.named_parameters()):
        setattr(module, name, nn.Parameter(_copied(backbone, place, name), requires_grad=False))
    return module


def _copied(backbone: Backbone, place: Place, name: str) -> Tensor:
    """A pretrained tensor on the CPU in fp32; zeros where the backbone has shapes alone, as in the catalogue."""
    tensor = backbone.parameter(place, name).detach()
    if tensor.is_meta or isinstance(tensor, FakeTensor):
        return torch.zeros(tensor.shape)
    return tensor.to("cpu", torch.float32, copy=True).contiguous()


def _injected(stand_in: nn.Module, config: Any, source: Generator) -> None:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    try:
        with drawn_from(source), heeding(config):
            PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](stand_in, config, ADAPTER)
    except Exception as error:  # peft raises every kind of error for options and modules that do not fit
        raise BadInput(f"peft refuses {config.peft_type.value}: {' '.join(str(error).split())}") from error


@contextmanager
def heeding(config: Any = None) -> Iterator[None]:
    """Turns peft's warnings about ignored options into errors within the block; its other warnings are dropped.

    They are about its own merging and saving, which are not used, or set an option to what it is.
    """
    with warnings.catch_warnings(record=True, action="always") as caught:
        yield
    for text in (str(warning.message) for warning in caught):
        harmless = any(
            str(getattr(config, name, None)) == value for name, value in re.findall(r"etting (\w+) to (\w+)", text)
        )
        if not harmless and any(word in text for word in ("djusted", "ignored", "etting ", "utomatically")):
            raise ValueError(text)


@contextmanager
def drawn_from(source: Generator) -> Iterator[None]:
    """Within it, PyTorch's own generator draws what `source` would; afterwards both are where they were.

    peft draws for tensors that it then sets to zero, too, so how much it has drawn says nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.set_state(source.get_state())
        yield


def _register_tensors(module: nn.Module) -> None:
    """Makes tensors that a layer keeps in plain attributes (indices, masks) ones that can be handed over and saved."""
    from peft.tuners._buffer_dict import BufferDict

    for name, value in list(vars(module).items()):
        if isinstance(value, BufferDict):
            setattr(module, name, value)
        elif isinstance(value, dict) and isinstance(value.get(ADAPTER), Tensor):
            setattr(module, name, BufferDict({ADAPTER: value[ADAPTER]}))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A layer's own tensors, without those of the pretrained module that it wraps."""
    for named in (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)):
        yield from ((name, x) for name, x in named if not name.startswith(BASE))


def _apart(
    backbone: Backbone, places: tuple[Place, ...], modules: list[nn.Module], config: Any, tuner: Tuner
) -> Layers:
    seen = _shared(modules)
    layers, tensors = [], {}
    for place, module in zip(places, modules, strict=True):
        names = {}
        for name, x in [*_tensors(module), *_changed(backbone, place, module)]:
            names[name] = full = seen.get(id(x)) or f"{place.name}.{flat(name)}"
            tensors[full] = x.detach().clone().requires_grad_(x.requires_grad)
        reads = config.init_weights == "bat" if hasattr(config, "init_weights") else getattr(config, "use_dora", False)
        additive = tuner.additive and not reads and f"{BASE}weight" not in names
        moves_bias = tuner.bias == "adds" or any("bias" in name for name in names)
        moves_bias |= tuner.bias == "moves" and "bias" in backbone.parameter_names(place)
        layers.append(Layer(place, module, names, additive, moves_bias))
    for module in modules:
        module.eval().requires_grad_(False).to("meta")
    return Layers(tuple(layers), tensors)


def _changed(backbone: Backbone, place: Place, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The pretrained matrix as the tuner left it, where it took something out of it (PiSSA, OLoRA)."""
    left = module.get_parameter(f"{BASE}weight").detach()
    if not torch.equal(left, _copied(backbone, place, "weight")):
        yield f"{BASE}weight", left


def _shared(modules: list[nn.Module]) -> dict[int, str]:
    """By identity, the names of the tensors that several layers hold: numbered where several would be called alike."""
    holders: dict[int, set[int]] = {}
    called: dict[int, str] = {}
    for index, module in enumerate(modules):
        for name, x in _tensors(module):
            holders.setdefault(id(x), set()).add(index)
            called.setdefault(id(x), flat(name))
    shared = [key for key, held in holders.items() if len(held) > 1]
    names = [called[key] for key in shared]
    numbers = {key: names[:index].count(called[key]) for index, key in enumerate(shared)}
    return {
        key: f"shared.{called[key]}" + (f"_{numbers[key]}" if names.count(called[key]) > 1 else "") for key in shared
    }


def flat(name: str) -> str:
    """A tensor's name in a layer as one word: `lora_A.default.weight` is `lora_A_weight`."""
    return ".".join(word for word in name.split(".") if word != ADAPTER).replace(".", "_")

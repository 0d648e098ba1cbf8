"""A pretrained model, with its tokenizer, seen as named places that are called alike in every family."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltacompose.backbone.chat import Chat
from deltacompose.backbone.content import content, reading_of
from deltacompose.backbone.input_embeddings import embed
from deltacompose.backbone.module_paths import has_submodule, submodule
from deltacompose.backbone.overview import places_table
from deltacompose.backbone.padding import mixes_padding
from deltacompose.backbone.quantization import values
from deltacompose.backbone.quiet import evaluating, has_values, quiet
from deltacompose.cache.file_digests import Files
from deltacompose.errors import BadInput, NoPlace, unknown
from deltacompose.places.notation import FusedPart, Place, matches
from deltacompose.places.numbers import read_number
from deltacompose.places.table import Table, join, locate

__all__ = ["Backbone", "FusedPart", "Place", "Stream", "bind", "evaluating"]


@dataclass(frozen=True)
class Stream:
    """A sequence of tokens that a backbone reads: its encoder's, or its decoder's.

    Attributes:
        module: path of the module that takes the tokens; "" is the whole model.
        embedding: the place that embeds the tokens.
        layers: how many layers the stack has.
        limit: the longest sequence, where a table of positions sets one.
        pooler: path of a module that reads the first of the stack's outputs, as BERT's does.
    """

    name: str
    module: str
    embedding: Place
    layers: int
    limit: int | None
    pooler: str | None


@dataclass(frozen=True, eq=False, repr=False)
class Backbone:
    """The frozen pretrained model, and where its places are.

    >>> from deltacompose.backbone.pico import pico_backbone
    >>> backbone = pico_backbone("t5")
    >>> [place.name for place in backbone.places("cross_attention")]
    ['decoder.0.cross_attention', 'decoder.1.cross_attention']
    >>> backbone.parameter(backbone.place("encoder.0.ffn.up"), "weight").shape
    torch.Size([32, 16])

    Attributes:
        name: what it was loaded as.
        tokenizer: None where a model was given without one.
        base: path of the base model in the whole model; "" where they are one.
        revision: the commit on the hub, or "".
        files: those that it was loaded from; None of a model in hand.
        derived: whether its table is derived from its module names.
        chat: how inputs become turns of a conversation; None where they are read as they are.
    """

    model: Any
    tokenizer: Any
    table: Table
    name: str
    base: str
    revision: str = ""
    files: Files | None = None
    derived: bool = False
    chat: Chat | None = None
    _places: Mapping[str, Place] = field(default_factory=dict, repr=False)
    _by_kinds: dict[tuple[str, ...], tuple[Place, ...]] = field(default_factory=dict, init=False, repr=False)

    def __repr__(self) -> str:
        layers = ", ".join(f"{self.layers(name)} {name}" for name in self.streams)
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return f"<{self.name}: {self.family}, {layers} layers, {parameters:,} parameters, {len(self._places)} places>"

    def _repr_html_(self) -> str:
        return places_table(self)

    @property
    def family(self) -> str:
        """The name of the table."""
        return self.table.name

    @property
    def kind(self) -> str:
        """`encoder`, `decoder`, `encoder-decoder` or `denoiser`."""
        return self.table.kind

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of the token sequences that it reads: its stacks, in forward order."""
        return tuple(self.table.stacks)

    def stream(self, name: str) -> Stream:
        """One of the streams; where soft prompts go in."""
        if name not in self.table.stacks:
            raise unknown("stream", name, self.streams)
        stack, config = self.table.stacks[name], self.model.config
        if stack.module is None:
            raise BadInput(f"{self.name} is a {self.kind} and reads no tokens: it takes no prompts, tokenizer or task")
        limit = None if stack.limit is None else read_number(stack.limit, config)
        pooler = None if stack.pooler is None else join(self.base, stack.pooler)
        pooler = pooler if pooler is not None and has_submodule(self.model, pooler) else None
        embedding = next(place for place in self.places("embedding") if place.stack in ("", name))
        return Stream(name, join(self.base, stack.module), embedding, self.layers(name), limit, pooler)

    def layers(self, stack: str) -> int:
        """How many layers a stack has."""
        if stack not in self.table.stacks:
            raise unknown("stack", stack, self.table.stacks)
        if self.table.stacks[stack].blocks:
            return len({place.layer for place in self.places() if place.stack == stack} - {None})
        return read_number(self.table.stacks[stack].layers, self.model.config)

    @property
    def embedding_width(self) -> int:
        """The width of the token embeddings that the streams take."""
        return self.width(self.stream(self.streams[0]).embedding)

    def places(self, *kinds: str) -> tuple[Place, ...]:
        """The places of these kinds in forward order; all without kinds.

        A kind may be a pattern: `*attention` is `attention` and `cross_attention`.

        Raises:
            NoPlace: a kind matches no place; the message names those that this family has.
        """
        if kinds not in self._by_kinds:
            self._by_kinds[kinds] = self._of_kinds(kinds) if kinds else tuple(self._places.values())
        return self._by_kinds[kinds]

    def _of_kinds(self, kinds: tuple[str, ...]) -> tuple[Place, ...]:
        chosen: set[str] = set()
        for kind in kinds:
            own = {place.name for place in self._places.values() if fnmatchcase(place.kind, kind)}
            if not own:
                raise self._no_place(kind)
            chosen |= own
        return tuple(place for name, place in self._places.items() if name in chosen)

    def place(self, name: str) -> Place:
        """The place of that name, as `encoder.3.attention.query`."""
        if name not in self._places:
            raise self._no_place(name)
        return self._places[name]

    def module(self, place: Place) -> nn.Module:
        """The module of a place; the first one of a span."""
        return submodule(self.model, place.module)

    def module_until(self, place: Place) -> nn.Module:
        """The module that a place ends with: the last one of a span, else the only one."""
        return submodule(self.model, place.until or place.module)

    def read(self, ids: Tensor) -> Any:
        """Runs the model on `(rows, tokens)` in one pass; the decoder of an encoder-decoder reads its start token."""
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.kind == "encoder-decoder":
            named = (getattr(self.model, "generation_config", None), self.model.config)
            starts = [getattr(config, "decoder_start_token_id", None) for config in named]
            inputs["decoder_input_ids"] = ids.new_full((len(ids), 1), next((i for i in starts if i is not None), 0))
        if self.kind != "encoder":
            inputs["use_cache"] = False
        return self.model(**inputs)

    def parameter_names(self, place: Place) -> tuple[str, ...]:
        """Which of `weight` and `bias` a place really has; none for a span, an input or a block.

        The bias of a bare parameter is the module's parameter of the same name with `_bias`.
        """
        if place.until is not None or place.port == "input":
            return ()
        path, names = place.held
        module = submodule(self.model, path)
        return tuple(name for name, own in names.items() if module._parameters.get(own) is not None)

    def takes_bias(self, place: Place) -> bool:
        """Whether a bias can be added to what a place computes: it is a linear layer or a norm, not a table."""
        bare = place.port == "parameter" or isinstance(self.module(place), nn.Embedding)
        return "weight" in self.parameter_names(place) and not bare

    def embeddings(self, stream: str) -> Tensor:
        """The table `(vocabulary, width)` that embeds the tokens of a stream, before any scaling."""
        return self.parameter(self.stream(stream).embedding, "weight")

    def embed(self, stream: str, ids: Tensor) -> Tensor:
        """Ids `(batch, tokens)` as the pretrained model embeds them, `(batch, tokens, width)`: the unit of prompts.

        Where the model scales embeddings, within its embedding module or outside of it, these are scaled.

        Raises:
            BadInput: the model makes more of ids than embeddings could say.
        """
        with quiet(self.module(self.stream(stream).embedding)):
            return self.embedder(stream)(ids)

    def embedder(self, stream: str) -> Callable[[Tensor], Tensor]:
        """The function from ids to embeddings that the model applies now, with whatever is attached to it."""
        first = [place for place in self.places() if place.stack == stream and place.layer == 0]
        layer = next((place for place in first if place.kind == "layer"), first[0])
        return partial(embed, submodule(self.model, self.stream(stream).module), self.module(layer))

    def parameter(self, place: Place, name: str) -> Tensor:
        """The pretrained tensor, alike in every family.

        Matrices are `(output, input)`, embeddings `(rows, width)`, biases and norms `(width,)`; of a fused matrix only
        the place's slice. An absent bias reads as zeros.
        """
        path, own, transposed, _ = self.parameter_location(place, name)
        module = submodule(self.model, path)
        if getattr(module, own, None) is None:
            weight: Tensor = getattr(module, place.held[1]["weight"])
            like = weight if weight.is_floating_point() else values(module, "weight")
            return torch.zeros(self.width(place), dtype=like.dtype, device=like.device)
        return self.part(place, values(module, own).mT if transposed else values(module, own))

    def parameter_location(self, place: Place, name: str) -> tuple[str, str, bool, FusedPart | None]:
        """Where a parameter is: module path, its name there, whether it is held transposed, and which slice of it.

        The bias of a module without one is a location too.
        """
        if name not in ("weight", "bias"):
            raise unknown("parameter", name, ("weight", "bias"))
        if "weight" not in self.parameter_names(place):
            what = "an input" if place.port == "input" else "a block of modules"
            raise BadInput(f"{place.name} is {what} and has no {name} of its own; take one of its inner places")
        path, names = place.held
        module = submodule(self.model, path)
        turned = isinstance(module, Conv1D) or (place.port == "parameter" and getattr(module, "is_transposed", False))
        return path, names[name], name == "weight" and turned, place.part

    def owners(self, place: Place, name: str) -> tuple[str, ...]:
        """Paths of all modules that hold this very parameter, sorted: more than one where weights are tied."""
        path, names = place.held
        own = names[name]
        tensor = getattr(submodule(self.model, path), own, None)
        paths = [path for path, module in self.model.named_modules() if module._parameters.get(own) is tensor]
        return () if tensor is None else tuple(sorted(paths))

    def width(self, place: Place) -> int:
        """The width of what an edit at the place sees: of the module's output, slice or input."""
        whole = self.fused_width(place)
        return whole if place.part is None else place.part.width(whole)

    def fused_width(self, place: Place) -> int:
        """The width of the whole output, or input, of the module that a place is, or is a slice of."""
        module = self.module_until(place)
        if place.port == "parameter":
            tensor = self.parameter(place, "weight")
            return tensor.shape[-2] if tensor.ndim > 1 else tensor.shape[0]
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            stack = self.table.stacks[place.stack or self.streams[-1]]
            if place.kind == "attention.value_norm":
                return read_number(stack.head_width, self.model.config)
            if not stack.width:
                raise BadInput(f"{place.name} has no weight to tell its width, and table {self.family!r} says none")
            return read_number(stack.width, self.model.config)
        if isinstance(module, nn.Embedding):
            return module.embedding_dim
        if isinstance(module, nn.Linear):  # a matrix in four bits is held in another shape
            sides = (module.out_features, module.in_features)
        else:
            sides = (weight.mT if isinstance(module, Conv1D) else weight).shape  # type: ignore[assignment]
        return sides[-1 if place.port == "input" else 0]

    def heads(self, place: Place) -> tuple[int, int]:
        """Number of key-value heads, and width of a head, of an attention place."""
        if place.kind.partition(".")[0] not in ("attention", "cross_attention"):
            raise BadInput(f"{place.name} is not a place of an attention and has no heads")
        stack, config = self.table.stacks[place.stack], self.model.config
        if not stack.heads:
            raise BadInput(f"{self.name} is a {self.kind}, whose attention takes no keys and values before its own")
        heads, width = read_number(stack.heads, config), read_number(stack.head_width, config)
        if stack.value_width and (values := read_number(stack.value_width, config)) != width:
            raise BadInput(
                f"cannot put keys and values before those of {place.name} because its heads have keys of width {width} "
                f"and values of width {values}; use another method"
            )
        return heads, width

    @cached_property
    def content(self) -> str:
        """SHA-256 of everything that a result can depend on, by which cells are keyed; read once.

        That is the weights in full precision, the model's class, its configurations, its tokenizer and its places: see
        `deltacompose.backbone.content`.
        """
        return content(self)

    @cached_property
    def reading(self) -> str:
        """A short digest of how the tokenizer reads, which a delta keeps; "" without a tokenizer."""
        return reading_of(self.tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the names, shapes and values of all parameters and persistent buffers; read once.

        Values are rounded to bfloat16 first, so one checkpoint has one fingerprint in fp32 and bf16 (and in fp16, if
        it was stored so), and a delta can be used with its backbone in any precision. Results depend on more than
        that, which is `content`. Tied weights count once, under the first of their names.
        """
        if not has_values(self.model):
            raise BadInput(f"the fingerprint of {self.name} needs its weights, which are not loaded")
        digest, seen = hashlib.sha256(), set()
        for name, tensor in sorted(self.model.state_dict(keep_vars=True).items()):
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            values = tensor.detach().to("cpu", torch.bfloat16 if tensor.is_floating_point() else torch.int64)
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(values.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @cached_property
    def mixes_padding(self) -> bool:
        """Whether padding changes the states of an encoder's tokens: see `deltacompose.backbone.padding`; read once."""
        return mixes_padding(self)

    def part(self, place: Place, tensor: Tensor) -> Tensor:
        """Slice of the module's `(output, input)` matrix or bias that belongs to a place: some rows of a fused one."""
        part = place.part
        if part is None:
            return tensor
        start, stop = part.bounds(len(tensor))
        return tensor.reshape(part.blocks, -1, *tensor.shape[1:])[:, start:stop].flatten(0, 1)

    @cached_property
    def unplaced(self) -> tuple[str, ...]:
        """The names of the parameters that lie at no place: those that the table leaves out, and those it forgot."""
        locations = [self.parameter_location(place, n) for place in self.places() for n in self.parameter_names(place)]
        reached = {id(getattr(submodule(self.model, path), own)) for path, own, *_ in locations}
        return tuple(name for name, tensor in self.model.named_parameters() if id(tensor) not in reached)

    @property
    def forgotten(self) -> tuple[str, ...]:
        """The names of the parameters that lie at no place and that the table does not say to leave out."""
        return tuple(name for name in self.unplaced if not matches(name, self.table.without))

    def _no_place(self, name: str) -> NoPlace:
        kinds = dict.fromkeys(place.kind for place in self._places.values())
        message = str(unknown("place", name, kinds)).replace("; ", f" in {self.family}; ", 1)
        layers = ", ".join(f"{stack}.0 to {stack}.{self.layers(stack) - 1}" for stack in self.streams)
        return NoPlace(f"{message}; layers: {layers}" if name.count(".") > 1 else message)


def bind(
    model: Any, table: Table, tokenizer: Any = None, *, name: str = "", revision: str = "", files: Files | None = None
) -> Backbone:
    """The backbone that a table makes of a model of transformers or diffusers, which has no base model inside.

    Raises:
        BadInput: the table puts a place where the model has no module.
    """
    base = model.base_model_prefix if getattr(model, "base_model", model) is not model else ""
    named = dict(model.named_modules(remove_duplicate=False))
    modules = frozenset(
        [
            *named,
            *(
                f"{path}:{own}"
                for path, module in named.items()
                for own, tensor in module._parameters.items()
                if tensor is not None
            ),
        ]
    )
    places = {place.name: place for place in locate(table, model.config, base, modules)}
    name = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
    return Backbone(model, tokenizer, table, name, base, revision, files, _places=places)

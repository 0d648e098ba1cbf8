"""Edits attached to a backbone: one delta, a stack of deltas, or a bank of K deltas at once.

Everything is done by hooks on the unmodified model, and undone exactly when the last delta leaves, in whatever order
they leave. The model may run backward passes as long as the delta is attached; with gradient checkpointing
(non-reentrant) it must stay attached until backward has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from deltacompose.attach.bound import Bound, BoundTensors, Stacked
from deltacompose.attach.first_layer import first_touched
from deltacompose.attach.liveness import can_be_shown, key, reaches, refusal
from deltacompose.attach.module_hooks import Added, Change, Dense, See, Site
from deltacompose.attach.prefixes import Prefixes, without_prefixes
from deltacompose.attach.soft_prompts import Stream, takes_positions
from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.backbone.module_paths import submodule
from deltacompose.backbone.quantization import is_quantised
from deltacompose.backbone.slices import Slice
from deltacompose.composition import Term, composition
from deltacompose.errors import BadInput
from deltacompose.method.contract import Edit, KeyValueEdit, OutputEdit, Tensors, TokenEdit, WeightEdit, edits_of
from deltacompose.method.weights import generator, init_constants, parts, prepared
from deltacompose.places.notation import lists

__all__ = ["Attachment", "attach", "attached"]


Holders = dict[tuple[str, str], tuple[nn.Module, str]]
"""The modules that hold one parameter and its name there, by the module's path and that name."""


class Attachments:
    """All that is attached to one model."""

    def __init__(self) -> None:
        self.sites: dict[nn.Module, Site] = {}
        self.streams: dict[str, Stream] = {}
        self.prefixes: Prefixes | None = None
        self._holders: dict[int, Holders] | None = None

    def site(self, module: nn.Module) -> Site:
        if module not in self.sites:
            self.sites[module] = Site(module)
        return self.sites[module]

    def stream(self, backbone: Backbone, name: str) -> Stream:
        if name not in self.streams:
            self.streams[name] = _stream(backbone, name)
        return self.streams[name]

    def holders(self, model: nn.Module, parameter: Tensor) -> Holders:
        """Every module that holds a parameter; the model is walked once, until `forget_holders`."""
        if self._holders is None:
            self._holders = {}
            for path, owner in model.named_modules():
                for own, held in owner._parameters.items():
                    self._holders.setdefault(id(held), {})[path, own] = (owner, own)
        return self._holders[id(parameter)]

    def forget_holders(self) -> None:
        """Forgets which modules hold a parameter: they may be others at the next attachment."""
        self._holders = None

    def remove(self, bound_tensors: BoundTensors) -> None:
        """Takes out everything that reads `bound_tensors`, and the hooks that then have nothing to do."""
        self.sites = {module: site for module, site in self.sites.items() if not site.remove(bound_tensors)}
        self.streams = {name: stream for name, stream in self.streams.items() if not stream.remove(bound_tensors)}
        if self.prefixes is not None and self.prefixes.remove(bound_tensors):
            self.prefixes = None


_ONCE = ("positions", "attention.positions")
"""Kinds of places whose modules see positions and no rows: at T5's bias, a bank would silently mix its deltas."""

_ATTACHMENTS: WeakKeyDictionary[PreTrainedModel, Attachments] = WeakKeyDictionary()
"""Attachments of each model. A model may be seen through several `Backbone` records."""


class Attachment:
    """An expression's edits attached to a backbone, with tensors that can be replaced: one delta's, or K at once.

    Attributes:
        once: a place that the model passes once for all rows of a batch, so that only one delta can be attached there;
            None where a bank can be.
        drops: whether an edit has dropout.
    """

    def __init__(self, backbone: Backbone, expression: Term, probe: bool = True) -> None:
        self.backbone = backbone
        self.bound_tensors = BoundTensors(mixed=_mixed(backbone.model))
        self.once: str | None = None
        self.drops = False
        self._bounds: list[Bound] = []
        shown = probe and can_be_shown(backbone)
        self._unshown = probe and not shown
        self._awaited: RemovableHandle | None = None
        self._attachments = _ATTACHMENTS.setdefault(backbone.model, Attachments())
        numbers = count()
        try:
            for prefix, part in parts(expression):
                edits = edits_of(part, backbone)
                if shown:
                    self._show(part.name, edits)
                for edit in edits:
                    place = getattr(edit, "place", None)
                    self.once = place.name if place is not None and _once(backbone, place) else self.once
                    self.drops = self.drops or bool(getattr(edit, "dropout", 0.0))
                    bound = Bound(edit, self.bound_tensors, prefix, next(numbers))
                    self._bounds.append(bound)
                    _ATTACH[type(edit)](self._attachments, backbone, edit, bound)
            if self._unshown:
                self._awaited = backbone.model.register_forward_hook(self._after_first_pass)
        except BaseException:
            self.detach()
            raise
        finally:
            self._attachments.forget_holders()

    def put(self, t: Tensors | Sequence[Tensors] | Stacked, dropout: Sequence[int] | None = None) -> None:
        """Replaces the tensors that the edits read; gradients flow back to them.

        Args:
            t: prepared weights and constants, named as in the expression: of one delta, or of each of a bank of K,
                whose batches are then K equal groups of rows, one after another.
            dropout: in training, the seed of this step's dropout masks for each delta.

        Raises:
            BadInput: a bank at a place that the model passes once for all rows.
        """
        bank = t if isinstance(t, Stacked) else None if isinstance(t, Mapping) else Stacked.of(t)
        if bank is None:
            self._replace(self._moved(t), dropout)  # type: ignore[arg-type]
            return
        if self.once and bank.size > 1:
            raise BadInput(
                f"{self.once} is looked up once for all rows of a batch; {bank.size} deltas cannot differ there"
                if self.backbone.place(self.once).kind in _ONCE
                else f"{self.once} of {type(self.backbone.model).__name__} does not see the rows of a batch one after "
                f"another; {bank.size} deltas cannot differ there; attach one at a time"
            )
        self._replace(Stacked(bank.size, self._moved(bank.tensors)), dropout)

    def first_touched(self) -> dict[str, int]:
        """For each stack the number of its first layers that nothing attached to the model touches."""
        attachments = self._attachments
        modules = {*attachments.sites, *(() if attachments.prefixes is None else attachments.prefixes.modules)}
        # Streams also where an edit only looks at their tokens: the pass that reads new texts would show it others.
        return first_touched(self.backbone, modules, attachments.streams)

    def detach(self) -> None:
        """Takes all edits out of force; the model is what it was before."""
        self._attachments.remove(self.bound_tensors)
        if self._awaited is not None:
            self._awaited.remove()

    def _show(self, method: str, edits: Sequence[Edit]) -> None:
        """Refuses a method one of whose edits does nothing on this model."""
        known = reaches(self.backbone, edits, partial(_only, self.backbone))
        if error := refusal(method, self.backbone, edits, known):
            raise error
        self._unshown = self._unshown or any(not known[key(edit)].shown for edit in edits)
        self.once = next((key(edit)[1] for edit in edits if not known[key(edit)].by_rows), self.once)

    def _after_first_pass(self, model: nn.Module, args: Any, output: Any) -> None:
        """Where no pass could be made in advance, the first one shows whether every edit is run."""
        if self._awaited is not None:
            self._awaited.remove()
        if idle := [bound for bound in self._bounds if not bound.run]:
            raise BadInput(
                f"the edit at {key(idle[0].edit)[1]} cannot act because a pass of {type(model).__name__} does not run "
                "it; use another method or other places"
            )

    def _replace(self, t: Tensors | Stacked, dropout: Sequence[int] | None) -> None:
        self.bound_tensors.put(t, dropout)
        for stream in self._attachments.streams.values():
            stream.view.forget()

    def _moved(self, t: Tensors) -> dict[str, Tensor]:
        """The tensors on the backbone's device and in its precision.

        Where modules differ in precision (T5 in float16 keeps some in float32) each edit casts them to its module's.
        """
        device, dtype = self.backbone.model.device, None if self.bound_tensors.mixed else self.backbone.model.dtype
        return {name: x.to(device, dtype if x.is_floating_point() else None) for name, x in t.items()}


def attach(backbone: Backbone, expression: Term, *, probe: bool = True) -> Attachment:
    """Attaches an expression's edits, which `put` gives tensors and `detach` removes.

    Args:
        probe: whether each edit is first shown to act, by one small pass for each model and place.

    Raises:
        BadInput: the backbone lacks a place or stream that a method needs, or an edit there would do nothing.
    """
    return Attachment(backbone, composition(expression), probe)


@contextmanager
def _only(backbone: Backbone, edits: Sequence[Edit]) -> Iterator[None]:
    """Attaches only edits that read no tensors to a backbone."""
    bound_tensors, attachments = BoundTensors(mixed=_mixed(backbone.model)), Attachments()
    with without_prefixes(backbone.model):
        try:
            for number, edit in enumerate(edits):
                _ATTACH[type(edit)](attachments, backbone, edit, Bound(edit, bound_tensors, "", number))
            yield
        finally:
            attachments.remove(bound_tensors)


def _mixed(model: nn.Module) -> bool:
    """Whether a model's modules differ in precision."""
    return len({x.dtype for x in model.parameters() if x.is_floating_point()}) > 1


@contextmanager
def attached(
    backbone: Backbone,
    expression: Term,
    weights: Tensors,
    constants: Mapping[str, Tensor] | None = None,
    *,
    finalized: bool = False,
) -> Iterator[PreTrainedModel]:
    """The backbone's transformers model with a delta attached; undone exactly on leaving.

    Args:
        weights: as `init_weights` makes them or training leaves them.
        constants: the delta's frozen tensors; None makes those that need no training data.
        finalized: whether the weights are finalised already and must not be prepared.
    """
    known = init_constants(backbone, expression) if constants is None else constants
    attachment = attach(backbone, expression)
    try:
        t = {**weights, **known}
        attachment.put(t if finalized else prepared(expression, t, generator(0, "prepare")))
        yield backbone.model
    finally:
        attachment.detach()


def _attach_output(attachments: Attachments, backbone: Backbone, edit: OutputEdit, bound: Bound) -> None:
    place = edit.place
    if place.port == "parameter":
        raise BadInput(f"cannot change the output of {place.name} because it is a bare parameter; change its weight")
    change = Change(bound, edit, Slice(place.part), _tokens_at(attachments, backbone, edit, bound))
    module = backbone.module(place)
    if place.port == "input":
        attachments.site(module).inputs.append(change)
        return
    if place.until is not None:
        attachments.site(module).starts.append(bound)
        module = backbone.module_until(place)
    attachments.site(module).outputs.append(change)


def _attach_weight(attachments: Attachments, backbone: Backbone, edit: WeightEdit, bound: Bound) -> None:
    path, parameter, transposed, _ = backbone.parameter_location(edit.place, edit.parameter)
    module = submodule(backbone.model, path)
    where = Slice(edit.place.part)
    owners = _owners(attachments, backbone, module, parameter)
    bare = edit.place.port == "parameter"
    low_rank = edit.parameter == "weight" and edit.factors and not isinstance(module, nn.Embedding)
    if low_rank and not bare and len(owners) == 1:
        attachments.site(module).added.append(Added(bound, edit, where, None))
        return
    if not bare and edit.parameter == "bias":
        attachments.site(module).added.append(Added(bound, edit, where, _bias(backbone, edit.place, module)))
        return
    if edit.dropout:
        raise BadInput(f"{edit.place.name}: dropout needs a weight edit of low rank on an untied matrix")
    if is_quantised(getattr(module, parameter)):
        raise BadInput(f"{edit.place.name} is held in few bits, and its change is formed in full; load it in bfloat16")
    for owner, name in owners:
        attachments.site(owner).dense.append(
            Dense(bound, edit, where, partial(backbone.part, edit.place), name, transposed)
        )


def _once(backbone: Backbone, place: Place) -> bool:
    """Whether the model passes a place once for all rows of a batch."""
    return place.kind in _ONCE or place.port == "parameter" or lists(backbone.table.unbatched, place)


def _bias(backbone: Backbone, place: Place, module: nn.Module) -> Callable[[], Tensor]:
    """Gives a module's pretrained bias as an edit at the place sees it; asked within a pass, when a shard is whole."""
    if getattr(module, "bias", None) is None:
        absent = backbone.parameter(place, "bias")
        return lambda: absent
    return lambda: backbone.part(place, module.bias.detach())  # type: ignore[operator]


def _tokens_at(attachments: Attachments, backbone: Backbone, edit: OutputEdit, bound: Bound) -> See | None:
    """Gives the tokens that a place sees, where its edit asks for them."""
    if not edit.needs:
        return None
    if backbone.kind == "denoiser":
        raise BadInput(f"{edit.place.name}: a denoiser reads no tokens; an edit there cannot see their {edit.needs[0]}")
    read = edit.place.kind in ("cross_attention.key", "cross_attention.value")
    name = backbone.streams[0] if read else edit.place.stack or backbone.streams[-1]
    view = attachments.stream(backbone, name).view
    view.readers.append(bound)
    return partial(view.find, edit.needs, read)


def _attach_tokens(attachments: Attachments, backbone: Backbone, edit: TokenEdit, bound: Bound) -> None:
    stream = attachments.stream(backbone, edit.stream)
    stream.prompts.append(bound)


def _attach_key_values(attachments: Attachments, backbone: Backbone, edit: KeyValueEdit, bound: Bound) -> None:
    backbone.heads(edit.place)  # refuses a denoiser, whose attention has no such door
    if attachments.prefixes is None:
        attachments.prefixes = Prefixes(backbone.model)
    attachments.prefixes.add(backbone.module(edit.place), bound)
    if backbone.kind != "encoder-decoder":  # a token's distance from a prefix must not depend on its padding
        attachments.stream(backbone, edit.place.stack).positioned.append(bound)


_ATTACH: dict[type[Edit], Callable[..., None]] = {
    OutputEdit: _attach_output,
    WeightEdit: _attach_weight,
    TokenEdit: _attach_tokens,
    KeyValueEdit: _attach_key_values,
}


def _stream(backbone: Backbone, name: str) -> Stream:
    stream, last = backbone.stream(name), backbone.streams[-1]
    module = submodule(backbone.model, stream.module)
    reader = None if name == last else submodule(backbone.model, backbone.stream(last).module)
    pooler = None if stream.pooler is None else submodule(backbone.model, stream.pooler)
    counter = next((backbone.module(x) for x in backbone.places() if x.kind == "positions" and x.stack == name), None)
    first = _first_position(backbone, module)
    return Stream(module, backbone.embedder(name), reader, pooler, stream.limit, first, counter)


def _first_position(backbone: Backbone, module: nn.Module) -> int | None:
    """The position of a row's first token, where the family counts tokens that are not padding.

    Decoders are given such positions by `generate`; RoBERTa and its kind count them behind the padding's own position.
    To rotary encoders only distances matter. BERT's kind counts padding: None.
    """
    if not takes_positions(module):
        return None
    tables = [backbone.module(place) for place in backbone.places() if place.kind == "positions"]
    if backbone.kind == "decoder" or not tables:
        return 0
    padding = getattr(tables[0], "padding_idx", None)
    return None if padding is None else int(padding) + 1


def _owners(attachments: Attachments, backbone: Backbone, module: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    """Every module at which a parameter is replaced, with its name there: tied weights are held more than once.

    Where the table has the parameter as a bare one, that is the module it gives, as the holder may never be called.
    """
    parameter = module._parameters.get(name)
    if parameter is None:
        return [(module, name)]
    reading: dict[tuple[str, str], tuple[nn.Module, str]] = {}
    for place in backbone.places():
        if place.port == "parameter":
            path, names = place.held
            inner = path.removeprefix(place.module).removeprefix(".")
            for own in names.values():
                reading[path, own] = (backbone.module(place), f"{inner}.{own}".removeprefix("."))
    holders = attachments.holders(backbone.model, parameter)
    return list(dict.fromkeys(reading.get(where, holder) for where, holder in holders.items()))

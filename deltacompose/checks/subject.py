"""One method on one pico backbone, with what several checks need of it, each made once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from deltacompose.attach.attachment import attach, attached
from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks.batches import batch, forward, reads_scripts, tiny
from deltacompose.checks.runner import Broken
from deltacompose.composition import Composition, Term, composition
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.method.contract import Edit, Method, Tensors, edits_of
from deltacompose.method.weights import finalized, generator, init_constants, init_weights, prepared
from deltacompose.plugins import loader as plugins
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.training.learner import Job

BACKBONES = ("t5", "bert", "gpt2", "llama")
"""The pico models that a method is checked on: a sequence-to-sequence model, an encoder, two decoders."""


Key = tuple[object, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """An expression with tensors as if trained: every weight moved at random from where it starts."""

    expression: Composition
    start: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]


@dataclass(eq=False)
class Subject:
    """One method on one pico backbone."""

    method: Method
    family: str
    _trained: dict[Key, Trained] = field(default_factory=dict, repr=False)
    _outputs: dict[Key, Tensor] = field(default_factory=dict, repr=False)
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return f"{text_of(self.method)} on {self.family}"

    def broken(self, sentence: str) -> Broken:
        """The error that says what is wrong with the method on this backbone."""
        return Broken(f"{self}: {sentence}", sentence)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """A value that several checks need, made by the first of them; where making it raises, nothing is kept."""
        if name not in self._made:
            self._made[name] = make()
        value: T = self._made[name]
        return value

    @cached_property
    def shared(self) -> Shared:
        """The pico backbone that all methods share, with what is made of it once for all of them."""
        return _unspoilt(self.family)

    @cached_property
    def backbone(self) -> Backbone:
        """The pico backbone that all methods share."""
        return self.shared.backbone

    @cached_property
    def refusal(self) -> str:
        """The sentence by which the backbone is refused to the method; "" where the method can be attached."""
        return _refusal(self.backbone, self.method)

    @property
    def neighbours(self) -> tuple[Method, ...]:
        """The built-in methods that others are composed with, without those that this backbone is refused to."""
        return self.shared.neighbours

    @property
    def other_backbone(self) -> Backbone:
        """One of the same family and shapes, with other weights."""
        return other(self.family)

    @cached_property
    def batch(self) -> Mapping[str, Tensor]:
        """The tokens that outputs are compared on."""
        return batch(self.backbone, seed=0)

    @cached_property
    def alone(self) -> Trained:
        """The method alone, as if trained."""
        return self.trained(self.method)

    @cached_property
    def untouched(self) -> Tensor:
        """Output of the backbone with nothing attached."""
        with torch.no_grad():
            return forward(self.backbone, self.batch)

    @cached_property
    def output(self) -> Tensor:
        """Output of the backbone with the method attached, with weights as if trained."""
        return self.output_of(self.alone)

    def output_of(self, trained: Trained) -> Tensor:
        """Output of the backbone with an expression attached, with weights as if trained; made once for each."""
        key = _key(trained.expression)
        known = self.shared.outputs if self._is_neighbour(trained.expression) else self._outputs
        if key not in known:
            known[key] = self.given(trained, trained.weights)
        return known[key]

    def trained(self, term: Term, seed: int = 0) -> Trained:
        """An expression as if trained; a part gets the same weights on either side of `+`."""
        expression = composition(term)
        key = (*_key(expression), seed)
        known = self.shared.trained if self._is_neighbour(expression) else self._trained
        if key not in known:
            start = init_weights(self.backbone, expression, seed)
            constants = init_constants(self.backbone, expression, self.job(expression, seed))
            weights = {n: moved(n, x, seed) for n, x in start.items()}
            known[key] = Trained(expression, start, weights, constants)
        return known[key]

    def _is_neighbour(self, expression: Composition) -> bool:
        """Whether an expression is a neighbour alone, which is the same for every method."""
        return any(_key(expression) == _key(composition(method)) for method in self.neighbours)

    def job(self, expression: Composition, seed: int = 0) -> Job:
        """A few steps of training on a tiny task: what a method that reads training data is given."""
        return job_of(self.backbone, expression, seed)

    def given(
        self,
        trained: Trained,
        weights: Tensors,
        backbone: Backbone | None = None,
        batch: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Output of the backbone with these weights of an expression attached, `(rows, tokens, width)`."""
        backbone = backbone or self.backbone
        with attached(backbone, trained.expression, weights, trained.constants), torch.no_grad():
            return forward(backbone, self.batch if batch is None else batch)

    def kept(self, trained: Trained) -> dict[str, Tensor]:
        """The weights that training keeps."""
        kept = finalized(trained.expression, {**trained.weights, **trained.constants})
        return {name: x for name, x in kept.items() if name not in trained.constants}

    def delta(self, trained: Trained) -> Delta:
        """The expression as a trained delta, as training leaves it."""
        backbone = self.backbone
        base = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
        return Delta(trained.expression, self.kept(trained), trained.constants, base)

    def prepared(self, trained: Trained, weights: Tensors) -> dict[str, Tensor]:
        """The tensors that the edits see."""
        return prepared(trained.expression, {**weights, **trained.constants}, generator(0, "prepare"))


def job_of(backbone: Backbone, term: Term, seed: int = 0, task: int = 0) -> Job:
    """A few steps of training on one of two tiny tasks."""
    read = reader(backbone, tiny(task, reads_scripts(backbone)))
    return Job(composition(term), read, seed, Recipe(steps=8, batch=4, warmup=0.0))


def text_of(method: Method) -> str:
    """A method as text; of one that cannot be written, its class."""
    try:
        return str(method)
    except (Exception, SystemExit):  # what a stranger's method raises may be anything
        return type(method).__name__


def moved(name: str, x: Tensor, seed: int = 0) -> Tensor:
    """A weight as if trained: moved alike wherever in an expression its part stands."""
    own = name.split(".", 2)[-1]
    noise = torch.randn(x.shape, generator=generator(seed, "moved", own, tuple(x.shape)), dtype=torch.float32)
    return x + 0.1 * noise


@functools.cache
def neighbours() -> tuple[Method, ...]:
    """A built-in method for each kind of edit: of weights, of outputs, of tokens, of keys and values."""
    known = plugins.load(disabled=True).methods
    settings: dict[str, dict[str, Any]] = {
        "lora": {"rank": 2},
        "adapter": {"bottleneck": 3},
        "prompt": {"length": 3},
        "prefix": {"length": 2},
    }
    return tuple(known[name](**values) for name, values in settings.items())


def with_edits(method: Method, change: Callable[[Edit], Edit]) -> Method:
    """The same method with each of its edits changed."""

    def edits(self: Method, backbone: Backbone) -> list[Edit]:
        return [change(edit) for edit in edits_of(method, backbone)]

    variant: Method = object.__new__(type(type(method).__name__, (type(method),), {"edits": edits}))
    for name, value in vars(method).items():
        object.__setattr__(variant, name, value)
    return variant


def place_settings(method: Method, backbone: Backbone) -> dict[str, Any]:
    """The settings that choose places: those called so, and those whose texts each match a place of the backbone."""
    called = ("place", "places")
    return {name: value for name, value in method.settings.items() if name in called or _are_places(value, backbone)}


def _are_places(value: object, backbone: Backbone) -> bool:
    kinds: Sequence[Any] = [value] if isinstance(value, str) else value if isinstance(value, tuple) else ()
    if not kinds or not all(isinstance(kind, str) for kind in kinds):
        return False
    try:
        return bool(backbone.places(*kinds))
    except BadInput:
        return False


@dataclass(frozen=True, eq=False)
class Shared:
    """The one pico backbone of a family for all checks, with what is made of it once for all methods.

    Attributes:
        values: its tensors as they were made.
        trained: the neighbours alone, as if trained.
        outputs: the backbone's output with each of them.
    """

    backbone: Backbone
    values: Mapping[str, Tensor]
    trained: dict[Key, Trained] = field(default_factory=dict)
    outputs: dict[Key, Tensor] = field(default_factory=dict)

    @cached_property
    def neighbours(self) -> tuple[Method, ...]:
        """The built-in methods that others are composed with, without those that the backbone is refused to."""
        return tuple(method for method in neighbours() if not _refusal(self.backbone, method))


def shared(family: str) -> Backbone:
    """The one pico backbone of a family for all checks; made anew where one of them has left a trace on it."""
    return _unspoilt(family).backbone


def anew() -> None:
    """Forgets the shared backbones, so that what a broken method did to one reaches no other check."""
    _shared.cache_clear()


def _unspoilt(family: str) -> Shared:
    known = _shared(family)
    if any(not torch.equal(x, known.values[name]) for name, x in _tensors(known.backbone)):
        _shared.cache_clear()
    return _shared(family)


@functools.cache
def _shared(family: str) -> Shared:
    backbone = pico_backbone(family)
    return Shared(backbone, {name: x.clone() for name, x in _tensors(backbone)})


def _refusal(backbone: Backbone, method: Method) -> str:
    try:
        attach(backbone, composition(method)).detach()
    except BadInput as error:
        return str(error)
    return ""


def _key(expression: Composition) -> Key:
    """The methods of an expression by identity, as a broken one may be equal to another, or not be hashed."""
    return tuple(tuple(map(id, stage)) for stage in expression.stages)


def _tensors(backbone: Backbone) -> Iterator[tuple[str, Tensor]]:
    yield from backbone.model.named_parameters()
    yield from backbone.model.named_buffers()


@functools.cache
def other(family: str) -> Backbone:
    """A pico backbone of the same shapes with other weights."""
    return pico_backbone(family, seed=1)


@functools.cache
def lowered(family: str, dtype: torch.dtype) -> Backbone:
    """A pico backbone in another precision; what transformers keeps in fp32 where it loads float16 stays so."""
    backbone = pico_backbone(family)
    model = backbone.model.to(dtype)
    if dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped product of experts takes no doubles
    kept = getattr(model, "_keep_in_fp32_modules", None) or () if dtype == torch.float16 else ()
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in kept:
            module.float()
    return backbone


def doubled(family: str) -> Backbone:
    """A pico backbone in double precision."""
    return lowered(family, torch.float64)


def differing(a: Any, b: Any) -> float:
    """The largest relative difference of two results that are tensors, or hold some; infinite where they are unlike."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _far(a.detach(), b.detach())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return float("inf") if a.keys() != b.keys() else max((differing(x, b[n]) for n, x in a.items()), default=0.0)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return float("inf") if len(a) != len(b) else max((differing(x, y) for x, y in zip(a, b)), default=0.0)
    return 0.0 if type(a) is type(b) and a == b else float("inf")


def _far(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if torch.equal(a, b):
        return 0.0
    far = float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))
    return far if far == far else float("inf")

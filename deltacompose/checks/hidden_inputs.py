"""Checks that a method's functions read what they are given and nothing else: no backbone, state, clock or noise."""

from __future__ import annotations

import datetime
import os
import random
import sys
import time
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deltacompose.checks.calls import calls, named_edit
from deltacompose.checks.runner import Check
from deltacompose.checks.signature import signature
from deltacompose.checks.subject import Subject, differing
from deltacompose.checks.tensors import unlike
from deltacompose.method.contract import Method, edits_of
from deltacompose.method.weights import finalized, named

SEED = 0x5EED_0D17A
"""Seed of the generator that `init` gets, a number that nobody else chooses."""
REPEATS = 4
DAYS = 1003.37
"""How far the clock is moved: to another hour, and at any time of day to another day of the week (1003 and 1004 are
not multiples of 7)."""
ROUNDING = 1e-6


class Draws(TorchDispatchMode):
    """Notes the operations that draw numbers, each with the seed of its generator, None for a global one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seeds: list[int | None] = []
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            sources = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Generator)]
            self.seeds.append(sources[0].initial_seed() if sources else None)
            self.names.append(func.name().removeprefix("aten::").partition(".")[0])
        return func(*args, **kwargs)


def drawn_from_the_generator(subject: Subject) -> None:
    """`init` draws from its generator alone, so another seed gives other weights."""
    source = torch.Generator().manual_seed(SEED)
    before = source.get_state()
    with Draws() as draws, _of_python() as others:
        weights = named(subject.method, "init", subject.method.init(subject.backbone, source))
    if all(bool((x == x.flatten()[:1]).all()) for x in weights.values()):
        return  # what was drawn is not in the weights: it chose places, say, which a setting seeds
    moved = not torch.equal(before, source.get_state())
    another = subject.method.init(subject.backbone, torch.Generator().manual_seed(SEED + 1))
    if moved or unlike(weights, another):
        return
    strange = [seed for seed in draws.seeds if seed != SEED]
    if strange or others:
        how = others[0] if others else f"torch's {draws.names[0]}"
        raise subject.broken(
            f"init draws by {how} and not from the generator that it is given; every seed would begin alike"
        )


def draws_nothing_once_trained(subject: Subject) -> None:
    """Neither `finalize` nor the edits of what is kept draw any number: a trained delta is one function."""
    trained = subject.alone
    with Draws() as draws:
        finalized(trained.expression, {**trained.weights, **trained.constants})
    if draws.names:
        raise subject.broken(f"finalize draws numbers ({draws.names[0]}); keep the function without noise")
    for call in calls(subject):
        with Draws() as draws:
            call.function(call.tensors, *call.arguments)
        if draws.names:
            raise subject.broken(
                f"the function of its {named_edit(call.edit)} draws ({draws.names[0]}) in evaluation too; draw in "
                "`prepare`, or give the edit a dropout"
            )


def repeated_calls(subject: Subject) -> None:
    """A function of its edits gives the same result for the same arguments, however often it is called."""
    for call in calls(subject):
        with torch.enable_grad():
            for _ in range(REPEATS):
                result = call.function(call.tensors, *call.arguments)
                if differing(result, call.result) > ROUNDING:
                    raise subject.broken(
                        f"the function of its {named_edit(call.edit)} gives another result for the same arguments when "
                        "it is called again; it keeps state"
                    )


def reads_no_backbone(subject: Subject) -> None:
    """Its edits' functions read the pretrained tensors that they are given, and no other tensor of the backbone."""
    other = subject.other_backbone
    theirs = edits_of(subject.method, other)
    for call in calls(subject):
        function = getattr(theirs[call.number], call.part)
        if (far := differing(function(call.tensors, *call.arguments), call.result)) > ROUNDING:
            raise subject.broken(
                f"the function of its {named_edit(call.edit)} gives another result, by {far:.1e} of its size, on a "
                "backbone with other weights for the same arguments; make it read constants, or `frozen`"
            )


def clock_and_environment(subject: Subject) -> None:
    """Its results depend neither on the clock nor on an environment variable that its code reads."""
    expected = dict(signature(subject, subject.method))
    with _another_day(subject.method):
        if what := _changed(expected, dict(signature(subject, subject.method))):
            raise subject.broken(f"{what} depends on the clock; a method's results depend on its arguments alone")
    with _environment(subject.method) as read:
        dict(signature(subject, subject.method))
    for name in read:
        with mock.patch.dict(os.environ, {name: _another(os.environ.get(name, ""))}):
            if what := _changed(expected, dict(signature(subject, subject.method))):
                raise subject.broken(
                    f"{what} depends on the environment variable {name}; make it a setting, which a cell's key holds"
                )


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The first of the named results that is not what it was; an error is a result too."""
    for name, value in before.items():
        if name not in after or differing(after[name], value) > ROUNDING:
            return name
    return ""


def _another(value: str) -> str:
    return "7" if value != "7" else "8"


@contextmanager
def _of_python() -> Iterator[list[str]]:
    """Notes generators of NumPy's or Python's that are made meanwhile."""
    generators: list[str] = []

    def default_rng(*args: Any, **kwargs: Any) -> Any:
        generators.append("numpy.random.default_rng")
        return original(*args, **kwargs)

    class OfNumpy(np.random.RandomState):
        """One of NumPy's older generators, noted."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            generators.append("numpy.random.RandomState")
            super().__init__(*args, **kwargs)

    class OfPython(random.Random):
        """One of Python's generators, noted."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            generators.append("random.Random")
            super().__init__(*args, **kwargs)

    original = np.random.default_rng
    with (
        mock.patch.object(np.random, "default_rng", default_rng),
        mock.patch.object(np.random, "RandomState", OfNumpy),
        mock.patch.object(random, "Random", OfPython),
    ):
        yield generators


def _modules(method: Method) -> list[Any]:
    """The modules that the method's class is defined in, with its parents'."""
    names = {kind.__module__ for kind in type(method).__mro__} - {Method.__module__, "builtins", "abc"}
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]


@contextmanager
def _another_day(method: Method) -> Iterator[None]:
    """The clock is moved, as the method's modules see it and as `time` and `datetime` give it."""
    shift = DAYS * 86400

    class Later(datetime.datetime):
        """A clock that is ahead."""

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(time.time(), tz)

    ahead = {
        time.time: _plus(time.time, shift),
        time.time_ns: _plus(time.time_ns, int(shift * 1e9)),
        time.monotonic: _plus(time.monotonic, shift),
        time.perf_counter: _plus(time.perf_counter, shift),
    }
    with (
        _replaced([time, *_modules(method)], ahead),
        _replaced([datetime, *_modules(method)], {datetime.datetime: Later}),
    ):
        yield


def _plus(clock: Any, shift: float) -> Any:
    return lambda: clock() + shift


@contextmanager
def _replaced(modules: list[Any], others: Mapping[Any, Any]) -> Iterator[None]:
    """Names in modules that are one of some objects stand for others meanwhile."""
    before: list[tuple[Any, str, Any]] = []
    for module in modules:
        for name, value in list(vars(module).items()):
            if callable(value) and (other := next((o for x, o in others.items() if x is value), None)) is not None:
                before.append((module, name, value))
                setattr(module, name, other)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


class _Noting(MutableMapping[str, str]):
    """The environment, which notes the names that code of some modules asks for."""

    def __init__(self, modules: Collection[str]) -> None:
        self.environment = os.environ
        self.read: set[str] = set()
        self._modules = modules

    def __getitem__(self, name: str) -> str:
        frame = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__") in ("os", "collections.abc", "_collections_abc"):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is not None and frame.f_globals.get("__name__") in self._modules:
            self.read.add(name)
        return self.environment[name]

    def __setitem__(self, name: str, value: str) -> None:
        self.environment[name] = value

    def __delitem__(self, name: str) -> None:
        del self.environment[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.environment)

    def __len__(self) -> int:
        return len(self.environment)


@contextmanager
def _environment(method: Method) -> Iterator[set[str]]:
    """Notes the environment variables that code of the method's own modules asks for."""
    noting = _Noting({module.__name__ for module in _modules(method)})
    bound = [
        (module, name)
        for module in (os, *_modules(method))
        for name, value in vars(module).items()
        if value is os.environ
    ]
    with ExitStack() as replaced:
        for module, name in bound:
            replaced.enter_context(mock.patch.object(module, name, noting))
        yield noting.read


CHECKS = (
    Check(drawn_from_the_generator),
    Check(draws_nothing_once_trained),
    Check(repeated_calls),
    Check(reads_no_backbone),
    Check(clock_and_environment, once=True),
)

"""Checks of a method's tensors: how they are drawn, named and counted, and what its abilities make of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from deltacompose.attach.attachment import attached
from deltacompose.checks.batches import forward
from deltacompose.checks.runner import Check
from deltacompose.checks.subject import Subject, place_settings
from deltacompose.errors import BadInput
from deltacompose.method.contract import Carries, HasConstants, Penalizes, Prepares, edits_of
from deltacompose.method.weights import generator, named, part_of, parts


def repeatable_init(subject: Subject) -> None:
    """The same seed gives the same weights, and another seed others where anything is drawn."""
    first, source = drawn(subject, 0)
    again, _ = drawn(subject, 0)
    if fault := unlike(first, again):
        raise subject.broken(f"init with one seed gives two different {fault}; draw from the generator alone")
    other, _ = drawn(subject, 1)
    draws = not torch.equal(source.get_state(), torch.Generator().manual_seed(0).get_state())
    if draws and first.keys() == other.keys() and not unlike(first, other):
        raise subject.broken("init draws from the generator and gives the same weights for another seed")


def own_generator(subject: Subject) -> None:
    """Weights come from the generator that init is given, and no global generator is read or moved."""
    with shielded():
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        before = _states()
        first, _ = drawn(subject, 0)
        moved = [name for name, state in _states().items() if state != before[name]]
    if moved:
        raise subject.broken(f"init draws from the global generator of {moved[0]}; draw from the one it is given")
    if fault := unlike(first, drawn(subject, 0)[0]):
        raise subject.broken(f"init gives other {fault} when a global generator is seeded otherwise")


def named_tensors(subject: Subject) -> None:
    """Each tensor is named by a place of the backbone, a stream or `shared`, and what it is there."""
    backbone = subject.backbone
    known = ("shared", *backbone.streams, *(place.name for place in backbone.places()))
    weights, _ = drawn(subject, 0)
    constants = part_of(subject.alone.constants, "0.0.")
    if not weights:
        raise subject.broken("init gives no weights; there is nothing to train")
    for name in (*weights, *constants):
        place, _, tensor = name.rpartition(".")
        if place not in known or not tensor.isidentifier():
            raise subject.broken(
                f"tensor {name!r} is named by no place; expected '<place>.<tensor>' or 'shared.<tensor>'"
            )
    if both := weights.keys() & constants.keys():
        raise subject.broken(f"{min(both)!r} is both a weight and a constant")


def fresh_tensors(subject: Subject) -> None:
    """Weights are finite fp32 tensors on the CPU that share no memory with each other or with the backbone."""
    taken = {
        x.untyped_storage().data_ptr(): f"the backbone's {n}" for n, x in subject.backbone.model.named_parameters()
    }
    for name, x in drawn(subject, 0)[0].items():
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise subject.broken(f"weight {name!r} is {x.dtype} on {x.device}; expected torch.float32 on cpu")
        if x.requires_grad or not x.is_leaf or not bool(torch.isfinite(x).all()):
            raise subject.broken(f"weight {name!r} has a gradient history or is not finite; expected plain numbers")
        if x.numel() and (other := taken.setdefault(x.untyped_storage().data_ptr(), name)) != name:
            raise subject.broken(f"weight {name!r} shares its memory with {other}; clone it")


def refused_places(subject: Subject) -> None:
    """A setting that matches no place is an error that lists the places, not zero parameters."""
    method, backbone = subject.method, subject.backbone
    kinds = {place.kind for place in backbone.places()}
    for name, value in place_settings(method, backbone).items():
        wrong = "nowhere" if isinstance(value, str) else ("nowhere",)
        try:
            other = type(method)(**{**method.settings, name: wrong})
            named(other, "init", other.init(backbone, generator(0)))
            edits_of(other, backbone)
        except BadInput as error:
            if not any(kind in str(error) for kind in kinds):
                raise subject.broken(f"the error for {name}={wrong!r} does not list the places: {error}") from error
            continue
        raise subject.broken(f"{name}={wrong!r} matches no place and is not an error; ask backbone.places for them")


def counted(subject: Subject) -> None:
    """The closed form of the number of parameters is that number."""
    drawn_count = sum(x.numel() for x in drawn(subject, 0)[0].values())
    stated = subject.method.count(subject.backbone)  # type: ignore[attr-defined]
    if stated != drawn_count:
        raise subject.broken(f"count gives {stated} parameters and init {drawn_count}")


def repeatable_constants(subject: Subject) -> None:
    """Constants are the same whenever they are made, and take no gradient."""
    method = subject.method
    if not isinstance(method, HasConstants):
        return
    first, again = (method.constants(subject.backbone, subject.job(subject.alone.expression)) for _ in range(2))
    if fault := unlike(first, again):
        raise subject.broken(f"constants are made twice and give two different {fault}")
    for name, x in first.items():
        if x.requires_grad:
            raise subject.broken(f"the constant {name!r} takes a gradient; detach it")


def repeatable_preparation(subject: Subject) -> None:
    """`prepare` depends on the tensors and the generator alone."""
    first, again = (subject.prepared(subject.alone, subject.alone.weights) for _ in range(2))
    if fault := unlike(first, again):
        raise subject.broken(f"prepare with one generator gives two different {fault}")


def kept_tensors(subject: Subject) -> None:
    """Finalized weights work by themselves, are the same each time, and are not prepared again."""
    trained = subject.alone
    first, again = subject.kept(trained), subject.kept(trained)
    if fault := unlike(first, again):
        raise subject.broken(f"finalize gives two different {fault}")
    in_force = attached(subject.backbone, trained.expression, first, trained.constants, finalized=True)
    with in_force, torch.no_grad():
        output = forward(subject.backbone, subject.batch)
    if not bool(torch.isfinite(output).all()):
        raise subject.broken("what finalize gives puts numbers into the output that are not finite")


def scalar_penalty(subject: Subject) -> None:
    """The penalty is one finite number, with a gradient unless it is zero."""
    for _, part in parts(subject.method):
        leaves = {n: x.clone().requires_grad_() for n, x in part_of(subject.alone.weights, "0.0.").items()}
        value = part.penalty({**leaves, **part_of(subject.alone.constants, "0.0.")})  # type: ignore[attr-defined]
        if not isinstance(value, Tensor) or value.ndim or not bool(torch.isfinite(value)):
            raise subject.broken(f"penalty gives {value!r}; expected a tensor of one finite number")
        if bool(value) and not value.requires_grad:
            raise subject.broken(f"penalty gives {float(value):g} without a gradient; nothing would learn from it")


def fitting_beginning(subject: Subject) -> None:
    """`carried` gives tensors with the names and shapes of the weights, and finite values."""
    weights = part_of(subject.alone.weights, "0.0.")
    carried = subject.method.carried(subject.backbone, subject.method, weights)  # type: ignore[attr-defined]
    shapes, expected = ({name: tuple(x.shape) for name, x in t.items()} for t in (carried, weights))
    if shapes != expected or not all(bool(torch.isfinite(x).all()) for x in carried.values()):
        raise subject.broken(f"carried gives tensors of shapes {shapes}; expected finite ones of {expected}")


def drawn(subject: Subject, seed: int) -> tuple[dict[str, Tensor], torch.Generator]:
    """New weights, and the generator that they were drawn from."""
    source = torch.Generator().manual_seed(seed)
    return named(subject.method, "init", subject.method.init(subject.backbone, source)), source


def unlike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str:
    """Names of the tensors that differ, as `tensors 'x'`; empty if none."""
    if a.keys() != b.keys():
        return f"sets of names, which differ in {min(a.keys() ^ b.keys())!r}"
    differs = [name for name, x in a.items() if x.shape != b[name].shape or not torch.equal(x, b[name])]
    return f"tensors {differs[0]!r}" if differs else ""


@contextmanager
def shielded() -> Iterator[None]:
    """The global generators are afterwards what they were."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _states() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": repr(np.random.get_state(legacy=False)["state"]["key"].tobytes()),
    }


def _counts(subject: Subject) -> bool:
    return callable(getattr(subject.method, "count", None))


CHECKS = (
    Check(repeatable_init),
    Check(own_generator),
    Check(named_tensors),
    Check(fresh_tensors),
    Check(refused_places),
    Check(counted, when=_counts),
    Check(repeatable_constants, when=lambda subject: isinstance(subject.method, HasConstants)),
    Check(repeatable_preparation, when=lambda subject: isinstance(subject.method, Prepares)),
    Check(kept_tensors),
    Check(scalar_penalty, when=lambda subject: isinstance(subject.method, Penalizes)),
    Check(fitting_beginning, when=lambda subject: isinstance(subject.method, Carries)),
)

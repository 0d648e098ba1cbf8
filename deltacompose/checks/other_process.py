"""Checks in a process of its own: what is sent there arrives, and what was saved here gives the same there.

One worker serves all checks, because its imports take seconds.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks.batches import batch, forward
from deltacompose.checks.gradients import ROUNDING, distance
from deltacompose.checks.runner import Check, Unchecked
from deltacompose.checks.subject import Subject
from deltacompose.checks.tensors import unlike
from deltacompose.composition import composition
from deltacompose.delta.delta import load
from deltacompose.method.contract import Method
from deltacompose.method.weights import init_weights
from deltacompose.plugins.isolation import error_text

PATIENCE = 600.0
"""Seconds until a worker that does not answer is given up: starting one takes long on a busy machine."""


@dataclass(frozen=True)
class Failed:
    """A failure in the other process, in words.

    Attributes:
        late: whether there was no answer in time, which says nothing about what was sent.
    """

    reason: str
    late: bool = False


class Worker:
    """A spawned process that does what it is asked, one thing at a time. It lives as long as this process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, torch.get_num_threads()), daemon=True)
        self.process.start()
        other.close()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Result of `function(*arguments)` in the other process, or `Failed` if anything went wrong."""
        try:
            self._line.send((function, arguments))
            if not self._line.poll(PATIENCE):
                _started.cache_clear()  # its answer would be taken for that of the next question
                return Failed(f"the second process gave no answer within {PATIENCE:.0f} seconds", late=True)
            return self._line.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            _started.cache_clear()
            return Failed("the process ended; a script that is run needs its calls below `if __name__ == '__main__':`")
        except Exception as error:  # pickling raises whatever the object's own code does
            return Failed(f"it cannot be sent: {error_text(error)}")

    def stop(self) -> None:
        """Ends the process."""
        self._line.close()
        self.process.join(timeout=5)


def worker() -> Worker:
    """The one worker, started when it is first asked for, and anew where modules have come to lie elsewhere since."""
    return _started(tuple(sys.path))


@functools.lru_cache(maxsize=1)
def _started(path: tuple[str, ...]) -> Worker:
    """A worker that imports from `path`, which a spawned process takes over from this one."""
    started = Worker()
    atexit.register(started.stop)
    return started


def spawned_worker(subject: Subject) -> None:
    """Sent to a spawned worker and back it is the same method."""
    echoed = worker().ask(_echo, subject.method)
    if isinstance(echoed, Failed):
        raise subject.broken(f"it does not reach a spawned worker: {echoed.reason}; define it at the top of a module")
    if echoed != subject.method or type(echoed) is not type(subject.method):
        raise subject.broken(f"from a spawned worker it comes back as {echoed!r}, which is not equal to it")


def alike_in_another_process(subject: Subject) -> None:
    """The same seed gives the same weights in another process, whose strings hash otherwise."""
    answer = worker().ask(_drawn, subject.method, subject.family)
    if isinstance(answer, Failed):
        sentence = f"{subject}: its weights cannot be drawn in another process: {answer.reason}"
        raise Unchecked(sentence, answer.reason)
    drawn = {name: torch.from_numpy(x) for name, x in answer.items()}
    if fault := unlike(drawn, init_weights(subject.backbone, subject.method)):
        raise subject.broken(f"in another process the same seed gives other {fault}")


def saved_delta(subject: Subject) -> None:
    """Saved after training, alone and on top of another, it gives equal logits in a fresh process."""
    for term in (subject.method, subject.neighbours[0] >> subject.method):
        trained = subject.trained(term)
        backbone, delta = subject.backbone, subject.delta(trained)
        with delta.attached(backbone), torch.no_grad():
            expected = forward(backbone, subject.batch)
        with tempfile.TemporaryDirectory() as folder:
            delta.save(folder)
            known = {type(part).name: part for _, part in composition(term).parts()}
            output = worker().ask(_loaded, folder, known, subject.family)
        _same(subject, output, expected, str(term))


def _same(subject: Subject, output: Any, expected: Tensor, text: str) -> None:
    if isinstance(output, Failed):
        raise subject.broken(f"the saved delta of {text} cannot be used in a fresh process: {output.reason}")
    far = distance(torch.from_numpy(output), expected)
    if far > ROUNDING:  # tensors that are read lie elsewhere in memory, and products of them are rounded otherwise
        raise subject.broken(
            f"the saved delta of {text} gives other logits in a fresh process, by {far:.1e} of their size"
        )


def _serve(line: Connection, threads: int) -> None:
    """Does what comes over the line, until it closes. Tensors travel as arrays: torch would share their memory."""
    torch.set_num_threads(threads)
    while True:
        try:
            function, arguments = line.recv()
            answer = function(*arguments)
        except EOFError:
            return
        except (Exception, SystemExit) as error:  # told to the other side, which knows what it asked for
            answer = Failed(error_text(error))
        try:
            line.send(answer)
        except Exception as error:  # an answer that cannot be pickled
            line.send(Failed(error_text(error)))


def _echo(method: Method) -> Method:
    return method


def _drawn(method: Method, family: str) -> dict[str, Any]:
    return {name: x.numpy() for name, x in init_weights(backbone_there(family), method).items()}


def _loaded(folder: str, known: Mapping[str, Method], family: str) -> Any:
    """The logits of the delta in a folder, on a backbone made here."""
    backbone = backbone_there(family)
    delta = load(Path(folder), {name: type(method) for name, method in known.items()})
    with delta.attached(backbone), torch.no_grad():
        return forward(backbone, batch(backbone, seed=0)).numpy()


backbone_there = functools.cache(pico_backbone)

CHECKS = (
    Check(spawned_worker, once=True),
    Check(alike_in_another_process),
    Check(saved_delta),
)

"""How fast this machine computes: measured once per machine, data type and device, and remembered.

A pass through L layers is taken to last F / rate + L · overhead seconds for F operations. Both numbers come from passes
of two small models that are drawn at random, a narrow and a wide one, so neither a study's weights nor its data are
needed. The estimate is an assumption about other models, which stored cells correct.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

from annotated_types import Ge, Gt
from typing_extensions import TypedDict

from deltacompose.cache.remembered import remembered
from deltacompose.planning import flops
from deltacompose.planning.flops import DeltaShape, Lengths, Shape
from deltacompose.study import machine

NARROW, WIDE = 64, 1024
LAYERS, ROWS, TOKENS = 2, 4, 64
TOGETHER = 32
"""Rows of a pass in evaluation."""
ENOUGH = 2.0
"""Seconds of a call that is not repeated: noise is small beside them."""

_DTYPES = ("float32", "float16")


class _Measured(TypedDict):
    rate: Annotated[float, Gt(0)]
    overhead: Annotated[float, Ge(0)]


class _Calibration(TypedDict):
    machine: str
    train: _Measured
    evaluate: _Measured


@dataclass(frozen=True)
class Speed:
    """Operations per second of large matrices, and the seconds that a layer of one pass takes besides."""

    rate: float
    overhead: float

    def seconds(self, operations: float, layers: float) -> float:
        """The time of a pass, or of several, through so many layers in all."""
        return operations / self.rate + layers * self.overhead


@dataclass(frozen=True)
class Calibration:
    """The speed of training, forward and backward, and of evaluation, on a machine.

    Attributes:
        machine: the processor or the GPU.
    """

    machine: str
    train: Speed
    evaluate: Speed

    def __str__(self) -> str:
        return f"{self.train.rate / 1e9:.3g} GFLOP/s in wide layers and {self.train.overhead * 1e3:.2g} ms a layer"


def calibrated(dtype: str = "float32", device: str = "cpu") -> Calibration:
    """The speed of this machine, measured now (a few seconds of one core) if it was not measured before.

    Args:
        dtype: of the frozen weights; a quantised backbone computes in bfloat16.
        device: `cpu` or a CUDA device; on a CPU a pass has one thread, as workers have.
    """
    computed = dtype if dtype in _DTYPES else "bfloat16"
    machine_name, kind = machine.processor(gpu=device.startswith("cuda")), device.partition(":")[0]
    inputs = [machine_name, computed, kind, version("torch"), [NARROW, WIDE, LAYERS, TOKENS]]
    measured = remembered("speed", inputs, lambda: _measured(machine_name, computed, device), _Calibration)
    return Calibration(measured["machine"], Speed(**measured["train"]), Speed(**measured["evaluate"]))


def speeds(
    calibration: Calibration, shape: Shape, lengths: Mapping[str, Lengths], batch: int, bank: int = 1
) -> dict[str, float]:
    """Operations per second of `train` and `evaluate` that a study will see, on the average over its tasks.

    Args:
        lengths: of each task.
        bank: how many deltas share a pass in training, and with it the overhead.
    """
    layers = sum(stack.layers for stack in shape.stacks.values())
    operations = {"train": 0.0, "evaluate": 0.0}
    seconds = {"train": 0.0, "evaluate": 0.0}
    for own in lengths.values():
        step = bank * flops.training(shape, own, DeltaShape(), batch)
        operations["train"] += step
        seconds["train"] += calibration.train.seconds(step, layers)
        ranked = flops.evaluation(shape, own, DeltaShape(), TOGETHER, TOGETHER)
        passes = 1 if own.candidates else 1 + own.longest
        operations["evaluate"] += ranked
        seconds["evaluate"] += calibration.evaluate.seconds(ranked, layers * passes)
    return {kind: operations[kind] / seconds[kind] for kind in operations if seconds[kind]}


def _measured(name: str, dtype: str, device: str) -> dict[str, Any]:
    solved: dict[str, Any] = {"machine": name}
    with timing(device):
        models = {width: random_model(width, dtype, device) for width in (NARROW, WIDE)}
        rows = ROWS if dtype != "bfloat16" or machine.multiplies_bfloat16(device) else 1
        for kind, act in (("train", learn), ("evaluate", _look)):
            times = {width: timed(partial(act, model, rows), device) for width, model in models.items()}
            solved[kind] = asdict(_solved({width: (_operations(width, kind, rows), times[width]) for width in models}))
    return solved


def _solved(passes: Mapping[int, tuple[float, float]]) -> Speed:
    """Rate and overhead from the operations and seconds of a narrow and of a wide pass."""
    (few, short), (many, long) = passes[NARROW], passes[WIDE]
    rate = (many - few) / max(long - short, 1e-9)
    return Speed(rate, max(0.0, short - few / rate) / LAYERS)


def _operations(width: int, kind: str, rows: int) -> float:
    tokens = rows * TOKENS
    layer = 4 * width * width + 3 * width * 3 * width
    forward = LAYERS * tokens * (2 * layer + 4 * width * TOKENS)
    return forward * (2 if kind == "train" else 1)


def random_model(width: int, dtype: str, device: str) -> Any:
    """A frozen Llama of `LAYERS` layers and of a width, a multiple of 64, drawn at random."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // 64,
        vocab_size=16,
    )
    torch.manual_seed(0)
    model: Any = transformers.LlamaModel(config)
    return model.to(device, getattr(torch, dtype)).requires_grad_(False).eval()


def learn(model: Any, rows: int = ROWS, tokens: int = TOKENS) -> None:
    """Forward, and backward to the embeddings, over rows of so many tokens each."""
    import torch

    device, dtype, width = model.device, model.dtype, model.config.hidden_size
    states = torch.ones(rows, tokens, width, device=device, dtype=dtype, requires_grad=True)
    output = model(inputs_embeds=states, use_cache=False).last_hidden_state
    torch.autograd.grad(output.sum(), states)


def _look(model: Any, rows: int = ROWS) -> None:
    import torch

    ids = torch.ones(rows, TOKENS, dtype=torch.int64, device=model.device)
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)


def timed(act: Callable[[], object], device: str, calls: int = 4, warm: int = 1) -> float:
    """Seconds of one call: the least of all but the first `warm`, on a CPU those of the processor.

    After a call that takes longer than `ENOUGH` no other is made, and that one counts.
    """
    import torch

    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    seconds = []
    for _ in range(calls):
        started = clock()
        act()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(clock() - started)
        if seconds[-1] > ENOUGH:
            return seconds[-1]
    return min(seconds[warm:])


@contextmanager
def timing(device: str) -> Iterator[None]:
    """Within, passes on a CPU have one thread; torch's random state is afterwards what it was."""
    import torch

    threads = torch.get_num_threads()
    if not device.startswith("cuda"):
        torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)

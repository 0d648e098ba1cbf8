"""How fast this machine computes: measured once per machine, data type and device, and remembered.

A pass through L layers is taken to last F / rate + L · overhead seconds for F operations. Both numbers come from passes
of two small models that are drawn at random, a narrow and a wide one, so neither a study's weights nor its data are
needed. A generated token is taken to last a fixed time and a time for each layer of the decoder, from two narrow models
of different depth that generate with LoRA attached: the loop of `generate` and the hooks take far longer than the
operations of one token. The estimate is an assumption about other models, which stored cells correct.
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
GENERATED = 8
"""Tokens that are generated in a measurement."""
ENOUGH = 2.0
"""Seconds: a call that takes longer is measured once, because noise is small relative to it."""

_DTYPES = ("float32", "float16")


class _Measured(TypedDict):
    rate: Annotated[float, Gt(0)]
    overhead: Annotated[float, Ge(0)]


class _MeasuredToken(TypedDict):
    fixed: Annotated[float, Ge(0)]
    layer: Annotated[float, Ge(0)]


class _Calibration(TypedDict):
    machine: str
    train: _Measured
    evaluate: _Measured
    token: _MeasuredToken


@dataclass(frozen=True)
class Speed:
    """Operations per second of large matrices, and the seconds that a layer of one pass takes besides."""

    rate: float
    overhead: float

    def seconds(self, operations: float, layers: float) -> float:
        """The time of a pass, or of several, through so many layers in all."""
        return operations / self.rate + layers * self.overhead


@dataclass(frozen=True)
class TokenTime:
    """Seconds that the generation of one token takes besides its operations: once, and for each layer."""

    fixed: float
    layer: float

    def seconds(self, layers: int) -> float:
        """The time of one token of all rows in a pass, through so many layers."""
        return self.fixed + layers * self.layer


@dataclass(frozen=True)
class Calibration:
    """The speed of training, forward and backward, of evaluation, and of generation, on a machine.

    Attributes:
        machine: the processor or the GPU.
    """

    machine: str
    train: Speed
    evaluate: Speed
    token: TokenTime

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
    inputs = [machine_name, computed, kind, version("torch"), [NARROW, WIDE, LAYERS, TOKENS, GENERATED]]

    def find() -> dict[str, Any]:
        return {**_measured(machine_name, computed, device), "token": asdict(_token_time(computed, device))}

    measured = remembered("speed", inputs, find, _Calibration)
    train, evaluate, token = (measured[name] for name in ("train", "evaluate", "token"))
    return Calibration(measured["machine"], Speed(**train), Speed(**evaluate), TokenTime(**token))


def speeds(
    calibration: Calibration,
    shape: Shape,
    lengths: Mapping[str, Lengths],
    batch: int,
    bank: int = 1,
    looks: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Operations per second of `train` and `evaluate` that a study will see, on the average over its tasks.

    Args:
        lengths: of each task.
        bank: how many deltas share a pass in training, and with it the overhead.
        looks: of each task, the development examples that a training predicts for each of its steps; none if None.
    """
    layers = sum(stack.layers for stack in shape.stacks.values())
    last = list(shape.stacks.values())[-1].layers
    operations = {"train": 0.0, "evaluate": 0.0}
    seconds = {"train": 0.0, "evaluate": 0.0}
    for name, own in lengths.items():
        step = bank * flops.training(shape, own, DeltaShape(), batch)
        operations["train"] += step
        seconds["train"] += calibration.train.seconds(step, layers)
        ranked = flops.evaluation(shape, own, DeltaShape(), TOGETHER, TOGETHER)
        generated = 0.0 if own.candidates else own.longest * calibration.token.seconds(last)
        predicted = calibration.evaluate.seconds(ranked, layers) + generated
        share = bank * (looks or {}).get(name, 0.0) / TOGETHER
        for kind, times in (("evaluate", 1.0), ("train", share)):
            operations[kind] += times * ranked
            seconds[kind] += times * predicted
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


def _token_time(dtype: str, device: str) -> TokenTime:
    """Seconds of one generated token, from two narrow models of different depth with LoRA attached."""
    from deltacompose import registry
    from deltacompose.attach.attachment import attach
    from deltacompose.method.weights import init_weights

    each, lora = {}, registry.parse("lora")
    with timing(device):
        for depth in (LAYERS, 3 * LAYERS):
            model = random_model(NARROW, dtype, device, depth, head=True)
            backbone = registry.load_backbone(model)
            attachment = attach(backbone, lora, probe=False)
            attachment.put({name: x.to(device) for name, x in init_weights(backbone, lora).items()})
            many, one = (timed(partial(_generate, model, tokens), device) for tokens in (1 + GENERATED, 1))
            each[depth] = max(0.0, many - one) / GENERATED
    return _token_of_depths(each)


def _token_of_depths(seconds: Mapping[int, float]) -> TokenTime:
    """The fixed time and that of a layer, from the seconds of a token by the layers of two models."""
    shallow, deep = sorted(seconds)
    layer = max(0.0, seconds[deep] - seconds[shallow]) / (deep - shallow)
    return TokenTime(max(0.0, seconds[shallow] - shallow * layer), layer)


def _generate(model: Any, tokens: int) -> None:
    import torch

    ids = torch.ones(ROWS, 1, dtype=torch.int64, device=model.device)
    with torch.no_grad():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
        )


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


def random_model(width: int, dtype: str, device: str, layers: int = LAYERS, head: bool = False) -> Any:
    """A frozen Llama of a width, a multiple of 64, drawn at random; with `head`, one that generates."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=16,
    )
    torch.manual_seed(0)
    model: Any = (transformers.LlamaForCausalLM if head else transformers.LlamaModel)(config)
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

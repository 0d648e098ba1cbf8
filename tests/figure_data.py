"""Data of every figure for any number of tasks with long names: with missing cells, of one seed and many."""

import itertools

import numpy as np
import pandas as pd
from pictures import long_names, matrix_of_size

import deltacompose as dc
from deltacompose import figures
from deltacompose.analysis.interaction.analysis import analyse
from deltacompose.analysis.interaction.order import order_effects
from deltacompose.analysis.interaction.runs import Columns, runs
from deltacompose.analysis.prediction.evaluate import summary as predicted
from deltacompose.analysis.subspace.linear import summary as subspace

METHODS = ("adapter(width=24)", "bitfit", "lora(rank=8)", "prompt(length=20)")
MEASURES = (
    "cosine of weights", "overlap of the masks of parameters", "text embedding (sentence encoder)",
    "Fisher information (diagonal)", "activation rate of neurons", "domain of the source text", "size of the data set",
)  # fmt: skip


def compositions(count):
    """Compositions with texts of 6 to 70 letters, of which many begin and end alike."""
    short = ["bitfit", "lora(rank=8)", "lora(rank=8) + bitfit", "adapter(width=24) >> prefix(length=20)"]
    long = [
        f"lora(rank={2**rank}) + prompt(length={length}) >> adapter(width={8 * rank + 8}, nonlinearity='gelu')"
        for length, rank in itertools.product(range(5, 60, 5), range(6))
    ]
    return (short + long)[:count]


def matrix(tasks, seeds, missing, shift=0.0):
    """A transfer matrix; with a shift another one of the same tasks."""
    whole = matrix_of_size(tasks, seeds, 5 if tasks < 30 else 9, missing)
    if not shift:
        return whole
    noise = np.random.default_rng(7).normal(shift, 0.03, whole.values.shape)
    return dc.TransferMatrix(
        **{**vars(whole), "values": np.clip(whole.values + noise, 0, 1), "composition": f"bitfit {shift:.2f}"}
    )


def history(tasks, seeds, missing):
    """Evaluations during training; with missing cells some compositions lack some tasks, and metrics differ."""
    random = np.random.default_rng(0)
    return [
        {
            "composition": name, "unit": task, "seed": seed, "step": step, "seconds": step / 10,
            "metric": "rouge-L" if missing and j % 2 else "accuracy",
            "score": 0.9 - 0.5 * np.exp(-step / (100 + 20 * i)) + random.normal(0, 0.01),
        }
        for (i, name), (j, task) in itertools.product(enumerate(compositions(5)), enumerate(long_names(tasks)))
        for seed, step in itertools.product(range(seeds), range(0, 1001, 200))
        if not (missing and (i + j) % 7 == 0)
    ]  # fmt: skip


def factorial(tasks, seeds, missing):
    """The factorial of three methods, of four for many tasks; where cells are missing one combination was not run."""
    random, names = np.random.default_rng(1), list(METHODS[: 4 if tasks >= 30 else 3])
    table = [
        {**{name: str(on) for name, on in zip(names, ons, strict=True)}, "task": task, "seed": str(seed), "dev": "0.5",
         "score": str(0.5 + 0.1 * ons[0] + 0.05 * ons[1] - 0.03 * ons[0] * ons[1] + random.normal(0, 0.01))}
        for ons in itertools.product((0, 1), repeat=len(names))
        for task, seed in itertools.product(long_names(min(tasks, 12)), range(seeds))
        if not (missing and ons == (0, *(1 for _ in names[1:])))
    ]  # fmt: skip
    return analyse(runs(table, Columns(score="score", unit="task", seed="seed"), names, []), names, [], "dev")[0]


def orders(tasks, seeds, missing):
    """Orders of three stages, of four for many tasks; where cells are missing some orders were not run."""
    random, units = np.random.default_rng(2), long_names(min(tasks, 5))
    scores = {("none", unit): {"": 0.5} for unit in units}
    for sequence in itertools.permutations(METHODS[: 4 if tasks >= 30 else 3]):
        if missing and sequence[0] == "bitfit":
            continue
        for done, unit in itertools.product(range(1, len(sequence) + 1), units):
            by_seed = {str(seed): 0.5 + 0.1 * done + random.normal(0, 0.02) for seed in range(seeds)}
            scores.setdefault((" >> ".join(sequence[:done]), unit), by_seed)
    return order_effects(scores)[0]


def dimensions(tasks, seeds, missing):
    """Intrinsic dimensions; where cells are missing some tasks reached none, and of some nothing is known."""
    of = lambda i: {
        "d": None if missing and i % 5 in (1, 3) else 10 * 2 ** (i % 5), "below": 5 * 2 ** (i % 5) if i % 5 - 1 else 0,
        "by_seed": {str(seed): 10 * 2 ** ((i + seed) % 5) for seed in range(seeds)}, "full": 0.9,
        "seeds": list(range(seeds)), "scores": {str(d): 0.9 * (1 - np.exp(-d / 10 / (i % 6 + 1))) for d in (5, 20, 80)},
    }  # fmt: skip
    return {"share": 0.9, "reference": "full", "tasks": {name: of(i) for i, name in enumerate(long_names(tasks))}}


def spectrum(tasks, seeds):
    random, names = np.random.default_rng(3), long_names(min(tasks, 6))
    shared = random.normal(size=(3, 40))
    one = lambda: subspace({name: random.normal(size=3) @ shared + 0.5 * random.normal(size=40) for name in names})
    return one() if seeds == 1 else {"by_seed": {str(seed): one() for seed in range(seeds)}}


def similarities(tasks, missing):
    names = long_names(tasks)
    near = np.corrcoef(np.random.default_rng(4).normal(size=(tasks, 30)))
    if missing:
        near[0, 2] = near[2, 0] = np.nan
    frame = pd.DataFrame(near, index=names, columns=names)
    frame.attrs["measure"] = "cosine of the weights of deltas"
    return frame


def predictions(tasks, seeds, missing):
    random, whole = np.random.default_rng(5), matrix(min(tasks, 30), seeds, 0.0)
    gains = whole.relative().mean(axis=0)
    measures = MEASURES[: 3 if missing else 7]
    return predicted(whole, {name: gains + random.normal(0, 0.3, gains.shape) for name in measures}, 49)


def costs(tasks, seeds):
    """A row per composition and seed, of as many compositions as tasks."""
    random = np.random.default_rng(6)
    return pd.DataFrame(
        {"composition": name, "score": 0.6 + 0.04 * (i % 6) + random.normal(0, 0.01),
         "parameters": 10 ** (3 + 0.6 * (i % 6)), "memory": 2.0**30 * (1 + i % 6), "seconds": 0.1 + i % 6}
        for i, name in enumerate(compositions(tasks)) for _ in range(seeds)
    )  # fmt: skip


def sizes(tasks, seeds, missing):
    """Rows of up to twelve compositions on five backbones; where cells are missing some backbones lack some."""
    return [
        {"composition": name, "size": size, "score": 0.1 * np.log10(size) - 0.2 + 0.01 * seed + 0.02 * i}
        for i, name in enumerate(compositions(min(tasks, 12)))
        for place, size in enumerate((1.4e7, 6e7, 2.2e8, 7.7e8, 3e9))
        for seed in range(seeds)
        if not (missing and (i + place) % 6 == 0)
    ]


def quality(tasks, seeds, missing):
    """How good recommended sources are, of up to nine strategies; where cells are missing one has no NDCG."""
    estimate = lambda value: {"value": value, "low": value - 0.03, "high": value + 0.03}
    names = ("model", "most popular source", *MEASURES)[: 2 + tasks]
    strategies = {
        name: {"regret_at_1": estimate(0.05 + 0.03 * i), "regret_at_3": estimate(0.02 + 0.02 * i),
               "ndcg": estimate(0.9 - 0.05 * i)}
        for i, name in enumerate(names)
    }  # fmt: skip
    if missing:
        strategies[names[-1]]["ndcg"] = {"value": None, "low": None, "high": None}
    return {"composition": compositions(6)[5], "tasks_left_out": tasks, "seeds": seeds, "strategies": strategies}


def _marked(tasks):
    return np.random.default_rng(8).random((tasks, tasks)) < 0.2


_SHIFTS = (0.0, 0.03, 0.06, 0.09)
DRAW = {
    "heatmap": lambda n, s, m, **k: figures.heatmap(matrix(n, s, m), value="corrected", marks=_marked(n), **k),
    "clustermap": lambda n, s, m, **k: figures.clustermap(matrix(n, s, m), value="score", **k),
    "panels": lambda n, s, m, **k: figures.panels(
        dict(zip(compositions(4), [matrix(n, s, m, shift) for shift in _SHIFTS], strict=True)), value="corrected", **k
    ),
    "difference": lambda n, s, m, **k: figures.difference(matrix(n, s, m), matrix(n, s, m, 0.05), **k),
    "similarity": lambda n, s, m, **k: figures.similarity(
        similarities(n, m), categories=dict(matrix_of_size(n, 1).categories), **k
    ),
    "graph": lambda n, s, m, **k: figures.graph(matrix(n, s, m), **k),
    "lift": lambda n, s, m, **k: figures.lift(
        dict(zip(compositions(4)[2:], (matrix(n, s, m), matrix(n, s, m, 0.05)), strict=True)), **k
    ),
    "convergence": lambda n, s, m, **k: figures.convergence(history(n, s, m), **k),
    "factorial": lambda n, s, m, **k: figures.factorial(factorial(n, s, m), title="natural language inference", **k),
    "orders": lambda n, s, m, **k: figures.orders(orders(n, s, m), **k),
    "cost": lambda n, s, m, **k: figures.cost(costs(n, s), against="memory" if m else "parameters", **k),
    "scale": lambda n, s, m, **k: figures.scale(sizes(n, s, m), **k),
    "dimension": lambda n, s, m, **k: figures.dimension(dimensions(n, s, m), **k),
    "spectrum": lambda n, s, m, **k: figures.spectrum(spectrum(n, s), **k),
    "prediction": lambda n, s, m, **k: figures.prediction(predictions(n, s, m), **k),
    "recommendation": lambda n, s, m, **k: figures.recommendation(quality(n, s, m), **k),
    "reliability": lambda n, s, m, **k: figures.reliability(
        dict(zip(compositions(6)[4:], (matrix(n, max(2, s), m), matrix(n, max(2, s), m, 0.05)), strict=True)),
        value="corrected",
        **k,
    ),
    "similarity_transfer": lambda n, s, m, **k: figures.similarity_transfer(
        similarities(n, 0), matrix(n, s, m), **k
    ),
}  # fmt: skip
"""Every figure by its name: of so many tasks and seeds, with this share of missing cells."""


def drawn(name, tasks=5, seeds=3, missing=0.08, **options):
    """The whole figure."""
    result = DRAW[name](tasks, seeds, missing, **options)
    return result if hasattr(result, "savefig") else result.figure

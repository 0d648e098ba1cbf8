"""Every figure: it is drawn from a record, a table or a path, in a figure or in axes, and can be read at each width."""

import itertools
import json
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from pictures import assert_legible, long_names, matrix_of_size, texts_of

import deltacompose as dc
from deltacompose import figures
from deltacompose.analysis.interaction.analysis import analyse
from deltacompose.analysis.interaction.order import order_effects
from deltacompose.analysis.interaction.runs import Columns, runs
from deltacompose.analysis.prediction.evaluate import summary as predicted
from deltacompose.analysis.subspace.linear import summary as subspace
from deltacompose.errors import BadInput
from deltacompose.figures.style import rendered
from deltacompose.figures.tradeoffs import pareto

TASKS = long_names(12)
METHODS = ("lora", "prompt", "lora + bitfit", "adapter(width=24) >> prefix(length=20)")


def history(tasks=5, seeds=3):
    random = np.random.default_rng(0)
    cells = itertools.product(enumerate(METHODS), long_names(tasks), range(seeds), range(0, 500, 50))
    return [
        {
            "composition": name, "unit": task, "seed": seed, "step": step, "seconds": step / 10, "metric": "accuracy",
            "score": 0.9 - 0.5 * np.exp(-step / (100 + 20 * i)) + random.normal(0, 0.01),
        }
        for (i, name), task, seed, step in cells
    ]  # fmt: skip


def factorial():
    random, names = np.random.default_rng(1), ["adapter", "bitfit", "prompt"]
    table = [
        {**{name: str(on) for name, on in zip(names, ons, strict=True)}, "task": task, "seed": seed, "dev": "0.5",
         "score": str(0.5 + 0.1 * ons[0] + 0.05 * ons[1] - 0.03 * ons[0] * ons[1] + random.normal(0, 0.01))}
        for ons in itertools.product((0, 1), repeat=3) for task in "abcd" for seed in "012"
    ]  # fmt: skip
    columns = Columns(score="score", unit="task", seed="seed")
    return analyse(runs(table, columns, names, []), names, [], "dev")[0]


def orders():
    random, scores = np.random.default_rng(2), {("none", unit): {"": 0.5} for unit in "abc"}
    for sequence in itertools.permutations(["prompt", "bitfit", "adapter"]):
        for done, unit in itertools.product(range(1, 4), "abc"):
            text = " >> ".join(sequence[:done])
            scores.setdefault((text, unit), {seed: 0.5 + 0.1 * done + random.normal(0, 0.02) for seed in "01"})
    return order_effects(scores)[0]


def dimensions(tasks=7):
    of = lambda i: {
        "d": None if i == 3 else 10 * 2 ** (i % 5), "below": 5 * 2 ** (i % 5), "by_seed": {"0": 10, "1": 20},
        "full": 0.9, "seeds": [0, 1], "scores": {str(d): 0.9 * (1 - np.exp(-d / 10 / (i + 1))) for d in (5, 20, 80)},
    }  # fmt: skip
    return {"share": 0.9, "reference": "full", "tasks": {name: of(i) for i, name in enumerate(long_names(tasks))}}


def spectrum():
    random = np.random.default_rng(3)
    shared = random.normal(size=(3, 300))
    return subspace({name: random.normal(size=3) @ shared + 0.5 * random.normal(size=300) for name in TASKS})


def similarities():
    random = np.random.default_rng(4)
    return pd.DataFrame(np.corrcoef(random.normal(size=(12, 30))), index=TASKS, columns=TASKS)


def predictions():
    random, matrix = np.random.default_rng(5), matrix_of_size(12)
    gains = matrix.relative().mean(axis=0)
    return predicted(matrix, {f"measure_{i}": gains + random.normal(0, 0.1 + i, gains.shape) for i in range(4)}, 99)


def costs(count=6):
    random = np.random.default_rng(6)
    return pd.DataFrame(
        {"composition": f"method {i % count}", "score": 0.6 + 0.04 * (i % count) + random.normal(0, 0.01),
         "parameters": 10 ** (3 + 0.6 * (i % count)), "memory": 2.0**30 * (1 + i % count), "seconds": 0.1 + i % count}
        for i in range(3 * count)
    )  # fmt: skip


def sizes():
    return [
        {"composition": name, "size": size, "score": 0.1 * np.log10(size) - 0.2 + 0.01 * seed}
        for name in METHODS[:2]
        for size in (1e7, 1e8, 1e9)
        for seed in range(3)
    ]


def other(seed=7):
    matrix = matrix_of_size(12)
    noise = np.random.default_rng(seed).normal(0.05, 0.02, matrix.values.shape)
    return dc.TransferMatrix(
        **{**vars(matrix), "values": np.clip(matrix.values + noise, 0, 1), "composition": "bitfit"}
    )


def quality():
    """How good recommended sources are, of four strategies; of one there is no NDCG."""
    interval = lambda value: {"value": value, "low": value - 0.03, "high": value + 0.03}
    strategies = {
        name: {"regret_at_1": interval(0.05 + 0.03 * i), "regret_at_3": interval(0.02 + 0.02 * i),
               "ndcg": interval(0.9 - 0.1 * i)}
        for i, name in enumerate(("the model of recommendations", "few examples", "most similar by prompts", "random"))
    }  # fmt: skip
    strategies["random"]["ndcg"] = {"value": None, "low": None, "high": None}
    return {"composition": "lora", "tasks_left_out": 12, "seeds": 3, "strategies": strategies}


DRAW = {
    "recommendation": lambda **k: figures.recommendation(quality(), **k),
    "graph": lambda **k: figures.graph(matrix_of_size(12), **k),
    "graph of 60": lambda **k: figures.graph(matrix_of_size(60, seeds=1), **k),
    "convergence": lambda **k: figures.convergence(history(), **k),
    "convergence of 60": lambda **k: figures.convergence(history(60, 1), **k),
    "factorial": lambda **k: figures.factorial(factorial(), **k),
    "orders": lambda **k: figures.orders(orders(), **k),
    "lift": lambda **k: figures.lift({"lora": matrix_of_size(12), "bitfit": other()}, **k),
    "cost": lambda **k: figures.cost(costs(), **k),
    "scale": lambda **k: figures.scale(sizes(), **k),
    "dimension": lambda **k: figures.dimension(dimensions(), **k),
    "dimension of 30": lambda **k: figures.dimension(dimensions(30), **k),
    "spectrum": lambda **k: figures.spectrum(spectrum(), **k),
    "prediction": lambda **k: figures.prediction(predictions(), **k),
    "reliability": lambda **k: figures.reliability({"lora": matrix_of_size(12)}, value="corrected", **k),
    "similarity": lambda **k: figures.similarity(similarities(), **k),
    "similarity_transfer": lambda **k: figures.similarity_transfer(similarities(), matrix_of_size(12), **k),
    "clustermap": lambda **k: figures.clustermap(matrix_of_size(12, missing=0.05), value="corrected", **k),
    "panels": lambda **k: figures.panels(
        [matrix_of_size(12), other(), other(8)], value="corrected", by="backbone", **k
    ),
    "difference": lambda **k: figures.difference(matrix_of_size(12), other(), **k),
}
PANELS = {
    "convergence",
    "convergence of 60",
    "factorial",
    "orders",
    "dimension",
    "dimension of 30",
    "panels",
    "recommendation",
}


WIDE = ("clustermap", "convergence of 60", "cost", "dimension of 30", "graph of 60", "panels")


@pytest.mark.parametrize(("name", "venue"), [(name, "icml") for name in DRAW] + [(name, "neurips") for name in WIDE])
def test_every_figure_can_be_read_at_both_widths(name, venue):
    """In the narrow column all, in the wide one those of which names or keys leave least room."""
    drawn = DRAW[name](style=venue)
    figure = drawn if name in PANELS else drawn.figure
    assert figure.get_figwidth() == dc.style(venue).width
    assert_legible(figure)


@pytest.mark.parametrize("name", sorted(set(DRAW) - PANELS - {"graph of 60"}))
def test_a_figure_without_panels_is_drawn_in_the_callers_axes(name):
    figure = mpl.figure.Figure(figsize=(8, 4))
    left, right = figure.subplots(1, 2)
    assert DRAW[name](ax=left) is left
    assert not right.has_data()


def test_a_vector_file_of_many_cells_has_a_path_for_each_colour_alone():
    matrix = matrix_of_size(60)
    text = rendered(figures.heatmap(matrix, value="score").figure, "svg").decode()
    assert text.count("<path") < matrix.values[0].size / 4
    drawn = re.findall(r"style=\"fill: (#\w+)", text)
    assert len(set(drawn)) > 20


@pytest.mark.parametrize("name", ["graph", "factorial"])
def test_the_same_figure_has_the_same_bytes_and_embedded_truetype(name, tmp_path):
    """As a file; `test_sizes.py` has the bytes of every figure."""
    for file in ("a.pdf", "b.pdf"):
        DRAW[name](path=tmp_path / file)
    content = (tmp_path / "a.pdf").read_bytes()
    assert content == (tmp_path / "b.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert not re.search(rb"CreationDate|ModDate", content)


def test_a_user_who_saves_a_figure_gets_what_we_would_have_saved(tmp_path):
    figure = DRAW["cost"]().figure
    figure.savefig(tmp_path / "own.pdf")
    assert b"/Type3" not in (tmp_path / "own.pdf").read_bytes()
    assert figure._repr_png_() == rendered(figure, "png", dpi=150)


def test_a_suffix_that_does_not_exist_is_refused_before_anything_is_drawn(tmp_path):
    for name in ("cost", "panels", "graph"):
        with pytest.raises(BadInput, match="no figure format 'bmp'"):
            DRAW[name](path=tmp_path / "x.bmp")
    assert not list(tmp_path.iterdir())


def test_records_are_read_from_the_files_that_commands_write(tmp_path):
    (tmp_path / "interaction.json").write_text(json.dumps([factorial()]))
    assert figures.factorial(tmp_path / "interaction.json").axes
    costs().to_csv(tmp_path / "costs.csv", index=False)
    expected = {text.get_text() for text, _ in texts_of(figures.cost(costs()).figure)}
    assert {text.get_text() for text, _ in texts_of(figures.cost(tmp_path / "costs.csv").figure)} == expected
    similarities().to_csv(tmp_path / "near.csv")
    assert figures.similarity(tmp_path / "near.csv").figure


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.cost(costs(), against="money"), "no cost 'money'"),
        (lambda: figures.cost(costs().drop(columns="score")), "cost needs rows with the columns composition, score"),
        (lambda: figures.scale([{"composition": "a", "size": 0, "score": 1}]), "numbers of parameters above zero"),
        (lambda: figures.convergence(history(1), by="epoch"), "drawn by 'step' or 'seconds'"),
        (lambda: figures.factorial({"means": {}}), "it lacks marginals, shapley, effects, intervals"),
        (lambda: figures.orders([{}, {}]), "expected one record of orders of stages, found 2 records"),
        (lambda: figures.dimension({"tasks": {}}), "not a record of intrinsic dimensions"),
        (lambda: figures.spectrum({"explained": []}), "lacks explained, norms or parameters"),
        (lambda: figures.prediction({}), "lacks measures"),
        (lambda: figures.reliability(matrix_of_size(5, seeds=1)), "needs at least two seeds"),
        (lambda: figures.similarity(similarities().iloc[:, :5]), "the same names, each once"),
        (lambda: figures.clustermap(matrix_of_size(5).selected(TASKS[:2], TASKS[:2])), "at least 3 tasks"),
        (lambda: figures.difference(matrix_of_size(5)), "a difference is of two matrices, found 1"),
        (lambda: figures.heatmap(3), "a int is not a transfer matrix"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_a_sentence(call, message):
    with pytest.raises(BadInput, match=message):
        call()


def test_a_pareto_front_has_those_that_none_beats_at_both():
    random = np.random.default_rng(0)
    cost, score = random.uniform(size=(2, 40))
    front = set(pareto(cost, score))
    beaten = {i for i in range(40) for j in range(40) if cost[j] <= cost[i] and score[j] > score[i]}
    assert front == set(range(40)) - beaten


def test_the_key_of_a_line_has_its_colour_whatever_the_order_of_the_rows():
    rows = [{**row, "score": float(METHODS.index(row["composition"]))} for row in history(1, 1)][::-1]
    figure = figures.convergence(rows)
    keys = {line.get_label(): line.get_color() for line in figure.legends[0].get_lines()}
    drawn = {METHODS[int(line.get_ydata()[0])]: line.get_color() for line in figure.axes[0].get_lines()}
    assert keys == drawn


def test_panels_have_one_scale_and_one_order():
    figure = DRAW["panels"](order="cluster")
    meshes = [mesh for axes in figure.axes for mesh in axes.collections if mesh.get_label() == "values"]
    assert len({mesh.get_clim() for mesh in meshes}) == 1


def test_names_of_figures_are_those_of_dir():
    assert dir(figures) == sorted(figures.__all__)
    assert all(callable(getattr(dc.figures, name)) for name in figures.__all__)

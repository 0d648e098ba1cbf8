"""What notebooks and terminals show of values: short, true, and escaped."""

from __future__ import annotations

import html.parser

import networkx as nx
import numpy as np
import picostudy
import pytest

import deltacompose as dc
from deltacompose import notebook
from deltacompose.analysis.graph.construction import task_graph
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.backbone.pico import pico_backbone
from deltacompose.delta.delta import Delta
from deltacompose.engine import Outcome
from deltacompose.task.metrics import Score
from deltacompose.task.task import Task
from deltacompose.training.evaluation import Evaluation

HOSTILE = "<script>alert(1)</script>"


def matrix(names=("a", "b", HOSTILE, "d", "e")):
    rng, count = np.random.default_rng(0), len(names)
    return TransferMatrix(
        sources=names,
        targets=names,
        seeds=(0,),
        values=rng.uniform(0.5, 1, (1, count, count)),
        chance=np.full(count, 0.25),
        untouched=np.full(count, np.nan),
        random=np.full((1, count), np.nan),
        trivial=np.zeros((1, count, count), bool),
        failed=np.zeros((1, count, count), bool),
        metric=("accuracy",) * count,
        composition="lora",
    )


def a_delta():
    backbone = pico_backbone("bert")
    expression = dc.parse("full")
    return Delta(expression, dc.init_weights(backbone, expression), record={"task": "sst2", "seed": 3})


def a_study(folder):
    return picostudy.make(folder, tasks=tuple(f"task_{k}" for k in range(60)))


VALUES = {
    "composition": lambda folder: dc.parse("prompt(length=8) + lora(rank=4) >> bitfit"),
    "method": lambda folder: dc.methods()["lora"](rank=2),
    "backbone": lambda folder: pico_backbone("t5"),
    "delta": lambda folder: a_delta(),
    "study": a_study,
    "matrix": lambda folder: matrix(),
    "graph": lambda folder: task_graph(matrix(), k=2),
}


class Reader(html.parser.HTMLParser):
    """The tags and the text of a page; fails on what is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", VALUES)
def test_a_value_has_a_short_repr_and_a_table(name, tmp_path):
    value = VALUES[name](tmp_path)
    assert len(repr(value)) < 250
    page = Reader(value._repr_html_())
    assert {"table", "caption", "th", "td"} <= set(page.tags)
    assert len(value._repr_html_()) < 40_000


def test_names_from_outside_are_text():
    for page in (matrix()._repr_html_(), task_graph(matrix(), k=2)._repr_html_()):
        assert "script" not in Reader(page).tags
        assert HOSTILE in Reader(page).text


def test_what_a_repr_says_is_true(tmp_path):
    delta = a_delta()
    count = sum(x.numel() for x in delta.weights.values())
    assert repr(delta) == f"<delta of full, trained on sst2 with seed 3, {count:,} parameters>"
    assert repr(dc.parse("lora(rank=4) + bitfit")) == "Composition('lora(rank=4) + bitfit')"
    assert repr(a_study(tmp_path)).startswith("<study 'pico': 60 tasks × 1 composition × 2 seeds on /")
    task = Task("mood", "c", "choice", "accuracy", lambda split: (), verbalizer={"a": "bad", "b": "good"})
    assert repr(task) == "<task 'mood': choice of 2 labels, accuracy>"
    assert repr(Outcome(("k",) * 9, (), {"x": "reason"}, {}, nx.DiGraph())) == (
        "<outcome: 9 done, 0 stored, 1 failed, 0 blocked>"
    )
    evaluation = Evaluation(Score(0.5, "accuracy", (1.0, 0.0), True), ("good", "good"))
    assert repr(evaluation) == "<evaluation: accuracy 0.500 on 2 examples, all predictions the same>"


def test_the_table_of_a_backbone_has_each_kind_of_place_with_its_width():
    backbone = pico_backbone("bert")
    text = Reader(backbone._repr_html_()).text
    for place in backbone.places():
        assert place.kind in text
    assert str(backbone.width(backbone.places("ffn.up")[0])) in text


def test_a_task_graph_is_a_networkx_graph_in_all_that_networkx_does():
    graph, directed = task_graph(matrix(), k=2), task_graph(matrix(), k=2, directed=True)
    assert (graph.is_directed(), directed.is_directed()) == (False, True)
    assert nx.utils.graphs_equal(graph.copy(), graph)
    assert nx.utils.graphs_equal(nx.DiGraph(directed), directed)
    assert set(nx.connected_components(graph.subgraph(["a"])).__next__()) == {"a"}
    assert directed.reverse().number_of_edges() == directed.number_of_edges()


def test_long_tables_and_long_cells_are_cut_and_say_so():
    page = notebook.table("t", ({"a": "x" * 500} for _ in range(100)), ["a"])
    assert "… and 40 more" in page
    assert "x" * 120 + "…" in page
    assert "x" * 121 not in page


def test_the_keys_of_members_complete_in_notebooks():
    assert "lora" in dc.methods()._ipython_key_completions_()

"""Cost and score: PEFT-Bench's penalised score, and rows of measures from the records of a store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltacompose.analysis.interaction.cost_scores import MEASURES, Constants, costs, pscp
from deltacompose.errors import BadInput
from deltacompose.report.interaction_tables import COSTS, costs_table

LLAMA = {
    "ia3": (74.7, 196_608, 0.31, 28.41),
    "prompt": (50.0, 409_600, 1.67, 42.47),
    "lora": (80.1, 14_680_064, 0.0, 27.75),
    "bitfit": (75.3, 163_840, 0.0, 27.20),
}
"""Mean score, parameters, TFLOP beyond the backbone's 8.38, and GB of Llama-3-8B in PEFT-Bench's `cal_psqp.py`."""


def published(score, parameters, operations, memory, beta):
    """Its `psqp`: costs in its own units."""
    cost = lambda m, c: (1 + m / c) ** -beta
    return score * cost(parameters, 5e8) * cost(operations, 10) * cost(memory, 94)


@pytest.mark.parametrize("method", LLAMA)
@pytest.mark.parametrize("beta", [0.5, 1, 2])
def test_the_penalised_score_is_that_of_the_benchmarks_code(method, beta):
    score, parameters, operations, memory = LLAMA[method]
    constants = Constants(beta_parameters=beta, beta_operations=beta, beta_memory=beta)
    found = pscp(score, parameters, operations * 1e12, memory * 1e9, constants)
    assert found == pytest.approx(published(*LLAMA[method], beta))


@given(st.floats(0, 100), st.floats(0, 1e10), st.floats(0, 1e14), st.floats(0, 1e12))
def test_a_cost_never_raises_a_score(score, parameters, operations, memory):
    found = pscp(score, parameters, operations, memory)
    assert 0 <= found <= score
    assert pscp(score, 0, 0, 0) == score
    assert pscp(score, 2 * parameters, operations, memory) <= found


def record(kind, composition, **fields):
    result = fields.pop("result")
    spec = {"composition": composition, "task": "a", "source": "a", "target": "a"} | fields
    return {"kind": kind, "state": "done", "spec": spec, "result": result, "key": "k"}


RECORDS = [
    record("efficiency", "lora", result=dict.fromkeys(MEASURES, 2.0)),
    record("efficiency", "lora", task="b", result=dict.fromkeys(MEASURES, 4.0)),
    record("efficiency", "prompt", result={"parameters": 8, "peak_memory": 9}),
    record("evaluate", "lora", result={"score": 0.5}),
    record("evaluate", "lora", source="b", target="b", result={"score": 0.7}),
    record("evaluate", "lora", target="b", result={"score": 0.1}),
    record("evaluate", "lora", grid=3.0, result={"score": 0.9}),
    record("evaluate", None, source="untouched", result={"score": 0.2}),
]


def test_a_row_has_the_means_over_tasks_and_the_scores_on_the_own_tasks():
    lora, prompt = costs(RECORDS)
    assert (lora["composition"], lora["latency_16"], lora["tasks"]) == ("lora", 3.0, 2)
    assert lora["score"] == pytest.approx(60.0)
    assert lora["pscp"] == pytest.approx(pscp(60.0, 3.0, 3.0, 3.0))
    assert (prompt["parameters"], prompt["latency_1"], prompt["score"], prompt["pscp"]) == (8.0, None, None, None)
    assert costs([]) == []


def test_the_table_leaves_empty_what_was_not_measured():
    lines = costs_table(costs(RECORDS)).splitlines()
    assert all(line.count("|") == len(COSTS) + 2 for line in lines[:4])
    assert lines[3].startswith("| prompt | 8 |  |  |  |")
    assert "5e8" in lines[-1]


def test_constants_that_are_no_costs_are_refused():
    with pytest.raises(BadInput, match="they must be positive"):
        Constants(memory=0)

"""Order effects, convergence and efficiency, read from a store; and the figures and tables that show them."""

import itertools
import json
from dataclasses import replace
from statistics import fmean

import numpy as np
import picostudy
import pytest
from commandline import printed_by
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare

import deltacompose as dc
from deltacompose import figures
from deltacompose.analysis.interaction.composition_text import canonical, stages
from deltacompose.analysis.interaction.convergence import Point, Training, efficiency, reached, speed
from deltacompose.analysis.interaction.order import friedman, order_effects
from deltacompose.analysis.permutation import relabelling_test
from deltacompose.cli.interaction import interaction
from deltacompose.errors import BadInput
from deltacompose.store import open_store
from deltacompose.study import Cell

small = st.integers(-3, 3).map(float)
GAIN = {"prompt": 0.05, "bitfit": 0.2, "adapter": 0.3}
ORDERS = [" >> ".join(order) for order in itertools.permutations(GAIN)]


def command(*arguments):
    return printed_by(interaction, *arguments)


# -- tests of order ----------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(small, min_size=3, max_size=3), min_size=2, max_size=3).map(np.array))
def test_the_permutation_p_is_that_of_enumerating_every_relabelling_of_every_block(blocks):
    def spread(rows):
        return np.var(np.mean(rows, axis=0))

    every = list(itertools.product(*(list(itertools.permutations(row)) for row in blocks)))
    expected = np.mean([spread(rows) >= spread(blocks) - 1e-9 for rows in every])
    found = relabelling_test(blocks)
    assert found["exact"]
    assert found["p"] == pytest.approx(expected)


def test_the_friedman_test_is_scipys_and_ties_throughout_are_no_difference():
    blocks = np.array([[1.0, 2, 3, 5], [2, 1, 4, 3], [1, 3, 2, 4], [1, 2, 4, 3]])
    expected = friedmanchisquare(*blocks.T)
    assert friedman(blocks) == {"statistic": expected.statistic, "p": expected.pvalue, "blocks": 4}
    ranks = blocks.argsort(axis=1).argsort(axis=1) + 1
    assert friedman(blocks)["statistic"] == pytest.approx(12 / (4 * 4 * 5) * (ranks.sum(axis=0) ** 2).sum() - 3 * 4 * 5)
    assert friedman(np.ones((3, 4)))["p"] == 1
    assert friedman(blocks[:, :2]) is friedman(blocks[:1]) is None


def test_drawn_relabellings_find_a_clear_difference_and_no_order_alone_has_a_p():
    blocks = np.arange(6.0) + np.random.default_rng(0).normal(0, 0.1, (8, 6))
    found = relabelling_test(blocks)
    assert not found["exact"]
    assert found["p"] == 1 / 10_000
    assert relabelling_test(blocks[:1]) is relabelling_test(blocks[:, :1]) is None


def sequences(units=("t1", "t2", "t3"), seeds=("1", "2")):
    """Scores in points: a method adds its gain, a tenth as much as a second stage and nothing as a third."""
    scores = {("none", unit): {"0": 40.0} for unit in units}
    for order in itertools.permutations(GAIN):
        for done in (1, 2, 3):
            gained = sum(100 * GAIN[method] * share for method, share in zip(order[:done], (1, 0.1, 0), strict=False))
            for unit in units:
                scores[" >> ".join(order[:done]), unit] = {seed: 40 + gained + int(seed) for seed in seeds}
    return scores


def test_gains_per_stage_and_position_come_back_from_made_up_sequences():
    (record,) = order_effects(sequences())
    assert list(record["orders"]) == sorted(ORDERS)
    assert record["orders"]["adapter >> prompt >> bitfit"]["gains"] == pytest.approx([31.5, 0.5, 0])
    assert record["orders"]["adapter >> prompt >> bitfit"]["scores"] == pytest.approx([40, 71.5, 72, 72])
    assert record["positions"]["bitfit"]["gains"] == pytest.approx([21.5, 2, 0])
    low, high = record["positions"]["bitfit"]["intervals"][0]
    assert low < 21.5 < high
    assert record["best"] == {unit: ["adapter >> bitfit >> prompt"] for unit in record["units"]}
    assert record["tests"]["across units"]["friedman"]["p"] < 0.02
    assert record["tests"]["within units"]["permutation"]["blocks"] == 6
    assert record["missing"] == {"orders": [], "runs": []}


def test_missing_orders_and_runs_are_named_and_stop_the_tests():
    scores = sequences()
    for unit in ("t1", "t2", "t3"):
        del scores["prompt >> bitfit >> adapter", unit]
    del scores["prompt >> adapter >> bitfit", "t2"]["1"]
    record = next(each for each in order_effects(scores) if len(each["stages"]) == 3)
    assert record["missing"]["orders"] == ["prompt >> bitfit >> adapter"]
    assert record["missing"]["runs"] == [{"order": "prompt >> adapter >> bitfit", "unit": "t2", "seed": "1"}]
    assert record["tests"] == {"across units": None, "within units": None}


def test_a_sequence_without_its_beginning_has_an_unknown_gain():
    scores = {cell: each for cell, each in sequences().items() if cell[0] != "adapter"}
    (record,) = order_effects(scores)
    assert record["orders"]["adapter >> prompt >> bitfit"]["gains"][:2] == [None, None]
    assert record["positions"]["adapter"]["gains"][0] is None


def test_compositions_are_read_as_text_and_what_is_none_is_refused():
    assert stages("bitfit + lora(rank=4, places=('a', 'b')) >> adapter")[0] == (
        "bitfit",
        "lora(rank=4, places=('a', 'b'))",
    )
    assert canonical("bitfit + prompt", ["prompt", "bitfit"]) == "prompt + bitfit"
    assert stages("none") == stages("") == ()
    for text in ("prompt -", "prompt * lora", "(a >> b) + c", "f(1)", "__import__('os').system('x')", "a" + "(" * 500):
        with pytest.raises(BadInput, match="is not a composition"):
            stages(text)


# -- convergence and efficiency ----------------------------------------------------------------------------------------

HISTORY = tuple(
    Point(step, step / 10, score) for step, score in [(0, 0.5), (10, 0.6), (20, 0.78), (30, 0.7), (40, 0.8)]
)


def test_the_step_that_reaches_a_share_of_the_final_score_depends_on_the_floor():
    assert reached(HISTORY, 75).step == 10
    assert reached(HISTORY, 75, floor=0.5) == Point(20, 2.0, 0.78)
    assert reached(HISTORY, 100) == HISTORY[-1]
    assert reached(HISTORY, 90, floor=0.8) is None


@given(st.floats(1, 100), st.floats(1, 100))
def test_more_of_the_final_score_is_never_reached_sooner(one, other):
    low, high = sorted((one, other))
    assert reached(HISTORY, low).step <= reached(HISTORY, high).step


def test_trainings_that_never_left_the_floor_are_counted_apart():
    flat = Training(history=(Point(0, 0, 0.5), Point(10, 1, 0.5)))
    found = speed([Training(history=HISTORY), flat], 75, floor=0.5)
    assert found == {"percent": 75, "floor": 0.5, "steps": 20, "seconds": 2.0, "runs": 2, "never": 1}
    assert speed([flat], 75, floor=0.5)["steps"] is None


def test_where_a_training_was_measured_alone_only_such_measures_count():
    shared, alone = Training(peak_memory=900, parameters=5), Training(peak_memory=100, parameters=5, alone=True)
    assert efficiency([shared, alone]) == {
        "parameters": 5, "ratio": None, "peak_memory": 100, "seconds_per_step": None, "checkpoint": None, "runs": 1,
        "alone": 1,
    }  # fmt: skip
    assert efficiency([shared])["alone"] == 0


@pytest.mark.parametrize(
    ("history", "percent", "said"),
    [
        ((), 90, "the history holds no evaluation"),
        ((Point(2, 0, 1), Point(2, 1, 1)), 90, "steps do not increase"),
        (HISTORY, 0, "percent is 0"),
        (HISTORY, 101, "percent is 101"),
    ],
)
def test_a_history_that_says_nothing_is_refused(history, percent, said):
    with pytest.raises(BadInput, match=said):
        reached(history, percent)


# -- a store -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """A store with the 2^3 factorial and the six orders on two tasks with two seeds, 16 and 32 shots."""
    store = open_store(tmp_path / "results")
    for task in ("rte", "mrpc"):
        add_evaluation(store, None, "untouched", task, 0, 0.4)
        for shots, seed in itertools.product((16, 32), (0, 1)):
            for chosen in itertools.chain.from_iterable(itertools.combinations(GAIN, k) for k in (1, 2, 3)):
                add_delta(store, " + ".join(reversed(chosen)), task, seed, shots)
            for order in itertools.permutations(GAIN):
                for done in (2, 3):
                    add_delta(store, " >> ".join(order[:done]), task, seed, shots)
    return store.root


def add_evaluation(store, composition, source, task, seed, score, parents=()):
    spec = {
        "composition": composition,
        "source": source,
        "target": task,
        "seed": seed,
        "split": "test",
        "backbone": "pico",
    }
    result = {"score": score, "metric": "accuracy", "chance": 0.5, "trivial": False, "examples": 8}
    store.add(Cell("evaluate", spec, parents), result)


def add_delta(store, text, task, seed, shots):
    methods = text.replace(">>", "+").split(" + ")
    score = (
        0.4 + sum(GAIN[method.strip()] for method in methods) / (1 if "+" in text else 1.5) + seed / 100 + shots / 1000
    )
    spec = {
        "composition": text,
        "task": task,
        "seed": seed,
        "grid": 1.0,
        "recipe": {"steps": 20, "learning_rates": {"adapter": 0.001}},
        "shots": shots,
    }
    history = [{"step": s, "loss": 1.0, "score": score * s / 20, "seconds": s / 2} for s in (0, 10, 20)]
    result = {
        "dev": score,
        "chance": 0.5,
        "history": history,
        "parameters": 10 * len(methods),
        "ratio": 0.01,
        "seconds": 4.0,
    }
    cell = Cell("train", spec)
    store.add(
        cell,
        result | {"tokens": 9, "peak_memory": 2_000_000},
        lambda at: (at / "delta.safetensors").write_bytes(b"12345"),
    )
    add_evaluation(store, text, task, task, seed, score, (cell.key,))
    add_evaluation(
        store, text, task, {"rte": "mrpc", "mrpc": "rte"}[task], seed, 0.1, (cell.key,)
    )  # transfer: not asked


def test_a_store_gives_the_factorial_the_orders_and_the_efficiency(results):
    found = json.loads(command(results, "--by", "shots", "--factors", "prompt,bitfit,adapter", "--json"))
    assert [(record["shots"], record["units"], record["seeds"]) for record in found] == [
        (shots, ["mrpc", "rte"], ["0", "1"]) for shots in ("16", "32")
    ]
    record = found[0]
    assert record["missing"]["combinations"] == record["missing"]["cells"] == []
    assert record["marginals"]["prompt"]["bitfit + adapter"] == pytest.approx(5.0)
    assert record["means"]["none"] == pytest.approx(40)
    assert record["optimism"] is None
    (orders,) = record["orders"]
    assert sorted(orders["orders"]) == sorted(ORDERS)
    assert orders["orders"]["adapter >> bitfit >> prompt"]["gains"][1:] == pytest.approx([13.3333, 3.3333], abs=1e-3)
    taken = record["efficiency"]["prompt + bitfit"]
    assert (taken["parameters"], taken["seconds_per_step"], taken["checkpoint"]) == (20, 0.2, 5)
    assert (taken["runs"], taken["alone"]) == (4, 0)
    assert record["convergence"]["prompt + bitfit"]["rte"]["steps"] == 20


def test_measures_of_one_delta_in_one_process_stand_for_those_of_a_shared_one(results):
    store = open_store(results)
    measured = {"peak_memory": 7, "seconds_per_step": 0.5, "parameters": 10, "ratio": 0.01, "checkpoint": 99}
    store.add(Cell("efficiency", {"composition": "prompt", "task": "rte", "seed": 0}), measured)
    (record, _) = json.loads(command(results, "--by", "shots", "--json"))
    assert record["efficiency"]["prompt"] | {"runs": 2, "alone": 2} | measured == record["efficiency"]["prompt"]
    assert record["efficiency"]["bitfit"]["alone"] == 0


def test_the_command_writes_tables_and_figures_whose_titles_count_seeds(results, tmp_path):
    said = command(results, "--by", "shots", "--out", tmp_path / "out")
    names = sorted(path.stem.split("-")[0] + path.suffix for path in (tmp_path / "out").iterdir())
    each = [f"{name}.{kind}" for name in ("convergence", "effects", "orders") for kind in ("pdf", "png", "svg")] * 2
    assert names == sorted([*each, "interaction.json", "interaction.md", "runs.csv"])
    assert (tmp_path / "out" / "interaction.md").read_text() == said
    for words in (
        "| prompt | on adapter + bitfit | 5.00",
        "adapter >> bitfit >> prompt",
        "peak memory MB",
        "permutation p",
    ):
        assert words in said
    drawn = {path.name.split("-")[0]: path.read_text() for path in (tmp_path / "out").glob("*.svg")}
    assert set(drawn) == {"convergence", "effects", "orders"}
    assert all("<svg" in each for each in drawn.values())


def test_a_store_that_was_filtered_keeps_the_untouched_backbone_in_every_group(results):
    (record,) = json.loads(command(results, "--where", "shots == 16", "--by", "task,shots", "--json"))[:1]
    assert (record["task"], record["shots"], record["units"]) == ("mrpc", "16", [])
    assert record["means"]["none"] == pytest.approx(40)
    assert record["intervals"]["resampled"] == "seeds, within the only unit"
    assert record["intervals"]["means"]["none"] is None  # one score, which was not resampled


def test_settings_that_nothing_tells_apart_and_what_the_store_lacks_are_refused(results, tmp_path):
    with pytest.raises(BadInput, match="they differ in shots: group or filter"):
        command(results)
    with pytest.raises(BadInput, match="no method of the store 'lora'"):
        command(results, "--by", "shots", "--factors", "lora")
    with pytest.raises(BadInput, match="no column 'shot'; did you mean 'shots'"):
        command(results, "--by", "shot")
    with pytest.raises(BadInput, match="--unit names a column of a CSV"):
        command(results, "--by", "shots", "--unit", "task")
    open_store(tmp_path / "empty")
    with pytest.raises(BadInput, match="splits found: none"):
        command(tmp_path / "empty")


def test_a_csv_may_give_the_combination_as_text(tmp_path):
    rows = [f"{task},{text},{seed},{50 + 10 * len(stages(text)) + task}" for task in (1, 2) for seed in (1, 2)
            for text in ("none", "a", "b", "b + a", "a >> b", "b >> a")]  # fmt: skip
    (tmp_path / "runs.csv").write_text("\n".join(["task,what,seed,score", *rows]))
    (record,) = json.loads(command(tmp_path / "runs.csv", "--composition", "what", "--unit", "task", "--json"))
    assert record["means"] == pytest.approx({"none": 51.5, "b": 61.5, "a": 61.5, "a + b": 61.5})
    assert record["orders"][0]["orders"]["a >> b"]["gains"] == pytest.approx([10, 10])


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_state_their_seeds_and_say_what_is_missing():
    (record,) = order_effects(sequences())
    title = " ".join(figures.orders(record, title="rte").get_suptitle().split())
    assert title.startswith("rte 3 tasks, 2 seeds; lines: 95 % intervals; Friedman test p")
    rows = [{"composition": c, "unit": "rte", "seed": s, "step": n, "seconds": n, "score": n / 20}
            for c in ("a", "b") for s in "12" for n in (0, 10, 20)]  # fmt: skip
    for by in ("step", "seconds"):
        drawn = figures.convergence(rows, by=by)
        assert drawn.axes[0].get_title(loc="left") == "rte"
        assert "mean over 2 seeds" in drawn.get_suptitle()
    with pytest.raises(BadInput, match=r"convergence needs rows with the columns .*; found 0 rows"):
        figures.convergence([])
    unknown = {"marginals": {"a": {"none": None}}, "means": {"none": None, "a": None}, "effects": {"a": None}}
    with pytest.raises(BadInput, match="means are missing: none, a"):
        figures.factorial({**unknown, "shapley": {}, "factors": ["a"], "intervals": {}})
    with pytest.raises(BadInput, match="not a record of `interaction`: it lacks shapley"):
        figures.factorial({**unknown, "factors": ["a"], "intervals": {}})


def test_positions_average_over_the_orders_that_have_the_stage_there():
    (record,) = order_effects(sequences())
    gains = [o["gains"][1] for text, o in record["orders"].items() if text.split(" >> ")[1] == "bitfit"]
    assert record["positions"]["bitfit"]["gains"][1] == pytest.approx(fmean(gains))


def test_the_runs_that_were_analysed_are_written_and_read_again(results, tmp_path, monkeypatch):
    monkeypatch.setattr("deltacompose.cli.interaction._draw", lambda *given: None)
    command(results, "--where", "shots == 16", "--out", tmp_path)
    written = ["--composition", "composition", "--unit", "task", "--dev", "dev", "--chance", "chance", "--json"]
    (again,) = json.loads(command(tmp_path / "runs.csv", *written))
    (first,) = json.loads(command(results, "--where", "shots == 16", "--json"))
    assert again["means"] == pytest.approx(first["means"])
    assert again["shapley"] == pytest.approx(first["shapley"])


def test_a_study_is_analysed_by_its_own_cells_alone(tmp_path):
    study = picostudy.make(tmp_path, tasks=("mood",), transfer=False, compositions=("bitfit", "lora", "bitfit + lora"))
    study.write(tmp_path / "study.yaml")
    replace(study, compositions=("lora",), seeds=(0,)).write(tmp_path / "smaller.yaml")
    dc.run(study, tmp_path / "store")
    (whole,) = json.loads(command(tmp_path / "study.yaml", "--store", tmp_path / "store", "--json"))
    assert set(whole["means"]) == {"none", "bitfit", "lora", "bitfit + lora"}
    (smaller,) = json.loads(command(tmp_path / "smaller.yaml", "--store", tmp_path / "store", "--json"))
    assert (set(smaller["means"]), smaller["seeds"]) == ({"none", "lora"}, ["0"])
    with pytest.raises(BadInput, match=r"there is no store .*elsewhere; `deltacompose run"):
        command(tmp_path / "study.yaml", "--store", tmp_path / "elsewhere")

"""What methods do to each other: laws, known answers from published runs, intervals, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commandline import printed_by
from hypothesis import given, settings
from hypothesis import strategies as st

from deltacompose.analysis.interaction import analyse, factorial
from deltacompose.analysis.interaction import row_filter as where
from deltacompose.analysis.interaction.caveats import trivial
from deltacompose.analysis.interaction.factorial import applied, combinations
from deltacompose.analysis.interaction.runs import Columns, Run, runs
from deltacompose.cli.interaction import interaction
from deltacompose.errors import BadInput

PUBLISHED = Path(__file__).parents[3] / ".." / "shared" / "data" / "fs_pba"
THREE = ["prompt", "bitfit", "adapter"]
AVERAGES = dict(zip(combinations(THREE), [23.7, 87.4, 86.6, 87.1, 77.7, 86.6, 86.5, 87.0], strict=True))
OPTIONS = ["--factors", "prompt,bitfit,adapter", "--by", "setting,template", "--unit", "task", "--grid", "lr"]
OPTIONS += ["--dev", "dev", "--score", "test", "--json"]

published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the published data do not lie beside the project")
means = st.lists(st.floats(-100, 100), min_size=8, max_size=8).map(lambda y: dict(zip(combinations(THREE), y)))


def command(*arguments):
    return printed_by(interaction, *arguments)


def records(*arguments):
    return json.loads(command(*arguments))


def table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def values(contrasts, y):
    return {name: applied(contrast, y) for name, contrast in contrasts.items()}


def grid(a=0.0, b=0.0, tasks=("t1", "t2"), seeds=("1", "2"), lrs=("0.1", "0.01")):
    """Runs of a and b: 50 points, and a and b more where they are on; lr .01 costs one, seed and task one apiece."""
    return [
        {
            "task": task, "a": str(int(on_a)), "b": str(int(on_b)), "lr": lr, "seed": seed,
            "dev": str(50.0 + a * on_a + b * on_b - (lr == "0.01")),
            "test": str(50.0 + a * on_a + b * on_b - (lr == "0.01") + tasks.index(task) + seeds.index(seed)),
        }
        for task in tasks for on_a in (0, 1) for on_b in (0, 1) for lr in lrs for seed in seeds
    ]  # fmt: skip


TIDY = Columns(score="test", unit="task", grid="lr", seed="seed", dev="dev")


# -- laws --------------------------------------------------------------------------------------------------------------


@given(means)
def test_shapley_values_sum_to_what_all_methods_give_together(y):
    total = sum(values(factorial.shapley(THREE), y).values())
    assert total == pytest.approx(y["prompt + bitfit + adapter"] - y["none"], abs=1e-9)


@given(means)
def test_mobius_terms_of_all_subsets_add_up_to_the_mean_of_a_combination(y):
    every, terms = combinations(THREE), values(factorial.mobius(THREE), y)
    for name, on in every.items():
        assert sum(terms[part] for part, inside in every.items() if inside <= on) == pytest.approx(y[name], abs=1e-9)


@given(means)
def test_a_shapley_value_shares_each_mobius_term_equally_among_its_methods(y):
    every, terms = combinations(THREE), values(factorial.mobius(THREE), y)
    for method, value in values(factorial.shapley(THREE), y).items():
        assert value == pytest.approx(sum(terms[s] / len(on) for s, on in every.items() if method in on), abs=1e-9)


@given(means)
def test_the_means_are_the_grand_mean_plus_half_of_every_effect_with_its_sign(y):
    every, found = combinations(THREE), values(factorial.effects(THREE), y)
    for name, on in every.items():
        halves = [effect / 2 * (-1) ** len(every[together] - on) for together, effect in found.items()]
        assert np.mean(list(y.values())) + sum(halves) == pytest.approx(y[name], abs=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=4, max_size=4))
def test_methods_that_merely_add_have_constant_marginals_and_no_interactions(gains):
    methods = list("abcd")
    y = {name: sum(gains[methods.index(m)] for m in on) for name, on in combinations(methods).items()}
    for name, effect in values(factorial.effects(methods), y).items():
        assert effect == pytest.approx(gains[methods.index(name)] if "+" not in name else 0.0, abs=1e-9)
    for method, each in factorial.marginals(methods).items():
        assert list(values(each, y).values()) == pytest.approx([gains[methods.index(method)]] * 8, abs=1e-9)


@given(st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_rows_changes_nothing(random):
    rows = grid(a=3, b=-2)
    shuffled = list(rows)
    random.shuffle(shuffled)
    one, other = (analyse(runs(each, TIDY, ["a", "b"]), ["a", "b"]) for each in (rows, shuffled))
    assert one[0]["means"] == pytest.approx(other[0]["means"])
    assert one[0]["marginals"]["a"] == pytest.approx(other[0]["marginals"]["a"])


@given(
    st.lists(st.integers(-5, 5), min_size=1), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), st.integers(-5, 5)
)
def test_a_condition_keeps_the_rows_that_its_operator_would(column, op, literal):
    rows = [{"lr": str(value)} for value in column]
    compare = {"==": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}[op]
    expected = [row for row, value in zip(rows, column, strict=True) if getattr(value, compare)(literal)]
    assert where.kept(rows, where.read_condition(f"lr {op} {literal}")) == expected


# -- known answers -----------------------------------------------------------------------------------------------------


def test_eight_published_means_give_the_known_statistics(tmp_path):
    rows = [{**{m: int(m in on) for m in THREE}, "score": AVERAGES[name]} for name, on in combinations(THREE).items()]
    (record,) = records(table(tmp_path / "means.csv", rows), "--factors", "prompt,bitfit,adapter", "--json")
    assert record["shapley"] == pytest.approx({"prompt": 17.8167, "bitfit": 22.5167, "adapter": 22.9667}, abs=5e-5)
    effects = {
        "prompt": 13.25,
        "bitfit": 17.95,
        "adapter": 18.40,
        "prompt + bitfit": -13.35,
        "prompt + adapter": -13.70,
    }
    effects |= {"bitfit + adapter": -17.90, "prompt + bitfit + adapter": 13.70}
    assert record["effects"] == pytest.approx(effects, abs=5e-5)
    known = {"prompt": 54.0, "prompt + bitfit": -54.1, "prompt + bitfit + adapter": 54.8}
    assert {name: record["mobius"][name] for name in known} == pytest.approx(known, abs=5e-5)
    assert record["marginals"]["prompt"]["bitfit + adapter"] == pytest.approx(-0.1, abs=5e-5)
    assert record["scale"] == 1
    assert record["intervals"]["shapley"]["prompt"] is None
    assert "each cell is one score" in record["notes"][0]


@pytest.fixture(scope="module")
def fewshot():
    """The published runs, by (how chosen, setting, template)."""
    if not PUBLISHED.exists():
        return {}
    arguments = [PUBLISHED / "tidy_runs.csv", *OPTIONS, "--where", "task != 'MNLI-mm'"]
    chosen = {select: records(*arguments, "--select", select) for select in ("dev", "test")}
    assert records(*arguments) == chosen["dev"]
    return {(select, r["setting"], r["template"]): r for select, each in chosen.items() for r in each}


@published
@pytest.mark.parametrize(
    ("select", "template", "shapley"),
    [
        ("test", "N", [7.9677, 17.3040, 17.9946]),
        ("test", "Y", [3.1988, 11.1636, 10.9448]),
        ("dev", "N", [8.7176, 17.0762, 17.0213]),
        ("dev", "Y", [2.2155, 11.0570, 11.0627]),
    ],
)
def test_shapley_values_of_the_published_fewshot_runs_are_known(fewshot, select, template, shapley):
    record = fewshot[select, "16shot", template]
    assert record["shapley"] == pytest.approx(dict(zip(THREE, shapley, strict=True)), abs=5e-5)
    assert record["scale"] == 100
    assert "reported times 100" in " ".join(record["notes"])


@published
def test_means_effects_and_marginals_of_the_published_fewshot_runs_are_known(fewshot):
    record = fewshot["test", "16shot", "N"]
    known = [22.912, 63.192, 62.030, 64.883, 45.377, 62.863, 62.644, 66.178]
    assert list(record["means"].values()) == pytest.approx(known, abs=5e-4)
    effects = {"prompt": 6.0114, "bitfit": 15.3478, "adapter": 16.0384, "prompt + bitfit": -5.0571}
    effects |= {"prompt + adapter": -5.5285, "bitfit + adapter": -12.8449, "prompt + bitfit + adapter": 5.8688}
    assert record["effects"] == pytest.approx(effects, abs=5e-5)
    assert record["marginals"]["prompt"]["bitfit + adapter"] == pytest.approx(1.2946, abs=5e-5)
    low, high = record["intervals"]["marginals"]["prompt"]["bitfit + adapter"]
    assert low < 0 < high


@published
def test_optimism_of_choosing_on_test_is_known_and_is_nought_where_test_is_the_dev_set(fewshot):
    for select in ("dev", "test"):
        assert fewshot[select, "16shot", "N"]["optimism"] == pytest.approx(1.09, abs=5e-4)
        assert fewshot[select, "16shot", "Y"]["optimism"] == pytest.approx(1.083, abs=5e-4)
        for template in "NY":
            assert fewshot[select, "full", template]["optimism"] == 0
            assert "choosing on dev is choosing on test: CoLA, MNLI" in fewshot[select, "full", template]["notes"][-1]


@published
def test_all_positive_answers_on_mrpc_are_flagged(fewshot):
    on_test = [t for t in fewshot["test", "16shot", "N"]["trivial"] if t["unit"] == "MRPC"]
    assert [(t["combination"], t["chosen"], t["seeds"]) for t in on_test] == [("bitfit + adapter", True, 3)]
    assert on_test[0]["score"] == pytest.approx(81.2227, abs=5e-5)
    on_dev = [t for t in fewshot["dev", "16shot", "N"]["trivial"] if t["unit"] == "MRPC"]
    assert [(t["combination"], t["chosen"]) for t in on_dev] == [("bitfit + adapter", False)]


@published
def test_the_incomplete_full_data_factorial_is_reported_and_neither_filled_nor_dropped(fewshot):
    without, with_template = (fewshot["test", "full", template] for template in "NY")
    assert without["missing"]["combinations"] == with_template["missing"]["combinations"] == ["none"]
    found = [
        (cell["combination"], cell["unit"]) for each in (without, with_template) for cell in each["missing"]["cells"]
    ]
    assert found == [("prompt", "QQP"), ("prompt + adapter", "QQP"), ("bitfit + adapter", "MNLI")]
    assert without["means"]["none"] is without["means"]["prompt"] is None
    assert len(without["missing"]["partial"]["prompt"]["units"]) == 7
    assert set(without["shapley"].values()) == set(without["effects"].values()) == {None}
    assert without["marginals"]["prompt"]["bitfit"] == pytest.approx(-0.0785, abs=5e-5)
    assert "never run: none; 2 cells" in " ".join(without["notes"])


@published
def test_averages_of_the_published_table_come_back_wherever_its_cells_do(fewshot):
    """The runs reproduce 103 of the 109 cells to their rounding; five others are RTE, and one has a single seed."""
    names = {"bias": "bitfit"}
    with (PUBLISHED / "nature_table2_fulldata.csv").open() as file:
        cells = {
            (row["template"], " + ".join(names.get(m, m) for m in row["combo"].split("-")), row["task"]): row
            for row in csv.DictReader(file)
        }
    found = [(r["template"], cell) for r in (fewshot["dev", "full", t] for t in "NY") for cell in r["cells"]]
    close = [abs(float(cells[t, c["combination"], c["unit"]]["mean"]) - c["score"]) < 0.0501 for t, c in found]
    apart = [(c["unit"], c["seeds"]) for (_, c), same in zip(found, close, strict=True) if not same]
    assert (sum(close), sorted(apart)) == (103, [("QQP", 1), ("RTE", 1), *[("RTE", 3)] * 4])
    averages = {
        "N": [None, 87.4, 86.6, 87.1, None, None, 86.5, 87.0],
        "Y": [None, 87.4, 86.8, None, 77.4, 86.9, 86.9, 86.8],
    }
    for template, table_row in averages.items():
        for ours, theirs in zip(fewshot["dev", "full", template]["means"].values(), table_row, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or ours == pytest.approx(theirs, abs=0.45 if theirs == 77.4 else 0.1)
    for template, table_row in {"N": [22.9, 63.2, 62.0, 64.9, 45.4, 62.9, 62.6, 66.2],
                                "Y": [43.3, 67.3, 66.5, 67.4, 52.1, 65.8, 67.1, 68.6]}.items():  # fmt: skip
        assert list(fewshot["test", "16shot", template]["means"].values()) == pytest.approx(table_row, abs=0.0501)


# -- choice and caveats ----------------------------------------------------------------------------------------


def test_the_grid_value_is_chosen_per_combination_and_unit_and_optimism_is_measured():
    rows = grid(a=3, b=-2)
    for row in rows:
        if row["a"] == "1" and row["lr"] == "0.01":
            row["test"] = str(float(row["test"]) + 5)  # better on test, worse on dev
    on_dev, on_test = (analyse(runs(rows, TIDY, ["a", "b"]), ["a", "b"], select=s)[0] for s in ("dev", "test"))
    assert {cell["grid"] for cell in on_dev["cells"]} == {"0.1"}
    assert {cell["grid"] for cell in on_test["cells"] if "a" in cell["combination"]} == {"0.01"}
    assert on_test["means"]["a"] - on_dev["means"]["a"] == pytest.approx(4)
    assert on_dev["optimism"] == on_test["optimism"] == pytest.approx(8 / 3)  # a and a + b gain 4, b nothing
    assert on_dev["shapley"] == pytest.approx({"a": 3, "b": -2})


def test_a_known_chance_score_decides_what_is_trivial_and_a_recurring_perfect_score_is_not():
    rows = [dict(row, test="1.0" if row["task"] == "t1" else "0.5", dev="0.5", chance="0.5") for row in grid()]
    known = analyse(runs(rows, Columns(**{**vars(TIDY), "chance": "chance"}), ["a", "b"]), ["a", "b"])[0]
    guessed = analyse(runs(rows, TIDY, ["a", "b"]), ["a", "b"])[0]
    for record in (known, guessed):
        assert {each["unit"] for each in record["trivial"]} == {"t2"}
    assert "at the chance score" in known["trivial"][0]["because"]
    assert "exactly this score in 14 other runs" in guessed["trivial"][0]["because"]


@pytest.mark.parametrize(
    ("scores", "chance", "marked", "because"),
    [
        ((0.5, 0.5, 0.5), 0.5, (), "no spread over 3 seeds, at the chance score"),
        ((0.5, 0.5), 0.5, (), "no spread over 2 seeds, at the chance score"),
        ((0.5, 0.5, 0.51), 0.5, (), None),
        ((0.6, 0.6, 0.6), 0.5, (), None),
        ((0.5,), 0.5, (), None),
        ((0.4, 0.5, 0.6), 0.5, (0, 1, 2), "every run is marked as a constant answer"),
        ((0.4, 0.5, 0.6), 0.5, (0, 1), None),
        ((0.6, 0.6, 0.6), None, (0,), None),
    ],
)
def test_a_solution_is_trivial_where_several_seeds_are_constant_and_not_where_one_differs(
    scores, chance, marked, because
):
    of = lambda k, x: Run(("g",), "a", "t", "", str(k), x, chance=chance, trivial=k in marked)
    given = [of(k, x) for k, x in enumerate(scores)]
    other = Run(("g",), "b", "t", "", "0", 0.9, chance=chance)
    found = trivial([*given, other], [], [*given, other])
    assert [(one.combination, one.seeds, one.because) for one in found] == (
        [("a", len(scores), because)] if because else []
    )


def test_one_seed_has_no_spread_and_one_seed_on_one_task_has_no_interval():
    one = analyse(runs(grid(a=3, seeds=("1",)), TIDY, ["a", "b"]), ["a", "b"])[0]
    assert one["spread"]["a"] is None
    assert one["intervals"]["resampled"] == "units; there is one seed"
    assert "one seed, so no spread over seeds: a, a + b, b" in one["notes"]
    alone = analyse(runs(grid(a=3, seeds=("1",), tasks=("t1",)), TIDY, ["a", "b"]), ["a", "b"])[0]
    assert alone["intervals"]["shapley"] == {"a": None, "b": None}
    assert alone["shapley"]["a"] == pytest.approx(3)


def test_the_generalisation_gap_is_the_mean_distance_of_dev_and_train_scores():
    rows = [dict(row, train=str(float(row["dev"]) + (4 if row["a"] == "1" else -1))) for row in grid()]
    record = analyse(runs(rows, Columns(**{**vars(TIDY), "train": "train"}), ["a", "b"]), ["a", "b"])[0]
    assert record["gap"] == pytest.approx({"none": 1, "b": 1, "a": 4, "a + b": 4})
    assert analyse(runs(grid(), TIDY, ["a", "b"]), ["a", "b"])[0]["gap"]["a"] is None


# -- misuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--factors", "a,c"], "no column 'c'"),
        (["--factors", "a,task"], "column 'task' is named twice"),
        (["--factors", "a,a"], "column 'a' is named twice"),
        (["--by", "settings"], "no column 'settings'"),
        (["--unit", "tasks"], "no column 'tasks'; did you mean 'task'? columns: a, b, dev, lr, seed, task, test"),
        (["--grid", "rate"], "no column 'rate'"),
        (["--dev", "test"], "column 'test' is named twice"),
        (["--dev", ""], "name the column of dev scores by --dev"),
        (["--grid", ""], "they differ in lr: group or filter by what sets them apart"),
        (["--select", "train"], "no split to select on 'train'"),
        (["--where", "__import__('os')"], "is not a condition; write COLUMN OP LITERAL"),
        (["--where", "task != RTE"], "'task != RTE' in 'task != RTE' is not a condition"),
        (["--where", "task != 't1' or lr < 1"], "'or lr < 1'"),
        (["--where", "task != 't1' and"], "'' in"),
        (["--where", "tsk != 't1'"], "no column 'tsk'; did you mean 'task'?"),
        (["--where", "task > 3"], "holds text such as 't1'; write the literal in quotes"),
        (["--where", "lr == '0.1'"], "column 'lr' holds numbers; leave the quotes out"),
        (["--where", "task < 't1'"], "text is compared by == or !="),
        (["--where", "task == 't9'"], "no row meets the condition \"task == 't9'\" (found 32 rows)"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path, arguments, said):
    given = {"--factors": "a,b", "--unit": "task", "--grid": "lr", "--dev": "dev", "--score": "test"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    with pytest.raises(BadInput) as error:
        command(table(tmp_path / "runs.csv", grid()), *(each for pair in given.items() for each in pair))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test": "nan"}, "line 3: column 'test' is 'nan'; expected a finite number"),
        ({"test": "inf"}, "line 3: column 'test' is 'inf'"),
        ({"test": ""}, "line 3: column 'test' is empty; every run needs a score"),
        ({"dev": "high"}, "line 3: column 'dev' is 'high'"),
        ({"dev": ""}, "t1 (none, grid value 0.1, seed 2) has no dev score"),
        ({"a": "yes"}, "line 3: column 'a' is 'yes'; a factor is 0 (off) or 1 (on)"),
        ({"seed": "1"}, "two runs of t1 (none, grid value 0.1, seed 1) (lines 2 and 3); they differ in note"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(tmp_path, change, said):
    rows = [dict(row, note=str(place)) for place, row in enumerate(grid())]
    rows[1] |= change
    arguments = ["--factors", "a,b", "--unit", "task", "--grid", "lr", "--dev", "dev", "--score", "test"]
    with pytest.raises(BadInput) as error:
        command(table(tmp_path / "runs.csv", rows), *arguments)
    assert said in str(error.value)


def test_a_broken_file_and_a_missing_choice_of_methods_are_refused(tmp_path):
    (tmp_path / "short.csv").write_text("a,b,score\n1,0\n")
    with pytest.raises(BadInput, match="line 2 has 2 fields, its header 3"):
        command(tmp_path / "short.csv", "--factors", "a,b")
    with pytest.raises(BadInput, match=r"cannot read .*absent\.csv: No such file"):
        command(tmp_path / "absent.csv", "--factors", "a,b")
    (tmp_path / "plain.csv").write_text("a,score\n1,0\n")
    with pytest.raises(BadInput, match="give --factors"):
        command(tmp_path / "plain.csv")
    named = runs([dict(row, means="x") for row in grid()], TIDY, ["a", "b"], ["means"])
    with pytest.raises(BadInput, match="'means' cannot group"):
        analyse(named, ["a", "b"], ["means"])


def test_a_condition_that_meets_no_text_is_said_to_change_nothing(tmp_path):
    arguments = ["--factors", "a,b", "--unit", "task", "--grid", "lr", "--dev", "dev", "--score", "test", "--json"]
    (record,) = records(table(tmp_path / "runs.csv", grid()), *arguments, "--where", "task != 'T1' and lr < 1")
    assert record["notes"][0].startswith("no row has task 'T1'")

"""The transfer matrix, its files, and what is read off it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltacompose.analysis import transfer
from deltacompose.analysis.transfer import TransferMatrix, uncertainty, write_scores
from deltacompose.errors import BadInput

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "prompt_transferability"


def published(backbone: str) -> TransferMatrix:
    """The published prompt transfer matrix laid beside the project."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"the published matrices are not at {PUBLISHED}")
    return transfer.read_scores(
        PUBLISHED / f"zeroshot_{backbone}.csv", transfer.read_categories(PUBLISHED / "categories.json")
    )


def matrix(values, **changes) -> TransferMatrix:
    """A matrix with tasks a, b, c, … from (seeds, sources, targets) or (sources, targets) values."""
    values = np.array(values, dtype=float)
    values = values[None] if values.ndim == 2 else values
    seeds, sources, targets = values.shape
    names = "abcdefghijklmnopqrstuvwxyz"
    fields = {
        "sources": tuple(names[:sources]),
        "targets": tuple(names[:targets]),
        "seeds": tuple(range(seeds)),
        "values": values,
        "chance": np.full(targets, 0.5),
        "untouched": np.full(targets, 0.5),
        "random": np.full((seeds, targets), 0.5),
        "trivial": np.zeros(values.shape, dtype=bool),
        "failed": np.zeros(values.shape, dtype=bool),
        "metric": ("accuracy",) * targets,
    }
    return TransferMatrix(**{**fields, **changes})


def same(one: TransferMatrix, other: TransferMatrix) -> bool:
    """Whether two matrices agree in every field, NaN being equal to NaN."""
    for field in dataclasses.fields(TransferMatrix):
        x, y = getattr(one, field.name), getattr(other, field.name)
        if field.name == "examples":
            if x.keys() != y.keys() or not all(np.array_equal(x[key], y[key], equal_nan=True) for key in x):
                return False
        elif isinstance(x, np.ndarray):
            if not np.array_equal(x, y, equal_nan=x.dtype.kind == "f"):
                return False
        elif x != y:
            return False
    return True


scores = st.one_of(st.floats(-1, 1), st.just(float("nan")))
names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=6).filter(
    lambda name: name.strip() and name not in ("untouched", "random")  # a blank name is refused
)


@st.composite
def matrices(draw) -> TransferMatrix:
    tasks = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    sources = draw(st.permutations(tasks))[: draw(st.integers(1, len(tasks)))]
    seeds = draw(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
    shape = len(seeds), len(sources), len(tasks)
    array = lambda *shape: np.array(
        draw(st.lists(scores, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    ).reshape(shape)
    values = array(*shape)
    examples = {
        (seeds[0], source, tasks[0]): array(3)
        for source in draw(st.sampled_from([[], [sources[0]], [sources[0], "untouched"]]))
    }
    flags = array(*shape) > 0
    return TransferMatrix(
        sources=tuple(sources),
        targets=tuple(tasks),
        seeds=tuple(seeds),
        values=values,
        chance=array(len(tasks)),
        untouched=array(len(tasks)),
        random=array(len(seeds), len(tasks)),
        trivial=flags,
        failed=np.isnan(values) & (array(*shape) > 0),
        metric=tuple(draw(st.sampled_from(["accuracy", "rouge, L", ""])) for _ in tasks),
        categories=draw(st.sampled_from([{}, dict.fromkeys(tasks, "kind"), {task: task for task in tasks}])),
        composition=draw(st.sampled_from(["", "lora", "prompt(length=8) + bitfit >> adapter"])),
        backbone=draw(st.sampled_from(["", "sha256:ab"])),
        examples=examples,
    )


# -- laws --------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(matrices(), st.sampled_from([".csv", ".parquet"]))
def test_a_matrix_written_and_read_is_exactly_the_same(tmp_path_factory, given_matrix, ending):
    path = tmp_path_factory.mktemp("tables") / f"table{ending}"
    assert same(transfer.read(transfer.write(given_matrix, path)), given_matrix)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.6, 1), min_size=16, max_size=16), st.floats(0.1, 2), st.floats(-0.2, 0.5))
def test_corrected_values_do_not_change_with_the_scale_of_the_metric(values, scale, shift):
    one = matrix(np.reshape(values, (4, 4)))
    rescaled = matrix(one.values * scale + shift, chance=one.chance * scale + shift)
    known = ~np.isnan(one.corrected()) & ~np.isnan(rescaled.corrected())
    np.testing.assert_allclose(one.corrected()[known], rescaled.corrected()[known], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 1000))
def test_the_order_of_the_tasks_changes_no_summary(order, seed):
    generator = np.random.default_rng(seed)
    one = matrix(generator.uniform(0.6, 1, (3, 4, 4)), categories={"a": "x", "b": "x", "c": "y", "d": "y"})
    reordered = one.selected([one.sources[i] for i in order], [one.targets[i] for i in order[::-1]])
    first, second = transfer.summary(one), transfer.summary(reordered)
    for key in ("relative_same_category", "corrected_cross_category", "category_p", "asymmetry", "least_p"):
        assert first[key] == pytest.approx(second[key])


# -- the record --------------------------------------------------------------------------------------------------------


def test_the_own_delta_scores_one_in_relative_and_corrected_value_and_chance_scores_zero():
    one = matrix([[0.9, 0.5], [0.5, 0.8]])
    assert np.allclose(np.diagonal(one.relative()[0]), 1)
    assert np.allclose(one.corrected()[0], np.eye(2))
    assert one.relative()[0, 0, 1] == pytest.approx(0.5 / 0.8)


def test_a_target_whose_own_score_is_near_chance_is_left_out_and_said_to_be():
    one = matrix([[0.9, 0.5], [0.5, 0.54]])
    assert one.left_out == ("b",)
    assert np.isnan(one.corrected()[0, :, 1]).all()
    assert any("b: their own score does not exceed chance by more than 0.05" in text for text in one.limitations())


def test_a_target_near_chance_in_one_seed_only_keeps_the_other_seeds_and_says_so():
    one = matrix([[[0.9, 0.5], [0.5, 0.54]], [[0.9, 0.5], [0.5, 0.8]]])
    assert one.left_out == ()
    assert np.isnan(one.corrected()[0, :, 1]).all()
    assert not np.isnan(one.corrected()[1]).any()
    assert any("b: in some seeds" in text for text in one.limitations())


def test_missing_failed_and_trivial_cells_stay_visible():
    nan, where = float("nan"), np.zeros((1, 2, 2), dtype=bool)
    failed, trivial = where.copy(), where.copy()
    failed[0, 0, 1], trivial[0, 1, 1] = True, True
    said = matrix([[0.9, nan], [nan, 0.8]], failed=failed, trivial=trivial).limitations()
    assert "1 of 4 cells are failed: a → b (seed 0)" in said
    assert "1 of 4 cells are missing: b → a (seed 0)" in said
    assert "1 of 4 cells are trivial (a constant answer): b → b (seed 0)" in said


def test_one_seed_few_tasks_and_constant_columns_are_limitations():
    said = " ".join(matrix([[0.9, 0.7], [0.6, 0.7]]).limitations())
    assert "one seed" in said
    assert "2 tasks" in said
    three = matrix([[0.9, 0.7, 0.1], [0.6, 0.9, 0.2], [0.5, 0.7, 0.8]])
    said = " ".join(three.limitations())
    assert "b: every other task's delta scores the same on them" in said, "whatever its own does"
    assert "a: every" not in said


def test_a_plain_table_of_scores_is_read_as_it_was_written(tmp_path):
    text = ",a,b\nrandom,.5,.4\nuntouched,.45,\nb,.6,.8\na,.9,\n"
    one = transfer.read_scores(write(tmp_path, text))
    again = transfer.read_scores(write_scores(one, tmp_path / "again.csv"))
    assert again.sources == one.sources
    for name in ("values", "chance", "untouched", "random"):
        np.testing.assert_array_equal(getattr(again, name), getattr(one, name))
    two = matrix([[[0.9, 0.7], [0.6, 0.8]], [[0.8, 0.7], [0.5, 0.8]]])
    assert np.allclose(transfer.read_scores(write_scores(two, tmp_path / "two.csv")).values[0], two.mean())


def test_sources_that_are_no_targets_have_relative_values_and_are_named():
    one = matrix([[0.9, 0.5], [0.5, 0.8], [0.7, 0.6]])
    assert one.tasks == ("a", "b")
    assert one.square().sources == ("a", "b")
    assert one.relative()[0, 2, 0] == pytest.approx(0.7 / 0.9)
    assert any(text.startswith("c: sources but no targets") for text in one.limitations())


def test_a_target_without_its_own_delta_has_no_relative_value_and_is_named():
    one = matrix([[0.9, 0.5]])
    assert np.isnan(one.relative()[0, 0, 1])
    assert any(text.startswith("b: no delta trained on them") for text in one.limitations())


# -- misuse of the record and its files --------------------------------------------------------------------------------


def test_names_that_repeat_are_refused_by_name():
    with pytest.raises(BadInput, match="target a stands twice"):
        matrix([[0.9, 0.5], [0.5, 0.8]], targets=("a", "a"))


def test_arrays_of_another_shape_are_refused_with_both_shapes():
    with pytest.raises(BadInput, match=r"chance of the transfer matrix has shape \(3,\), expected \(2,\)"):
        matrix([[0.9, 0.5], [0.5, 0.8]], chance=np.zeros(3))


def test_infinite_scores_are_refused():
    with pytest.raises(BadInput, match="infinite score"):
        matrix([[0.9, np.inf], [0.5, 0.8]])


def test_categories_that_miss_a_task_are_refused_and_further_ones_are_not():
    with pytest.raises(BadInput, match="categories miss b; every task of the matrix needs one"):
        matrix([[0.9, 0.5], [0.5, 0.8]], categories={"a": "x"})
    assert matrix([[0.9]], categories={"a": "x", "other": "y"}).categories == {"a": "x"}


def test_a_task_may_not_have_the_name_of_a_reference_row():
    with pytest.raises(BadInput, match="cannot have the name 'random'"):
        matrix([[0.9]], sources=("random",))


def write(folder: Path, text: str, name: str = "scores.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_plain_scores_are_matched_by_name_whatever_the_order_of_rows(tmp_path):
    one = transfer.read_scores(write(tmp_path, ",a,b\nrandom,.5,.4\nextra,.1,.2\nb,.6,.8\na,.9,.7\n"))
    assert one.sources == ("a", "b", "extra")
    assert one.values[0].tolist() == [[0.9, 0.7], [0.6, 0.8], [0.1, 0.2]]
    assert one.chance.tolist() == [0.5, 0.4]


def test_empty_cells_of_plain_scores_are_missing_and_not_zero(tmp_path):
    one = transfer.read_scores(write(tmp_path, ",a,b\na,.9,\nb,nan,.8\n"))
    assert np.isnan(one.values[0]).tolist() == [[False, True], [True, False]]
    assert np.isnan(one.chance).all()


def test_trailing_commas_make_no_target(tmp_path):
    plain = transfer.read_scores(write(tmp_path, ",a,b\na,.9,.7\nb,.6,.8\n"))
    trailing = transfer.read_scores(write(tmp_path, ",a,b,,\na,.9,.7,,\nb,.6,.8,,\n"))
    assert trailing.targets == plain.targets == ("a", "b")
    assert np.array_equal(trailing.values, plain.values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (",a,\na,.9,.7\nb,.6,.8\n", "column 3 has scores and no name; name its target in the header"),
        (",a,b\na,.9,.7\n,.6,.8\n", "row 3 has scores and no name; name its source in the first column"),
        (",,\na,,\n", "expected a header of targets and a row per source"),
    ],
)
def test_scores_without_a_source_or_target_are_refused(text, said, tmp_path):
    with pytest.raises(BadInput, match=said):
        transfer.read_scores(write(tmp_path, text))


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_row_of_a_tidy_table_needs_its_source_and_target(end, tmp_path):
    table = transfer.frame(transfer.read_scores(write(tmp_path, ",a,b\na,.9,.7\nb,.6,.8\n")))
    table.loc[0, end] = ""
    with pytest.raises(BadInput, match=f"a row has no {end}; every score needs a source and a target"):
        transfer.from_frame(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",a,b\na,.9,x\nb,.1,.8\n", r"'x' \(a → b\) is not a number"),
        (",a,a\na,.9,.1\n", "the column 'a' stands there twice"),
        (",a,b\na,.9,.1\na,.9,.1\n", "the row 'a' stands there twice"),
        (",a,b\na,.9\n", "the row 'a' has 1 scores for 2 targets"),
        ("", "is not a table of scores"),
        (",a,b\nrandom,.5,.5\n", "has reference rows only"),
        (",a,b\na,90,71.5\nb,1,80\n", "found the score 90, expected scores of 1 at most; divide percentages by 100"),
        (",a,b\na,.9,.7\nb,.1,.8\nrandom,50,.2", "found the score 50"),
    ],
)
def test_bad_plain_scores_are_refused_in_a_sentence(tmp_path, text, message):
    with pytest.raises(BadInput, match=message):
        transfer.read_scores(write(tmp_path, text))


def test_a_random_row_taken_for_chance_is_carried_along_and_not_guessed_from_equal_numbers(tmp_path):
    said = "chance is the score of the random row, not that of a majority class"
    one = transfer.read_scores(write(tmp_path, ",a,b\nrandom,.5,.4\na,.9,.7\nb,.6,.8\n"))
    again = transfer.read(transfer.write(one, tmp_path / "tidy.csv"))
    assert (one.chance_of, again.chance_of) == ("random", "random")
    assert said in again.square().limitations()
    assert said not in matrix([[0.9, 0.5], [0.5, 0.8]]).limitations()
    assert transfer.read_scores(write(tmp_path, ",a,b\na,.9,.7\nb,.6,.8\n")).chance_of == ""
    with pytest.raises(BadInput, match="not of 'untouched'"):
        matrix([[0.9]], chance_of="untouched")


def test_a_tidy_table_of_percentages_is_refused_and_scores_below_zero_are_not(tmp_path):
    path = transfer.write(matrix([[90.0, 50.0], [50.0, 80.0]]), tmp_path / "table.csv")
    with pytest.raises(BadInput, match=r"table\.csv: .* divide percentages by 100"):
        transfer.read(path)
    assert transfer.read_scores(write(tmp_path, ",a,b\na,1.2,-1\nb,.1,.8\n")).values.min() == -1


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read .*none\.csv: No such file"):
        transfer.read_scores(tmp_path / "none.csv")
    with pytest.raises(BadInput, match="cannot read"):
        transfer.read(tmp_path / "none.csv")


def test_categories_that_are_no_object_or_name_a_task_twice_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"c\.json: .*should be a valid dictionary"):
        transfer.read_categories(write(tmp_path, '["a"]', "c.json"))
    with pytest.raises(BadInput, match="the key 'a' stands twice"):
        transfer.read_categories(write(tmp_path, '{"a": "x", "a": "y"}', "c.json"))


def test_tidy_tables_that_contradict_themselves_are_refused(tmp_path):
    path = transfer.write(matrix([[0.9, 0.5], [0.5, 0.8]]), tmp_path / "table.csv")
    lines = path.read_text().splitlines()
    with pytest.raises(BadInput, match="the cell b → b of seed 0 stands there twice"):
        transfer.read(write(tmp_path, "\n".join([*lines, lines[-1]])))
    with pytest.raises(BadInput, match=r"chance of b differs between rows: 0\.25, 0\.5"):
        transfer.read(write(tmp_path, "\n".join([*lines[:-1], lines[-1].replace(",0.5,", ",0.25,", 1)])))
    with pytest.raises(BadInput, match="lacks the columns"):
        transfer.read(write(tmp_path, "seed,source\n0,a\n"))
    with pytest.raises(BadInput, match=r"ends in \.csv or \.parquet"):
        transfer.write(matrix([[0.9]]), tmp_path / "table.xlsx")


def test_a_table_of_several_compositions_asks_which(tmp_path):
    one, other = (transfer.frame(matrix([[0.9]], composition=name)) for name in ("lora", "bitfit"))
    path = tmp_path / "both.csv"
    path.write_text(one.to_csv(index=False) + other.to_csv(index=False, header=False))
    with pytest.raises(BadInput, match="holds 2 compositions, choose one: lora, bitfit"):
        transfer.read(path)
    with pytest.raises(BadInput, match="did you mean 'lora'"):
        transfer.read(path, "lra")
    assert transfer.read(path, "bitfit").composition == "bitfit"


# -- from records ------------------------------------------------------------------------------------------------------


def record(source, target, seed, score, composition="lora", state="done", split="test", **more):
    spec = {
        "composition": composition,
        "source": source,
        "target": target,
        "seed": seed,
        "split": split,
        "backbone": "f",
    }
    result = {"score": score, "metric": "accuracy", "chance": 0.5, "trivial": score == 0.5, "examples": 4}
    return {
        "kind": "evaluate",
        "key": f"{spec}",
        "spec": {**spec, **more.pop("spec", {})},
        "state": state,
        "result": result,
        **more,
    }


def records():
    cells = [record(s, t, k, 0.9 if s == t else 0.6 + k / 100) for s in "ab" for t in "ab" for k in (0, 1)]
    references = [record("untouched", t, 0, 0.5, composition=None) for t in "ab"]
    noise = [
        record("random", t, k, 0.4 + n / 10, spec={"source_of_norms": s})
        for t in "ab"
        for k in (0, 1)
        for n, s in enumerate("ab")
    ]
    return [*cells, *references, *noise, {"kind": "train", "spec": {"composition": "lora"}}]


def test_records_give_the_matrix_with_its_reference_rows():
    one = transfer.from_records(records(), "lora", {"b": "x", "a": "y"})
    assert one.sources == one.targets == ("b", "a")
    assert one.seeds == (0, 1)
    assert one.values[1].tolist() == [[0.9, 0.61], [0.61, 0.9]]
    assert one.untouched.tolist() == [0.5, 0.5]
    np.testing.assert_allclose(one.random, 0.45)
    assert one.backbone == "f"
    assert one.metric == ("accuracy", "accuracy")


def test_a_score_that_is_constant_in_several_seeds_is_flagged_in_each_of_them():
    constant = [record("a", "b", k, 0.5) for k in (0, 2)]
    others = [
        record(s, t, k, 0.9)
        for s in "ab"
        for t in "ab"
        for k in (0, 1, 2)
        if (s, t, k) not in {("a", "b", 0), ("a", "b", 2)}
    ]
    one = transfer.from_records([*constant, *others], "lora")
    assert [tuple(map(int, where)) for where in np.argwhere(one.trivial)] == [(0, 0, 1), (2, 0, 1)]
    said = "2 of 12 cells are trivial (a constant answer): a → b (seed 0), a → b (seed 2)"
    assert said in one.limitations()


def test_failed_records_are_failed_cells_and_absent_ones_missing_cells():
    given_records = [r for r in records() if r["spec"].get("source") != "b"]
    failed = {"kind": "evaluate", "state": "failed", "spec": record("b", "a", 0, 0)["spec"]}
    one = transfer.from_records([*given_records, failed], "lora")
    assert one.failed[0].tolist() == [[False, False], [True, False]]
    assert np.isnan(one.values[:, 1]).all()
    assert "1 of 8 cells are failed: b → a (seed 0)" in one.limitations()


def test_example_scores_of_records_are_kept():
    one = transfer.from_records([record("a", "a", 0, 0.75, example_scores=[1, 1, 0, 1])], "lora")
    assert one.examples[0, "a", "a"].tolist() == [1, 1, 0, 1]


def test_example_scores_are_read_from_the_files_of_a_store(tmp_path):
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "predictions.jsonl").write_text('{"id": "1", "score": 1}\n{"id": "2", "score": 0.0}\n')
    cell = {**record("a", "a", 0, 0.5), "key": "k"}
    training_cell = {"kind": "train", "key": "t", "spec": {}}
    found = list(transfer.with_examples([cell, training_cell], lambda key: tmp_path / key))
    assert found == [{**cell, "example_scores": [1.0, 0.0]}, training_cell]
    with pytest.raises(BadInput, match=r"none.predictions\.jsonl cannot be read"):
        list(transfer.with_examples([{**cell, "key": "none"}], lambda key: tmp_path / key))


def test_the_evaluation_of_the_chosen_learning_rate_stands_before_those_of_the_grid():
    grid = [record("a", "a", 0, score, spec={"grid": grid}) for score, grid in ((0.6, 0.3), (0.9, 1.0), (0.8, None))]
    for order in (grid, grid[::-1]):
        assert transfer.from_records(order, "lora").values[0, 0, 0] == 0.8


def test_deltas_that_started_from_another_task_are_no_cells_of_the_matrix():
    started = record("a", "a", 0, 0.99, spec={"start": "b"})
    assert same(transfer.from_records([*records(), started], "lora"), transfer.from_records(records(), "lora"))


def test_records_that_do_not_fit_are_refused_in_a_sentence():
    with pytest.raises(BadInput, match="no composition 'lra'; did you mean 'lora'"):
        transfer.from_records(records(), "lra")
    with pytest.raises(BadInput, match="split 'val'; it was evaluated on: test"):
        transfer.from_records(records(), "lora", split="val")
    with pytest.raises(BadInput, match=r"two evaluations of a → a with seed 0 of 'lora'.*differ in steps"):
        transfer.from_records([*records(), record("a", "a", 0, 0.8, spec={"steps": 5})], "lora")
    with pytest.raises(BadInput, match="2 backbones"):
        transfer.from_records([*records(), record("a", "c", 0, 0.8, spec={"backbone": "g"})], "lora")


def test_a_condition_chooses_among_cells_that_share_their_names():
    twice = [*records(), record("a", "a", 0, 0.8, spec={"steps": 5})]
    one = transfer.from_records(twice, "lora", chosen=lambda cell: cell["spec"].get("steps") is None)
    assert one.values[0, 0, 0] == 0.9


# -- categories and the summary ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "relative", "corrected", "asymmetry", "left_out"),
    [
        ("Roberta", (0.772, 0.562), (0.56, 0.03), 0.20, []),
        ("T5Small", (0.791, 0.480), (0.45, -0.23), 0.37, ["nq_open"]),
    ],
)
def test_the_published_matrices_give_the_published_means(backbone, relative, corrected, asymmetry, left_out):
    found = transfer.summary(published(backbone), permutations=999)
    assert (round(found["relative_same_category"], 3), round(found["relative_cross_category"], 3)) == relative
    assert (round(found["corrected_same_category"], 2), round(found["corrected_cross_category"], 2)) == corrected
    assert round(found["asymmetry"], 2) == asymmetry
    assert found["left_out"] == left_out
    assert found["category_p"] == found["least_p"] == 1 / 1000
    assert found["pairs"]["relative"] == {
        "Roberta": {"same_pairs": 46, "same_unordered": 23, "cross_pairs": 136, "excluded": 0},
        "T5Small": {"same_pairs": 44, "same_unordered": 22, "cross_pairs": 228, "excluded": 0},
    }[backbone]  # fmt: skip
    assert any("no intervals" in text for text in found["limitations"])


def test_a_random_prompt_already_reaches_a_high_relative_value_on_the_published_matrix():
    one = published("Roberta")
    assert one.chance[one.targets.index("MRPC")] / one.own[0, one.targets.index("MRPC")] == pytest.approx(
        0.81, abs=0.005
    )


def test_a_summary_is_json_without_nan_whatever_is_missing():
    nan = float("nan")
    for one in (
        matrix([[0.9]]),
        matrix([[nan, nan], [nan, nan]]),
        matrix([[0.9, 0.5], [0.5, 0.8]], chance=np.full(2, nan), categories={"a": "x", "b": "x"}),
        matrix([[0.9, 0.5], [0.5, 0.8]], categories={"a": "x", "b": "y"}),
    ):
        assert json.loads(json.dumps(transfer.summary(one), allow_nan=False))["limitations"]


def test_without_categories_or_without_pairs_the_summary_says_so():
    values = np.random.default_rng(0).uniform(0.6, 1, (2, 4, 4))
    assert any("no categories were given" in text for text in transfer.summary(matrix(values))["limitations"])
    alone = transfer.summary(matrix(values, categories={name: name for name in "abcd"}))
    assert alone["relative_same_category"] is None
    assert alone["category_p"] is None
    assert any("there is no same-category transfer" in text for text in alone["limitations"])


def test_the_lift_of_categories_is_over_the_untouched_backbone_with_an_interval_of_both_sides():
    near = np.kron(np.eye(2), np.ones((2, 2)))
    one = with_examples(0.5 + 0.2 * near, seeds=3)
    one = dataclasses.replace(one, categories=dict(zip("abcd", "xxyy", strict=True)))
    found = transfer.summary(one)
    off = ~np.eye(4, dtype=bool)
    for part, cells in (("same", off & (near > 0)), ("cross", near == 0)):
        lift = (one.values - one.untouched)[:, cells].mean()
        assert found[f"lift_{part}_category"] == pytest.approx(lift)
        interval = found["intervals"]["lift"][part]
        assert interval["covers"] == "seeds and examples"
        assert interval["low"] < lift < interval["high"]
    assert found["intervals"]["lift"]["same"]["low"] > 0 > found["intervals"]["lift"]["cross"]["low"]
    assert found["category_p_lift"] == found["least_p"]
    unknown = transfer.summary(dataclasses.replace(one, untouched=np.full(4, np.nan)))
    assert "lift_same_category" not in unknown


def test_the_interval_of_a_lift_counts_the_untouched_score_once_for_all_sources():
    """All sources share its examples, so more sources do not make the mean lift any surer of them."""
    column = np.zeros((4, 4))
    column[1:, 0] = 1 / 3
    drawn = (with_examples(np.full((4, 4), 0.5), seeds=3, examples=50, seed=k) for k in range(300))
    found = [uncertainty.weighted(one, "lift", column) for one in drawn]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.9 <= covered <= 0.995


def test_four_tasks_in_two_categories_cannot_give_a_small_p_and_the_summary_states_the_least():
    values = np.full((2, 4, 4), 0.6) + 0.001 * np.arange(32).reshape(2, 4, 4)
    for near in ((0, 1), (2, 3)):
        values[:, near[0], near[1]] = values[:, near[1], near[0]] = 0.85
    values[:, range(4), range(4)] = 0.9
    found = transfer.summary(matrix(values, categories={"a": "x", "b": "x", "c": "y", "d": "y"}))
    assert found["exact"]
    assert found["arrangements"] == 6
    assert found["category_p"] == found["least_p"] == pytest.approx(1 / 3)
    assert found["pairs"]["corrected"]["same_unordered"] == 2


def test_cells_unknown_in_some_seed_are_in_no_mean_and_counted():
    values = np.random.default_rng(0).uniform(0.6, 1, (3, 4, 4))
    values[1, 0, 1] = np.nan
    found = transfer.summary(matrix(values, categories={"a": "x", "b": "x", "c": "y", "d": "y"}))
    assert found["pairs"]["relative"]["excluded"] == 1
    assert "1 off-diagonal cells have no relative value in every seed and are in no mean" in found["limitations"]


def test_a_map_that_does_not_repeat_has_an_uncorrected_reliability_and_says_so():
    values = np.array([[[0.9, 0.2, 0.3], [0.8, 0.9, 0.7], [0.2, 0.5, 0.9]]] * 2)
    off = ~np.eye(3, dtype=bool)
    values[1][off] = 0.9 - values[0][off]
    found = transfer.summary(matrix(values), permutations=9)
    assert -1 <= found["reliability"]["all"] < -0.9
    assert any("halves of the seeds correlate at -1.00" in sentence for sentence in found["limitations"])


def test_reliability_is_high_for_a_map_that_repeats_and_low_for_noise():
    generator = np.random.default_rng(0)
    signal, noise = generator.uniform(0.5, 1, (6, 6)), generator.normal(0, 0.01, (4, 6, 6))
    assert transfer.summary(matrix(signal + noise))["reliability"]["within_targets"] > 0.95
    assert transfer.summary(matrix(0.8 + noise))["reliability"]["within_targets"] < 0.7


# -- intervals and marks -----------------------------------------------------------------------------------------------


def with_examples(levels, seeds=3, examples=400, seed=0) -> TransferMatrix:
    """Right or wrong answers at given accuracies (sources, targets), and those of an untouched backbone at .5."""
    generator = np.random.default_rng(seed)
    levels = np.asarray(levels)
    right = (generator.random((seeds, *levels.shape, examples)) < levels[None, ..., None]).astype(float)
    plain = (generator.random((levels.shape[1], examples)) < 0.5).astype(float)
    tasks = "abcdefgh"
    scores = {(k, tasks[s], tasks[t]): right[k, s, t] for k, s, t in np.ndindex(right.shape[:3])}
    references = {(0, "untouched", tasks[t]): plain[t] for t in range(levels.shape[1])}
    return matrix(right.mean(axis=-1), untouched=plain.mean(axis=-1), examples={**scores, **references})


def test_marks_find_the_cells_that_lie_above_the_untouched_backbone_and_leave_the_diagonal_out():
    levels = np.full((4, 4), 0.5)
    levels[0, 1] = levels[2, 3] = 0.85
    levels[range(4), range(4)] = 0.95
    found = transfer.marks(with_examples(levels), "untouched")
    assert np.argwhere(found.bh).tolist() == [[0, 1], [2, 3]]
    assert (found.by <= found.bh).all()
    assert np.isnan(np.diag(found.p)).all()
    assert not np.isnan(np.diag(found.low)).any()
    assert found.covers == ("seeds and examples",)


def test_marks_against_the_own_score_are_below_it():
    levels = np.full((4, 4), 0.5)
    levels[range(4), range(4)] = 0.95
    found = transfer.marks(with_examples(levels), "own")
    assert (found.bh == ~np.eye(4, dtype=bool)).all()
    assert (found.high[found.bh] < 0).all()


def test_examples_that_do_not_average_to_the_score_are_not_used_for_its_interval():
    one = with_examples(np.full((4, 4), 0.7))
    no_mean = dataclasses.replace(one, values=one.values - 0.1)
    assert transfer.marks(one, "chance").covers == ("seeds and examples",)
    assert transfer.marks(no_mean, "chance").covers == ("seeds",)


def test_marks_refuse_what_cannot_be_tested():
    with pytest.raises(BadInput, match="no cell can be tested against untouched: it needs two seeds"):
        transfer.marks(matrix([[0.9, 0.5], [0.5, 0.8]]))
    with pytest.raises(BadInput, match="no level 'nothing'"):
        transfer.marks(matrix([[0.9]]), "nothing")
    with pytest.raises(BadInput, match="a false discovery rate lies between 0 and 1"):
        transfer.marks(matrix([[0.9]]), q=1.5)


def test_intervals_hold_the_means_and_narrow_with_more_seeds():
    levels = np.full((4, 4), 0.6)
    levels[range(4), range(4)] = 0.9
    widths = []
    for seeds in (3, 8):
        one = with_examples(levels, seeds)
        low, high = transfer.intervals(one, "relative")
        mean = transfer.mean_over_seeds(one.relative())
        off = one.off_diagonal
        assert ((low <= mean) & (mean <= high))[off].all()
        widths.append((high - low)[off].mean())
    assert widths[1] < widths[0]


def test_the_diagonal_of_the_relative_value_has_no_interval_because_it_is_one_by_definition():
    low, high = transfer.intervals(with_examples(np.full((2, 2), 0.8)), "relative")
    assert np.isnan(np.diag(low)).all()
    assert np.isnan(np.diag(high)).all()


# -- initialisation and stacks -----------------------------------------------------------------------------------------


def training(task, seed, dev, history, start=None, key=None, parents=(), **spec):
    rows = [{"step": step, "loss": 0.0, "score": score, "seconds": 0.0} for step, score in history]
    return {
        "kind": "train",
        "key": key or f"{task}{seed}{start}{spec}",
        "spec": {"composition": "lora", "task": task, "seed": seed, "start": start, **spec},
        "parents": list(parents),
        "state": "done",
        "result": {"dev": dev, "history": rows},
    }


def test_initialisation_transfer_gives_lift_and_steps_saved():
    fresh = [training("t", 0, 0.8, [(0, 0.5), (50, 0.7), (100, 0.8)]), training("s", 0, 0.9, [(0, 0.9)])]
    by_name = training("t", 0, 0.85, [(0, 0.6), (50, 0.85), (100, 0.8)], start="s")
    found = transfer.initialisation_transfer([*fresh, by_name], "lora")
    assert (found.sources, found.targets, found.seeds) == (("s",), ("t",), (0,))
    assert found.lift()[0, 0, 0] == pytest.approx(0.05)
    assert (found.steps[0, 0, 0], found.own_steps[0, 0]) == (50, 100)
    assert found.saved()[0, 0, 0] == 0.5
    by_key = training("t", 0, 0.85, [(0, 0.6), (50, 0.85)], start="s0None{}")
    assert transfer.initialisation_transfer([*fresh, by_key], "lora").sources == ("s",)


def test_initialisation_transfer_reads_the_test_scores_and_the_same_learning_rate():
    fresh = [training("t", 0, 0.8, [(0, 0.8)], grid=1.0), training("t", 0, 0.9, [(0, 0.9)], grid=3.0)]
    source, started = (
        training("s", 0, 0.9, [(0, 0.9)], grid=1.0),
        training("t", 0, 0.85, [(0, 0.85)], start="s", grid=1.0),
    )
    read = [
        record("t", "t", 0, 0.70, spec={"grid": 1.0}),
        record("t", "t", 0, 0.99, spec={"grid": 3.0}),
        record("t", "t", 0, 0.99, spec={"grid": None}),
        record("t", "t", 0, 0.75, spec={"grid": 1.0, "start": "s"}),
    ]
    found = transfer.initialisation_transfer([*fresh, source, started, *read], "lora")
    assert found.lift()[0, 0, 0] == pytest.approx(0.05)
    assert found.lift_on_test()[0, 0, 0] == pytest.approx(0.05)


def test_the_evaluations_of_a_study_with_one_learning_rate_name_no_grid_and_are_read():
    given = [training("t", 0, 0.8, [(0, 0.8)], grid=1.0), training("s", 0, 0.9, [(0, 0.9)], grid=1.0)]
    given += [training("t", 0, 0.85, [(0, 0.85)], start="s", grid=1.0)]
    read = [record("t", "t", 0, 0.7, spec={"grid": None}), record("t", "t", 0, 0.8, spec={"grid": None, "start": "s"})]
    found = transfer.initialisation_transfer([*given, *read], "lora")
    assert found.lift_on_test()[0, 0, 0] == pytest.approx(0.1)


def test_a_later_stage_started_where_its_earlier_stage_did():
    both = {"composition": "lora >> bitfit", "stage": 1}
    first = training("t", 0, 0.8, [(0, 0.8)], start="s", key="first")
    later = training("t", 0, 0.9, [(0, 0.7), (5, 0.9)], key="later", parents=["first"], **both)
    alone = training("t", 0, 0.7, [(0, 0.6), (9, 0.7)], key="alone", **both)
    found = transfer.initialisation_transfer([training("s", 0, 0.9, []), first, later, alone], "lora >> bitfit")
    assert found.sources == ("s",)
    assert found.lift()[0, 0, 0] == pytest.approx(0.2)
    assert found.saved()[0, 0, 0] == 1


def test_a_start_that_never_reaches_the_own_score_saves_nothing_and_is_said_not_to_reach_it():
    fresh = training("t", 0, 0.8, [(0, 0.5), (100, 0.8)])
    slow = training("t", 0, 0.7, [(0, 0.6), (100, 0.7)], start="t0None{}")
    found = transfer.initialisation_transfer([fresh, slow], "lora")
    assert not found.reached()[0, 0, 0]
    assert np.isnan(found.saved()[0, 0, 0])
    assert found.lift()[0, 0, 0] == pytest.approx(-0.1)


def test_initialisation_transfer_refuses_what_is_not_there():
    fresh = training("t", 0, 0.8, [(0, 0.5)])
    with pytest.raises(BadInput, match="no training of 'lora' started from"):
        transfer.initialisation_transfer([fresh], "lora")
    with pytest.raises(BadInput, match="no start 'u'"):
        transfer.initialisation_transfer([fresh, training("t", 0, 0.8, [], start="u")], "lora")
    started = training("t", 0, 0.8, [], start="t")
    with pytest.raises(BadInput, match=r"two trainings of 'lora' for one cell \(0, t, t\)"):
        transfer.initialisation_transfer([fresh, started, {**started, "key": "other"}], "lora")


def test_the_effect_of_a_stack_is_the_difference_of_corrected_values():
    generator = np.random.default_rng(0)
    alone = matrix(generator.uniform(0.7, 1, (3, 4, 4)), composition="lora")
    stack = matrix(generator.uniform(0.7, 1, (3, 4, 4)), composition="prompt + lora")
    found = transfer.stack_effect(stack.selected("cbda", "cbda"), alone)
    np.testing.assert_allclose(found.values, stack.corrected() - alone.corrected())
    off = alone.off_diagonal
    assert found.mean is not None
    assert found.mean.value == pytest.approx(found.values[:, off].mean())
    assert found.mean.low < found.mean.value < found.mean.high
    assert "the interval accounts for seeds only" in found.limitations


def test_the_effect_of_a_stack_is_sure_for_new_examples_too_where_they_are_known():
    stack, alone = (with_examples(np.full((3, 3), level), seeds=3, seed=k) for k, level in enumerate((0.9, 0.8)))
    found = transfer.stack_effect(dataclasses.replace(stack, composition="prompt + lora"), alone)
    assert found.mean.covers == "seeds and examples"
    assert not any("the interval accounts for" in sentence for sentence in found.limitations)
    seeds = transfer.stack_effect(stack, dataclasses.replace(alone, examples={})).mean
    assert seeds.covers == "seeds"
    assert found.mean.high - found.mean.low >= seeds.high - seeds.low
    fewer = transfer.stack_effect(stack.selected("abc", "abc", (0, 2)), alone.selected("ab", "abc"))
    assert fewer.mean.covers == "seeds and examples"


def test_examples_that_a_stack_shares_with_its_part_cancel():
    one = with_examples(np.full((3, 3), 0.8), seeds=3)
    found = transfer.stack_effect(one, one)
    assert found.mean.covers == "nothing"
    assert any("no interval: there is no spread" in sentence for sentence in found.limitations)


def test_stacks_with_nothing_in_common_are_refused_and_partial_overlap_is_said():
    one, other = matrix([[0.9, 0.6], [0.6, 0.9]]), matrix([[0.9, 0.6], [0.6, 0.9]], seeds=(7,))
    with pytest.raises(BadInput, match="no sources, targets or seeds in common"):
        transfer.stack_effect(one, other)
    with pytest.raises(BadInput, match="two backbones"):
        transfer.stack_effect(one, matrix([[0.9]], backbone="g"))
    assert any(
        "sources in one of the two only are not compared: b" in text
        for text in transfer.stack_effect(one, matrix([[0.9]])).limitations
    )

"""Studies: YAML and Python say the same, and what is wrong in a file is said in one sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltacompose.errors import BadInput
from deltacompose.study import BackboneChoice, Cell, Rows, Study
from deltacompose.study.recipe import Recipe

names = st.lists(st.text("abcdefgh_", min_size=1, max_size=8), min_size=1, max_size=4, unique=True).map(tuple)
recipes = st.builds(
    Recipe,
    steps=st.integers(0, 1000),
    learning_rates=st.dictionaries(st.sampled_from(["lora", "prompt"]), st.floats(1e-6, 1)),
    warmup=st.floats(0, 1),
    keep=st.sampled_from(["best", "last"]),
)
studies = st.builds(
    Study,
    name=st.text(min_size=1, max_size=20),
    tasks=names,
    compositions=names,
    backbone=st.builds(
        BackboneChoice, dtype=st.sampled_from(["float32", "bfloat16"]), table=st.sampled_from([None, "t5"])
    ),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True).map(tuple),
    training=recipes,
    stages=st.sampled_from([(), ({"steps": 3},)]),
    rows=st.builds(Rows, train=st.one_of(st.none(), st.integers(1, 9))),
    grid=st.sampled_from([(1.0,), (0.5, 1.0)]),
    transfer=st.booleans(),
)


@given(studies)
def test_a_study_that_is_written_reads_as_itself(tmp_path_factory, study):
    path = tmp_path_factory.mktemp("studies") / "study.yaml"
    study.write(path)
    assert Study.read(path) == study


def test_a_file_and_python_give_the_same_study(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "# why?\nname: a\ntasks: [x, y]\ncompositions: [lora >> bitfit]\nseeds: [1]\ntraining: {steps: 3}\n"
    )
    assert Study.read(path) == Study("a", ["x", "y"], ["lora >> bitfit"], seeds=[1], training=Recipe(steps=3))


def test_stages_change_what_the_recipe_of_a_stage_says():
    study = Study("a", ("x",), ("a >> b",), training=Recipe(steps=9, batch=4), stages=({}, {"steps": 3}))
    assert study.recipe(0) == Recipe(steps=9, batch=4)
    assert study.recipe(1) == Recipe(steps=3, batch=4)
    assert study.recipe(2) == study.recipe(0)


def test_a_key_depends_on_everything_but_the_cost():
    cell = Cell("train", {"a": 1}, ("x",))
    assert cell.key == Cell("train", {"a": 1}, ("x",), cost=3.0).key
    others = [Cell("evaluate", {"a": 1}, ("x",)), Cell("train", {"a": 2}, ("x",)), Cell("train", {"a": 1})]
    assert len({cell.key, *(other.key for other in others)}) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "the key 'name' stands twice"),
        ("name: a\ncompositions: [x]", "tasks is missing"),
        ("name: a\ntasks: []\ncompositions: [x]", "tasks: .*at least 1 item"),
        ("name: a\ntasks: [x]\ncompositions: [x]\nseeds: [one]", "seeds.0: 'one': input should be a valid integer"),
        ("name: a\ntasks: [x]\ncompositions: [x]\ntraining: {warmup: 1e-3}", "YAML reads 1e-3 as text; write 1.0e-3"),
        ("name: a\ntasks: [x]\ncompositions: [x]\nsteps: 3", "no field 'steps'; did you mean 'stages'. fields: .*name"),
        ("name: a\ntasks: [x, x]\ncompositions: [x]", "tasks has x twice"),
        ("name: a\ntasks: [x]\ncompositions: [x]\ntraining: {stesp: 4}", "no field 'training.stesp'"),
        ("name: 2020-01-01\ntasks: [x]\ncompositions: [x]", "quote dates"),
        ("name: a\ntasks: [x]\ncompositions: [x]\ntransfer: 'no'", "transfer: 'no': input should be a valid boolean"),
        ("name: a\ntasks: [x]\ncompositions: [x]\nfolder: /", "not written in it"),
        ("- a", "does not hold a study"),
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        Study.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_stage_setting_are_sentences(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        Study.read(tmp_path / "none.yaml")
    with pytest.raises(BadInput, match=r"stages\[0\] has no setting 'step'; it has steps"):
        Study("a", ("x",), ("y",), stages=({"step": 3},)).recipe(0)
